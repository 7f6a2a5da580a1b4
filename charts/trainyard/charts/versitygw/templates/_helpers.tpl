{{- define "versitygw.fullname" -}}
{{ .Values.fullnameOverride | default (printf "%s-versitygw" .Release.Name) }}
{{- end }}

{{- define "versitygw.namespace" -}}
{{ .Values.namespace | default .Release.Namespace }}
{{- end }}

{{/* Where clients in the cluster find it. Params: the chart's root context */}}
{{- define "versitygw.url" -}}
http://{{ include "versitygw.fullname" . }}.{{ include "versitygw.namespace" . }}.svc:{{ .Values.service.port }}
{{- end }}
