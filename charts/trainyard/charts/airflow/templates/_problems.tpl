{{/* What the schema cannot say of this chart's values, one line each. Params: the chart's root context */}}
{{- define "airflow.problems" -}}
{{- $problems := list }}
{{- with include "airflow.officialProblems" . }}
{{- $problems = concat $problems (splitList "\n" .) }}
{{- end }}
{{- if contains "trainyard.importer" (.Values.airflowLocalSettings | default "") }}
{{- $problems = append $problems "airflow.airflowLocalSettings: trainyard.importer is gone; remove it: the image registers the importer itself" }}
{{- end }}
{{- with .Values.podTemplate }}
{{- if ne (tpl . $ | fromYaml).kind "Pod" }}
{{- $problems = append $problems "airflow.podTemplate: is not a Pod in YAML" }}
{{- end }}
{{- end }}
{{- range $index, $port := .Values.apiServer.service.ports }}
{{- if not (regexMatch "^[1-9][0-9]{0,4}$" (tpl (include "common.text" $port.port) $)) }}
{{- $problems = append $problems (printf "airflow.apiServer.service.ports.%d.port: %v is not the number of a port; give one, or a template that makes one" $index $port.port) }}
{{- end }}
{{- end }}
{{- if and .Values.ingress.apiServer.enabled (not (include "airflow.ingressHosts" . | fromJsonArray)) }}
{{- $problems = append $problems "airflow.ingress.apiServer.hosts: needed where airflow.ingress.apiServer.enabled is true; give the names under which people reach the pages" }}
{{- end }}
{{- with .Values.apiServer }}
{{- if and .apiServerConfig .apiServerConfigConfigMapName }}
{{- $problems = append $problems "airflow.apiServer.apiServerConfigConfigMapName: apiServerConfig makes a ConfigMap of its own; leave one of them empty" }}
{{- end }}
{{- if gt (int .hpa.minReplicaCount) (int .hpa.maxReplicaCount) }}
{{- $problems = append $problems (printf "airflow.apiServer.hpa.minReplicaCount: %v is over maxReplicaCount %v; lower it" .hpa.minReplicaCount .hpa.maxReplicaCount) }}
{{- end }}
{{- end }}
{{- with include "airflow.extraProblems" . }}
{{- $problems = concat $problems (splitList "\n" .) }}
{{- end }}
{{- if not .Values.apiServer.service.ports }}
{{- $problems = append $problems "airflow.apiServer.service.ports: is empty, and workers need the api-server; add {name: api-server, port: 8080}" }}
{{- end }}
{{- if gt (int .Values.scheduler.replicas) 1 }}
{{- $problems = append $problems (printf "airflow.scheduler.replicas: %v schedulers with KubernetesExecutor leave stale worker pods (apache/airflow#69760); set 1" .Values.scheduler.replicas) }}
{{- end }}
{{- with include "airflow.dagProblems" . }}
{{- $problems = concat $problems (splitList "\n" .) }}
{{- end }}
{{- with include "airflow.volumeProblems" . }}
{{- $problems = concat $problems (splitList "\n" .) }}
{{- end }}
{{- $problems | join "\n" }}
{{- end }}
