{{/* The Secrets that the bootstrap Job makes where they are missing: name -> key -> how its value comes about
     ({generate: password|fernet}, {value: ...}, or {template: text with {secret/key} in it}).
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
{{- end }}
