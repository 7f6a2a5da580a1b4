{{- define "postgresql.fullname" -}}
{{ .Values.fullnameOverride | default (printf "%s-postgresql" .Release.Name) }}
{{- end }}

{{/* What follows the repository where the values name neither a tag nor a digest. Params: the chart's root context */}}
{{- define "postgresql.imageVersion" -}}
{{ .Chart.AppVersion }}@{{ index .Chart.Annotations "trainyard.dev/image-digest" }}
{{- end }}
