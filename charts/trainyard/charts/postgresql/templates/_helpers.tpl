{{- define "postgresql.fullname" -}}
{{ .Values.fullnameOverride | default (printf "%s-postgresql" .Release.Name) }}
{{- end }}
