{{/* What an umbrella chart adds to the pods: it defines these templates again, and Helm takes the parent chart's
     definition. Each is a YAML list. Values stay the users': no list in an overlay can drop what comes from here.
     Params: root, name (api-server, scheduler, dag-processor, triggerer, worker, migrate-database,
     database-cleanup or what the umbrella itself runs) */}}
{{- define "airflow.platformEnv" -}}
[]
{{- end }}

{{- define "airflow.platformVolumes" -}}
[]
{{- end }}

{{- define "airflow.platformVolumeMounts" -}}
[]
{{- end }}
