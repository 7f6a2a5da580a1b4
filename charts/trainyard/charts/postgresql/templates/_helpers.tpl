{{- define "postgresql.fullname" -}}
{{ include "common.fullname" (dict "root" . "suffix" "-postgresql" "max" 52) }}
{{- end }}

{{/* The Secret with the passwords. Params: the chart's root context */}}
{{- define "postgresql.secretName" -}}
{{ .Values.auth.secretName | default (include "postgresql.fullname" .) }}
{{- end }}

{{/* What follows the repository where the values name neither a tag nor a digest. Params: the chart's root context */}}
{{- define "postgresql.imageVersion" -}}
{{ .Chart.AppVersion }}@{{ index .Chart.Annotations "trainyard.dev/image-digest" }}
{{- end }}
