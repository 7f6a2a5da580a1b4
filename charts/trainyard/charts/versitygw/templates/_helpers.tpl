{{- define "versitygw.fullname" -}}
{{ include "common.fullname" (dict "root" . "suffix" "-versitygw" "max" 63) }}
{{- end }}

{{/* The Secret with the account's keys. Params: the chart's root context */}}
{{- define "versitygw.secretName" -}}
{{ .Values.auth.secretName | default (include "versitygw.fullname" .) }}
{{- end }}

{{/* Where clients in the cluster find it. Params: root, namespace */}}
{{- define "versitygw.url" -}}
http://{{ include "versitygw.fullname" .root }}.{{ .namespace }}.svc:{{ .root.Values.service.port }}
{{- end }}
