{{/* The Secrets that the bootstrap Job makes where they are missing: name -> key -> how its value comes about
     ({generate: password|fernet, credential: what ./scripts/rotate calls it}, {value: ...}, or {template: text with
     {secret/key} in it}). The name of one in another namespace than the release's is namespace/name. JSON.
     Params: the root context */}}
{{- define "trainyard.wantedSecrets" -}}
{{- $wanted := dict }}
{{- range include "trainyard.wantedKeys" . | fromJsonArray }}
{{- $_ := set $wanted .secret (set (get $wanted .secret | default dict) .key .recipe) }}
{{- end }}
{{- toJson $wanted }}
{{- end }}

{{/* The same as a list of {secret, key, recipe, by}: `by` is the values key that names the Secret. JSON.
     Params: the root context */}}
{{- define "trainyard.wantedKeys" -}}
{{- $kept := list }}
{{- if .Values.secrets.bootstrap.enabled }}
{{- range include "trainyard.ownKeys" . | fromJsonArray }}
{{- if not (has .secret $.Values.secrets.external) }}{{ $kept = append $kept . }}{{ end }}
{{- end }}
{{- end }}
{{- toJson $kept }}
{{- end }}

{{/* The same with those of Secrets that come from elsewhere. */}}
{{- define "trainyard.ownKeys" -}}
{{- include "common.list" (dict "params" . "templates" (list
    "trainyard.wantedAirflowKeys" "trainyard.wantedDatabaseKeys" "trainyard.wantedLoginKeys" "trainyard.wantedObjectStoreKeys"
    "trainyard.wantedAccountKeys")) }}
{{- end }}

{{/* Where two things are to be the same key of the same Secret, one line each. Params: the root context */}}
{{- define "trainyard.wantedSecretProblems" -}}
{{- $problems := list }}
{{- $taken := dict }}
{{- range include "trainyard.wantedKeys" . | fromJsonArray }}
{{- $place := printf "%s/%s" .secret .key }}
{{- if hasKey $taken $place }}
{{- $problems = append $problems (printf "%s: the key %s of the Secret %s is that of %s already; name another Secret" .by .key .secret (get $taken $place)) }}
{{- end }}
{{- $_ := set $taken $place .by }}
{{- end }}
{{- $problems | join "\n" }}
{{- end }}

{{/* Airflow's keys, and its first user. */}}
{{- define "trainyard.wantedAirflowKeys" -}}
{{- $keys := list }}
{{- if .Values.airflow.enabled }}
{{- $airflow := .Subcharts.airflow }}
{{- $admin := include "trainyard.adminSecretName" . }}
{{- $api := include "airflow.apiSecret" $airflow | fromJson }}
{{- $keys = list
    (dict "by" "airflow.fernetKeySecretName" "secret" (include "airflow.fernetKeySecretName" $airflow) "key" "fernet-key" "recipe" (dict "generate" "fernet" "credential" "fernet-key"))
    (dict "by" "airflow.jwtSecretName" "secret" (include "airflow.jwtSecretName" $airflow) "key" "jwt-secret" "recipe" (dict "generate" "password" "credential" "jwt"))
    (dict "by" "airflow.apiSecretKeySecretName" "secret" $api.secret "key" $api.key "recipe" (dict "generate" "password" "credential" "sessions"))
    (dict "by" "secrets.admin.secretName" "secret" $admin "key" "username" "recipe" (dict "value" .Values.secrets.admin.username))
    (dict "by" "secrets.admin.secretName" "secret" $admin "key" "password" "recipe" (dict "generate" "password")) }}
{{- end }}
{{- toJson $keys }}
{{- end }}

{{/* Where a database of the embedded server is, and whose. JSON. Params: root, name (of the database) */}}
{{- define "trainyard.embeddedDatabase" -}}
{{- $postgresql := .root.Subcharts.postgresql }}
{{- dict "host" (printf "%s.%s.svc" (include "postgresql.fullname" $postgresql) .root.Release.Namespace) "port" 5432 "db" .name "user" .name | toJson }}
{{- end }}

{{/* Of the embedded database: its passwords, and the URLs of those who use it. */}}
{{- define "trainyard.wantedDatabaseKeys" -}}
{{- $keys := list }}
{{- if .Values.postgresql.enabled }}
{{- $postgresql := .Subcharts.postgresql }}
{{- $secret := include "postgresql.secretName" $postgresql }}
{{- range prepend $postgresql.Values.auth.databases "postgres" }}
{{- $keys = append $keys (dict "by" "postgresql.auth.secretName" "secret" $secret "key" (printf "%s-password" .) "recipe" (dict "generate" "password" "credential" "database")) }}
{{- end }}
{{- $url := "postgresql+psycopg2://%[1]s:{%[2]s/%[1]s-password}@%[3]s/%[1]s" }}
{{- $database := include "trainyard.embeddedDatabase" (dict "root" . "name" "airflow") | fromJson }}
{{- $address := printf "%s:%v" $database.host $database.port }}
{{- if and .Values.airflow.enabled (not ((.Values.airflow.data).metadataConnection).host) }}
{{- $keys = append $keys (dict "by" "airflow.data.metadataSecretName" "secret" (include "airflow.metadataSecretName" .Subcharts.airflow) "key" "connection" "recipe" (dict "template" (printf $url "airflow" $secret $address))) }}
{{- end }}
{{- if and .Values.airflow.enabled (include "airflow.pgbouncerSecretIsMade" .Subcharts.airflow) }}
{{- $password := printf "{%s/%s-password}" $secret $database.user }}
{{- $name := include "airflow.pgbouncerLoginSecretName" .Subcharts.airflow }}
{{- $keys = concat $keys (list
    (dict "by" "airflow.pgbouncer.enabled" "secret" $name "key" "login" "recipe" (dict "template" (printf "%s:%s" $database.user $password)))
    (dict "by" "airflow.pgbouncer.enabled" "secret" $name "key" "users.txt" "recipe" (dict "template" (include "airflow.pgbouncerUsers" (dict "user" $database.user "password" $password))))) }}
{{- end }}
{{- if .Values.mlflow.enabled }}
{{- $mlflow := .Subcharts.mlflow }}
{{- $keys = append $keys (dict "by" "mlflow.backendStore.secretName" "secret" (include "mlflow.backendSecretName" $mlflow) "key" $mlflow.Values.backendStore.secretKey "recipe" (dict "template" (printf $url "mlflow" $secret $address))) }}
{{- end }}
{{- end }}
{{- toJson $keys }}
{{- end }}

{{/* Of MLflow's login: the accounts' names and passwords, and for those who use one the file of MLflow's clients, in their
     namespace. */}}
{{- define "trainyard.wantedLoginKeys" -}}
{{- $keys := list }}
{{- if and .Values.mlflow.enabled (.Values.mlflow.auth).enabled }}
{{- $mlflow := .Subcharts.mlflow }}
{{- $session := include "mlflow.sessionSecretName" $mlflow }}
{{- $keys = append $keys (dict "by" "mlflow.auth.enabled" "secret" $session "key" "secret-key" "recipe" (dict "generate" "password" "credential" "sessions")) }}
{{- $users := include "trainyard.mlflowUsers" . | fromJson }}
{{- range $account, $_ := include "mlflow.accounts" $mlflow | fromJson }}
{{- $by := printf "mlflow.auth.people.%s" $account }}
{{- $secret := include "mlflow.accountSecretName" (dict "root" $mlflow "account" $account) }}
{{- $keys = concat $keys (list
    (dict "by" $by "secret" $secret "key" "username" "recipe" (dict "value" $account))
    (dict "by" $by "secret" $secret "key" "password" "recipe" (dict "generate" "password" "credential" "mlflow"))) }}
{{- range get $users $account | default list }}
{{- $file := printf "[mlflow]\nmlflow_tracking_username = %s\nmlflow_tracking_password = {%s/password}\n" $account $secret }}
{{- $keys = append $keys (dict "by" $by "secret" . "key" "credentials" "recipe" (dict "template" $file)) }}
{{- end }}
{{- end }}
{{- end }}
{{- toJson $keys }}
{{- end }}

{{/* Which accounts of MLflow are used by pods, and the Secrets with their files: account -> a list of names. That of training
     pods has the same name in each namespace, whichever account they have there. JSON. Params: the root context */}}
{{- define "trainyard.mlflowUsers" -}}
{{- $mlflow := .Subcharts.mlflow }}
{{- $places := list (dict "account" "admin" "namespace" .Release.Namespace)
    (dict "account" "promoter" "namespace" (include "trainyard.airflowNamespace" .) "name" (include "trainyard.mlflowPromoterSecretName" .)) }}
{{- $trainer := include "mlflow.accountSecretName" (dict "root" $mlflow "account" "trainer") }}
{{- range include "trainyard.trainingNamespaces" . | fromJsonArray }}
{{- $places = append $places (dict "account" (include "trainyard.mlflowTrainer" .team) "namespace" .values.namespace "name" $trainer) }}
{{- end }}
{{- if .Values.serving.enabled }}{{ $places = append $places (dict "account" "serving" "namespace" .Values.serving.namespace) }}{{ end }}
{{- $users := dict }}
{{- range $places }}
{{- $name := .name | default (include "mlflow.accountSecretName" (dict "root" $mlflow "account" .account)) }}
{{- $_ := set $users .account (list (ternary $name (printf "%s/%s" .namespace $name) (eq .namespace $.Release.Namespace))) }}
{{- end }}
{{- toJson $users }}
{{- end }}

{{/* Of the embedded object store: its account, and Airflow's connection to it, in Airflow's namespace. */}}
{{- define "trainyard.wantedObjectStoreKeys" -}}
{{- $keys := list }}
{{- if .Values.versitygw.enabled }}
{{- $versitygw := .Subcharts.versitygw }}
{{- $store := include "trainyard.versitygwNamespace" . }}
{{- $secret := printf "%s/%s" $store (include "versitygw.secretName" $versitygw) }}
{{- $connection := dict "conn_type" "aws"
    "login" (printf "{%s/access-key}" $secret)
    "password" (printf "{%s/secret-key}" $secret)
    "extra" (dict "endpoint_url" (include "versitygw.url" (dict "root" $versitygw "namespace" $store)) "region_name" "us-east-1") }}
{{- $name := include "trainyard.s3ConnectionSecretName" . }}
{{- $namespace := include "trainyard.airflowNamespace" . }}
{{- if ne $namespace .Release.Namespace }}{{ $name = printf "%s/%s" $namespace $name }}{{ end }}
{{- $keys = list
    (dict "by" "versitygw.auth.secretName" "secret" $secret "key" "access-key" "recipe" (dict "value" "trainyard"))
    (dict "by" "versitygw.auth.secretName" "secret" $secret "key" "secret-key" "recipe" (dict "generate" "password" "credential" "object-store"))
    (dict "by" "versitygw.enabled" "secret" $name "key" "connection" "recipe" (dict "template" (toJson $connection))) }}
{{- end }}
{{- toJson $keys }}
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
