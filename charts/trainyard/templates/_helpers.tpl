{{/* Where training pods find MLflow. Params: the root context */}}
{{- define "trainyard.trackingUri" -}}
{{- if .Values.training.trackingUri -}}
{{ .Values.training.trackingUri }}
{{- else if .Values.mlflow.enabled -}}
{{- $mlflow := .Subcharts.mlflow -}}
http://{{ include "mlflow.fullname" $mlflow }}.{{ .Release.Namespace }}.svc.cluster.local:{{ $mlflow.Values.service.port }}
{{- end -}}
{{- end }}

{{/* Taints of a GPU pool's nodes: two that every pool derives, then its own. Returns {taints: [...]}. Params: pool */}}
{{- define "trainyard.poolTaints" -}}
taints:
  - {key: nvidia.com/gpu, value: present, effect: NoSchedule}
  {{- if .pool.spot }}
  - {key: trainyard.dev/spot, value: "true", effect: NoSchedule}
  {{- end }}
  {{- with .pool.taints }}{{ toYaml . | nindent 2 }}{{ end }}
{{- end }}

{{/* A GPU pool as DAGs need it. Params: name, pool */}}
{{- define "trainyard.poolPlacement" -}}
airflowPool: gpu-{{ .name }}
resourceName: {{ .pool.resourceName }}
gpusPerNode: {{ .pool.gpusPerNode }}
gpuType: {{ .pool.gpuType }}
spot: {{ .pool.spot }}
costPerGpuHour: {{ .pool.costPerGpuHour }}
nodeSelector:
  trainyard.dev/pool: {{ .name }}
  {{- with .pool.labels }}{{ toYaml . | nindent 2 }}{{ end }}
tolerations:
  {{- range (include "trainyard.poolTaints" . | fromYaml).taints }}
  - {key: {{ .key }}, operator: Equal, value: {{ .value | default "" | quote }}, effect: {{ .effect }}}
  {{- end }}
{{- end }}

{{/* platform.json: what the DAG library knows of the cluster, and the only place it knows it from.
     Params: the root context */}}
{{- define "trainyard.platform" -}}
{{- $training := .Values.training -}}
training:
  namespace: {{ $training.namespace }}
  serviceAccountName: {{ $training.serviceAccountName }}
  image: {{ include "common.image" (dict "key" "training.image" "image" $training.image) }}
  imagePullPolicy: {{ $training.image.pullPolicy }}
  imagePullSecrets: {{ toJson $training.imagePullSecrets }}
  trackingUri: {{ include "trainyard.trackingUri" . }}
  trackingUiUrl: {{ $training.trackingUiUrl | quote }}
  gpuDevice: {{ $training.gpuDevice }}
  priorityClassName: {{ $training.priorityClassName }}
  spotPriorityClassName: {{ $training.spotPriorityClassName }}
  checkpointFreq: {{ $training.checkpointFreq }}
  keepFailedPods: {{ $training.keepFailedPods }}
  resources: {{ toJson $training.resources }}
  podSecurityContext: {{ toJson $training.podSecurityContext }}
  containerSecurityContext: {{ toJson $training.containerSecurityContext }}
  volumes:
    {{- range $name, $volume := $training.volumes }}
    {{ $name }}: {claimName: {{ $volume.claimName }}, mountPath: {{ $volume.mountPath }}}
    {{- end }}
{{- with .Values.serving }}
{{- if .enabled }}
serving: {{ pick . "namespace" "serviceAccountName" "replicas" "port" "priorityClassName" "resources" | toJson }}
{{- end }}
{{- end }}
{{- include "trainyard.maintenance" . }}
{{- if .Values.openlineage.url }}
openlineage: {{ toJson .Values.openlineage }}
{{- end }}
pools:
  {{- range $name, $pool := .Values.gpuPools }}
  {{ $name }}: {{- include "trainyard.poolPlacement" (dict "name" $name "pool" $pool) | nindent 4 }}
  {{- end }}
{{- end }}

{{/* What the DAG `maintenance` may start: the names of CronJobs, one where it is made. Params: the root context */}}
{{- define "trainyard.maintenance" -}}
{{- $cronJobs := dict }}
{{- if and .Values.airflow.enabled (.Values.airflow.databaseCleanup).enabled }}
{{- $_ := set $cronJobs "airflowDatabase" (include "airflow.databaseCleanupName" .Subcharts.airflow) }}
{{- end }}
{{- if and .Values.mlflow.enabled (.Values.mlflow.garbageCollection).enabled }}
{{- $_ := set $cronJobs "mlflowGarbage" (include "mlflow.garbageCollectionName" .Subcharts.mlflow) }}
{{- end }}
{{- with $cronJobs }}
maintenance: {{ toJson (dict "namespace" $.Release.Namespace "cronJobs" .) }}
{{- end }}
{{- end }}

{{/* Airflow pools, one for each GPU pool: as many slots as it can have GPUs. A task that waits in the triggerer
     holds its slot, or pools would not cap GPUs. Params: the root context */}}
{{- define "trainyard.airflowPools" -}}
{{- range $name, $pool := .Values.gpuPools }}
- name: gpu-{{ $name }}
  slots: {{ mul $pool.gpusPerNode $pool.nodes.max }}
  description: {{ printf "GPUs (%s) of the node pool %s" $pool.gpuType $name | quote }}
  include_deferred: true
{{- end }}
{{- end }}

{{/* A small Job of the platform that runs one script with Airflow's image, named after all that it runs.
     Params: root, name, script (in files/), env (a list), serviceAccountName, token (mount it?) */}}
{{- define "trainyard.scriptJob" -}}
{{- $root := .root -}}
{{- $airflow := $root.Subcharts.airflow -}}
{{- $script := $root.Files.Get (printf "files/%s" .script) -}}
{{- $pod := include "trainyard.scriptPod" . -}}
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ .name }}-{{ printf "%s%s" $pod $script | sha256sum | trunc 8 }}
  namespace: {{ $root.Release.Namespace }}
  labels: {{- include "common.labels" (dict "root" $root "component" .name) | nindent 4 }}
spec:
  backoffLimit: 6
  template: {{- $pod | nindent 4 }}
{{- end }}

{{- define "trainyard.scriptPod" -}}
{{- $airflow := .root.Subcharts.airflow -}}
metadata:
  labels: {{- include "common.podLabels" (dict "root" .root "component" .name) | nindent 4 }}
spec:
  restartPolicy: OnFailure
  serviceAccountName: {{ .serviceAccountName }}
  automountServiceAccountToken: {{ .token }}
  enableServiceLinks: false
  securityContext: {{- toYaml $airflow.Values.securityContexts.pod | nindent 4 }}
  {{- with include "common.imagePullSecrets" $airflow.Values.imagePullSecrets | trim }}{{ . | nindent 2 }}{{ end }}
  {{- with include "common.scheduling" (dict "priorityClassName" .root.Values.scriptJobs.priorityClassName
      "nodeSelector" $airflow.Values.nodeSelector "tolerations" $airflow.Values.tolerations) | trim }}{{ . | nindent 2 }}{{ end }}
  containers:
    - name: script
      image: {{ include "airflow.image" $airflow }}
      imagePullPolicy: {{ $airflow.Values.images.airflow.pullPolicy }}
      command: [python, /scripts/{{ .script }}]
      securityContext: {{- toYaml $airflow.Values.securityContexts.containers | nindent 8 }}
      resources: {{- toYaml .root.Values.scriptJobs.resources | nindent 8 }}
      env: {{- toYaml .env | nindent 8 }}
      volumeMounts:
        - {name: scripts, mountPath: /scripts, readOnly: true}
  volumes:
    - name: scripts
      configMap: {name: trainyard-platform-scripts}
{{- end }}
