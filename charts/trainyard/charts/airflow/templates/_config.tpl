{{/* airflow.cfg and the local settings. Params: the chart's root context */}}
{{- define "airflow.configData" -}}
airflow.cfg: |
  {{- $config := merge (deepCopy .Values.config) (dict "dag_processor" dict) }}
  {{- with include "airflow.metricsConfig" . | fromJson }}{{ $_ := set $config "metrics" . }}{{ end }}
  {{- range $section, $options := $config }}
  [{{ $section | include "common.scalar" }}]
  {{- range $option, $value := $options }}
  {{- /* Null is Airflow's own default. */}}
  {{- if kindIs "invalid" $value }}{{ continue }}{{ end }}
  {{ $option }} = {{ include "common.made" (dict "root" $ "text" $value) | trim | replace "\n" "\n    " }}
  {{- end }}
  {{- if eq $section "dag_processor" }}
  {{- with include "airflow.dagBundleConfigList" $ }}
  dag_bundle_config_list = {{ replace "%" "%%" . }}
  {{- end }}
  {{- end }}
  {{- end }}
{{- with .Values.airflowLocalSettings }}
{{ dict "airflow_local_settings.py" (tpl . $) | toYaml }}
{{- end }}
{{- if .Values.pgbouncer.enabled }}
{{ (.Files.Glob "files/pgbouncer/*.py").AsConfig }}
{{- end }}
{{- end }}

{{/* webserver_config.py. Params: the chart's root context */}}
{{- define "airflow.apiServerConfig" -}}
{{ tpl .Values.apiServer.apiServerConfig . }}
{{- end }}

{{/* The ConfigMap with it; nothing where there is none. Params: the chart's root context */}}
{{- define "airflow.apiServerConfigName" -}}
{{- if .Values.apiServer.apiServerConfig }}{{ include "airflow.fullname" . }}-api-server-config{{ else }}{{ .Values.apiServer.apiServerConfigConfigMapName }}{{ end }}
{{- end }}

{{/* Scripts the chart's own pods run. Params: the chart's root context */}}
{{- define "airflow.scriptsData" -}}
{{ (.Files.Glob "files/*.py").AsConfig }}
{{- end }}
