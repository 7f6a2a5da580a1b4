{{/* The Secrets that the bootstrap Job makes where they are missing: name -> key -> how its value comes about
     ({generate: password|fernet}, {value: ...}, or {template: text with {secret/key} in it}). The name of one in
     another namespace than the release's is namespace/name.
     Params: the root context */}}
{{- define "trainyard.wantedSecrets" -}}
{{- $airflow := .Values.airflow -}}
{{ $airflow.fernetKeySecretName }}: {fernet-key: {generate: fernet}}
{{ $airflow.jwtSecretName }}: {jwt-secret: {generate: password}}
{{ $airflow.apiSecretKeySecretName }}: {api-secret-key: {generate: password}}
{{ .Values.secrets.admin.secretName }}:
  username: {value: {{ .Values.secrets.admin.username }}}
  password: {generate: password}
{{- if .Values.postgresql.enabled }}
{{- $postgresql := .Subcharts.postgresql }}
{{- $secret := $postgresql.Values.auth.secretName }}
{{- $address := printf "%s.%s.svc:5432" (include "postgresql.fullname" $postgresql) .Release.Namespace }}
{{ $secret }}:
  postgres-password: {generate: password}
  airflow-password: {generate: password}
  mlflow-password: {generate: password}
{{ $airflow.data.metadataSecretName }}:
  connection: {template: "postgresql+psycopg2://airflow:{{ printf "{%s/airflow-password}" $secret }}@{{ $address }}/airflow"}
{{- if .Values.mlflow.enabled }}
{{ .Values.mlflow.backendStore.secretName }}:
  connection: {template: "postgresql+psycopg2://mlflow:{{ printf "{%s/mlflow-password}" $secret }}@{{ $address }}/mlflow"}
{{- end }}
{{- end }}
{{- if .Values.versitygw.enabled }}
{{- $versitygw := .Subcharts.versitygw }}
{{- $secret := printf "%s/%s" (include "versitygw.namespace" $versitygw) $versitygw.Values.auth.secretName }}
{{ $secret }}:
  access-key: {value: trainyard}
  secret-key: {generate: password}
{{ include "trainyard.s3ConnectionSecretName" . }}:
  connection:
    template: |-
      {"conn_type": "aws", "login": "{{ printf "{%s/access-key}" $secret }}", "password": "{{ printf "{%s/secret-key}" $secret }}",
      "extra": {"endpoint_url": "{{ include "versitygw.url" $versitygw }}", "region_name": "us-east-1"}}
{{- end }}
{{- end }}
