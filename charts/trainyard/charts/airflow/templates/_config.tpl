{{/* airflow.cfg, the worker pod's template and the local settings. Params: the chart's root context */}}
{{- define "airflow.configData" -}}
airflow.cfg: |
  {{- range $section, $options := .Values.config }}
  [{{ $section }}]
  {{- range $option, $value := $options }}
  {{ $option }} = {{ tpl (toString $value) $ }}
  {{- end }}
  {{- end }}
pod_template_file.yaml: |
  {{- tpl (.Values.podTemplate | default (.Files.Get "files/pod_template_file.yaml")) . | nindent 2 }}
{{- with .Values.airflowLocalSettings }}
airflow_local_settings.py: |
  {{- tpl . $ | nindent 2 }}
{{- end }}
{{- end }}

{{/* Scripts the chart's own pods run. Params: the chart's root context */}}
{{- define "airflow.scriptsData" -}}
{{ (.Files.Glob "files/*.py").AsConfig }}
{{- end }}
