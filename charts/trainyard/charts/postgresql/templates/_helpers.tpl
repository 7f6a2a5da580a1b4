{{- define "postgresql.fullname" -}}
{{ include "common.fullname" (dict "root" . "suffix" "-postgresql" "max" 52) }}
{{- end }}

{{/* The Secret with the passwords. Params: the chart's root context */}}
{{- define "postgresql.secretName" -}}
{{ .Values.auth.secretName | default (include "postgresql.fullname" .) }}
{{- end }}

{{/* What follows the repository where the values name neither a tag nor a digest. Params: the chart's root context */}}
{{- define "postgresql.imageVersion" -}}
{{ .Chart.AppVersion }}{{ with get (.Chart.Annotations | default dict) "trainyard.dev/image-digest" }}@{{ . }}{{ end }}
{{- end }}

{{/* The server's image. Params: the chart's root context */}}
{{- define "postgresql.image" -}}
{{ include "common.image" (dict "root" . "key" "postgresql.image" "image" .Values.image "version" (include "postgresql.imageVersion" .)) }}
{{- end }}

{{/* Arguments of a server that has a certificate, as a YAML list: who comes without TLS is refused. After the user's
     own, as the last one counts. Params: the chart's root context */}}
{{- define "postgresql.tlsArgs" -}}
{{- $settings := dict "ssl" "on" "ssl_cert_file" "tls.crt" "ssl_key_file" "tls.key" "hba_file" "pg_hba.conf" }}
{{- if .Values.tlsSecretName }}
{{- range $name, $value := $settings }}
- -c
- {{ $name }}={{ if ne $value "on" }}/etc/postgresql-tls/{{ end }}{{ $value }}
{{- end }}
{{- else }}
[]
{{- end }}
{{- end }}
