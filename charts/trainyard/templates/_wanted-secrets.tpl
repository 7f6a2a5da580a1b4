{{/* The Secrets that the bootstrap Job makes where they are missing: name -> key -> how its value comes about
     ({generate: password|fernet}, {value: ...}, or {template: text with {secret/key} in it}). The name of one in
     another namespace than the release's is namespace/name. JSON.
     Params: the root context */}}
{{- define "trainyard.wantedSecrets" -}}
{{- $wanted := include "trainyard.ownSecrets" . | fromJson }}
{{- range .Values.secrets.external }}{{ $wanted = omit $wanted . }}{{ end }}
{{- toJson $wanted }}
{{- end }}

{{/* The same with those that come from elsewhere. */}}
{{- define "trainyard.ownSecrets" -}}
{{- $wanted := dict }}
{{- $password := dict "generate" "password" }}
{{- if .Values.secrets.bootstrap.enabled }}
{{- if .Values.airflow.enabled }}
{{- $airflow := .Values.airflow }}
{{- $_ := set $wanted $airflow.fernetKeySecretName (dict "fernet-key" (dict "generate" "fernet")) }}
{{- $_ := set $wanted $airflow.jwtSecretName (dict "jwt-secret" $password) }}
{{- $_ := set $wanted $airflow.apiSecretKeySecretName (dict "api-secret-key" $password) }}
{{- with .Values.secrets.admin }}
{{- $_ := set $wanted .secretName (dict "username" (dict "value" .username) "password" $password) }}
{{- end }}
{{- end }}
{{- $wanted = merge $wanted (include "trainyard.wantedDatabaseSecrets" . | fromJson) (include "trainyard.wantedObjectStoreSecrets" . | fromJson) }}
{{- end }}
{{- toJson $wanted }}
{{- end }}

{{/* Of the embedded database: its passwords, and the URLs of those who use it. */}}
{{- define "trainyard.wantedDatabaseSecrets" -}}
{{- $wanted := dict }}
{{- if .Values.postgresql.enabled }}
{{- $postgresql := .Subcharts.postgresql }}
{{- $secret := $postgresql.Values.auth.secretName }}
{{- $address := printf "%s.%s.svc:5432" (include "postgresql.fullname" $postgresql) .Release.Namespace }}
{{- $passwords := dict }}
{{- range prepend $postgresql.Values.auth.databases "postgres" }}
{{- $_ := set $passwords (printf "%s-password" .) (dict "generate" "password") }}
{{- end }}
{{- $_ := set $wanted $secret $passwords }}
{{- $url := "postgresql+psycopg2://%[1]s:{%[2]s/%[1]s-password}@%[3]s/%[1]s" }}
{{- if .Values.airflow.enabled }}
{{- $_ := set $wanted .Values.airflow.data.metadataSecretName (dict "connection" (dict "template" (printf $url "airflow" $secret $address))) }}
{{- end }}
{{- if .Values.mlflow.enabled }}
{{- $store := .Values.mlflow.backendStore }}
{{- $_ := set $wanted $store.secretName (dict $store.secretKey (dict "template" (printf $url "mlflow" $secret $address))) }}
{{- end }}
{{- end }}
{{- toJson $wanted }}
{{- end }}

{{/* Of the embedded object store: its account, and Airflow's connection to it, in Airflow's namespace. */}}
{{- define "trainyard.wantedObjectStoreSecrets" -}}
{{- $wanted := dict }}
{{- if .Values.versitygw.enabled }}
{{- $versitygw := .Subcharts.versitygw }}
{{- $secret := printf "%s/%s" (include "versitygw.namespace" $versitygw) $versitygw.Values.auth.secretName }}
{{- $_ := set $wanted $secret (dict "access-key" (dict "value" "trainyard") "secret-key" (dict "generate" "password")) }}
{{- $connection := dict "conn_type" "aws"
    "login" (printf "{%s/access-key}" $secret)
    "password" (printf "{%s/secret-key}" $secret)
    "extra" (dict "endpoint_url" (include "versitygw.url" $versitygw) "region_name" "us-east-1") }}
{{- $name := include "trainyard.s3ConnectionSecretName" . }}
{{- $namespace := include "trainyard.airflowNamespace" . }}
{{- if ne $namespace .Release.Namespace }}{{ $name = printf "%s/%s" $namespace $name }}{{ end }}
{{- $_ := set $wanted $name (dict "connection" (dict "template" (toJson $connection))) }}
{{- end }}
{{- toJson $wanted }}
{{- end }}

{{/* Where Secrets are made: namespace -> the names of those that others are composed of, which are read. JSON.
     Params: root, wanted */}}
{{- define "trainyard.secretNamespaces" -}}
{{- $own := .root.Release.Namespace }}
{{- $namespaces := dict }}
{{- range $name, $keys := .wanted }}
{{- $namespace := ternary (dir $name) $own (contains "/" $name) }}
{{- if not (hasKey $namespaces $namespace) }}{{ $_ := set $namespaces $namespace list }}{{ end }}
{{- end }}
{{- range $keys := .wanted }}
{{- range $keys }}
{{- range regexFindAll "\\{([\\w.-]+/)?[\\w.-]+/[\\w.-]+\\}" (.template | default "") -1 }}
{{- $secret := trimAll "{}" . | dir }}
{{- $namespace := ternary (dir $secret) $own (contains "/" $secret) }}
{{- $_ := set $namespaces $namespace (append (get $namespaces $namespace | default list) (base $secret) | uniq) }}
{{- end }}
{{- end }}
{{- end }}
{{- toJson $namespaces }}
{{- end }}
