{{- define "mlflow.fullname" -}}
{{ include "common.fullname" (dict "root" . "suffix" "-mlflow" "max" 33) }}
{{- end }}

{{/* The Secret with the database's URL. Params: the chart's root context */}}
{{- define "mlflow.backendSecretName" -}}
{{ .Values.backendStore.secretName | default (printf "%s-backend" (include "mlflow.fullname" .)) }}
{{- end }}

{{/* The image; without a tag or digest, that of this chart's MLflow. Params: the chart's root context */}}
{{- define "mlflow.image" -}}
{{- include "common.image" (dict "root" . "key" "mlflow.image" "image" .Values.image "version" .Chart.AppVersion) -}}
{{- end }}

{{/* The CronJob that the DAG `maintenance` starts. Params: the chart's root context */}}
{{- define "mlflow.garbageCollectionName" -}}
{{ include "mlflow.fullname" . }}-garbage-collection
{{- end }}

{{- define "mlflow.artifactsClaim" -}}
{{ .Values.artifacts.persistence.existingClaim | default (printf "%s-artifacts" (include "mlflow.fullname" .)) }}
{{- end }}

{{/* Host headers that the server answers to: a comma-separated list of exact names, so that a page in a browser
     cannot reach it by DNS rebinding. Params: the chart's root context */}}
{{- define "mlflow.allowedHosts" -}}
{{- $name := include "mlflow.fullname" . -}}
{{- $service := printf "%s.%s" $name .Release.Namespace -}}
{{- $hosts := list $name $service (printf "%s.svc" $service) (printf "%s.svc.cluster.local" $service) "localhost" "127.0.0.1" -}}
{{- $all := list -}}
{{- range $hosts }}{{ $all = concat $all (list . (printf "%s:%d" . (int $.Values.service.port))) }}{{ end -}}
{{- with .Values.ingress }}{{ if .enabled }}{{ $all = append $all .host }}{{ end }}{{ end -}}
{{- concat $all .Values.allowedHosts | uniq | join "," -}}
{{- end }}
