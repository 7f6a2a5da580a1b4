{{/* Whether the reconciler runs: another Airflow's database is not ours to read. Params: the root context */}}
{{- define "trainyard.hasReconciler" -}}
{{- if and .Values.airflow.enabled .Values.reconciler.enabled }}true{{ end }}
{{- end }}

{{/* The ServiceAccount by which worker pods launch pods of Airflow's own Kubernetes operators; nothing where the chart
     makes none. Params: the root context */}}
{{- define "trainyard.podLauncher" -}}
{{- if and .Values.stockOperators.enabled .Values.airflow.enabled .Values.airflow.rbac.create -}}
{{ include "airflow.serviceAccountName" (dict "root" .Subcharts.airflow "name" "stock-operators" "serviceAccount" dict) }}
{{- end -}}
{{- end }}

{{/* Where training pods find MLflow. Params: the root context */}}
{{- define "trainyard.trackingUri" -}}
{{- if .Values.training.trackingUri -}}
{{ .Values.training.trackingUri }}
{{- else if .Values.mlflow.enabled -}}
{{- $mlflow := .Subcharts.mlflow -}}
http://{{ include "mlflow.fullname" $mlflow }}.{{ .Release.Namespace }}.svc.cluster.local:{{ $mlflow.Values.service.port }}
{{- end -}}
{{- end }}

{{/* Whether the MLflow that the platform uses is the release's and asks for a login. Another one gets nothing of ours.
     Params: the root context */}}
{{- define "trainyard.logsInToMlflow" -}}
{{- if and .Values.mlflow.enabled (.Values.mlflow.auth).enabled (not .Values.training.trackingUri) }}true{{ end }}
{{- end }}

{{/* The settings of pods that call MLflow, with the file by which they log in. JSON. Params: root, pod, account */}}
{{- define "trainyard.podWithLogin" -}}
{{- $pod := .pod | default dict }}
{{- if include "trainyard.logsInToMlflow" .root }}
{{- $volume := include "mlflow.credentialsVolume" (dict "root" .root.Subcharts.mlflow "account" .account) | fromYaml }}
{{- $mount := include "mlflow.credentialsMount" . | fromYaml }}
{{- $pod = merge (dict "extraVolumes" (prepend ($pod.extraVolumes | default list) $volume)
    "extraVolumeMounts" (prepend ($pod.extraVolumeMounts | default list) $mount)) $pod }}
{{- end }}
{{- toJson $pod }}
{{- end }}

{{/* platform.json: what the DAG library knows of the cluster, and the only place it knows it from.
     Params: the root context */}}
{{- define "trainyard.platform" -}}
{{- $training := pick .Values.training "namespace" "serviceAccountName" "trackingUiUrl" "gpuDevice"
    "priorityClassName" "spotPriorityClassName" "checkpointFreq" "keepFailedPods" "resources" "podSecurityContext"
    "containerSecurityContext" }}
{{- $volumes := dict }}
{{- range $name, $volume := .Values.training.volumes }}
{{- $_ := set $volumes $name (ternary (pick $volume "uri") (pick $volume "claimName" "mountPath") (not (empty $volume.uri))) }}
{{- end }}
{{- $derived := dict
    "image" (include "common.image" (dict "root" . "key" "training.image" "image" .Values.training.image))
    "imagePullPolicy" .Values.training.image.pullPolicy
    "imagePullSecrets" (include "common.pullSecrets" (dict "root" . "secrets" .Values.training.imagePullSecrets) | fromJsonArray)
    "trackingUri" (include "trainyard.trackingUri" .)
    "volumes" $volumes
    "pod" (include "trainyard.podWithLogin" (dict "root" . "pod" (include "trainyard.trainingPod" . | fromJson) "account" "trainer") | fromJson)
    "defaultPool" (include "trainyard.defaultPool" (dict "root" . "key" "defaultPool" "spot" false) | default nil)
    "defaultSpotPool" (include "trainyard.defaultPool" (dict "root" . "key" "defaultSpotPool" "spot" true) | default nil) }}
{{- $platform := dict "training" (merge $derived $training) "pools" (include "trainyard.pools" . | fromJson)
    "release" (printf "%s.%s" .Release.Namespace .Release.Name) }}
{{- if .Values.gpuPoolLists }}
{{- $_ := set $platform "poolLists" (include "trainyard.poolLists" . | fromJson) }}
{{- end }}
{{- if .Values.teams }}
{{- $_ := set $platform "teams" (include "trainyard.teams" . | fromJson) }}
{{- end }}
{{- if .Values.serving.enabled }}
{{- $serving := pick .Values.serving "namespace" "serviceAccountName" "replicas" "port" "priorityClassName" "resources" }}
{{- $_ := set $serving "pod" (include "trainyard.podWithLogin" (dict "root" . "pod" .Values.serving.pod "account" "serving") | fromJson) }}
{{- with .Values.serving.podDisruptionBudget }}
{{- if .enabled }}{{ $_ := set $serving "podDisruptionBudget" (include "common.budget" .config | fromJson) }}{{ end }}
{{- end }}
{{- $_ := set $platform "serving" $serving }}
{{- end }}
{{- if .Values.stockOperators.enabled }}
{{- $stock := dict "launcher" (include "trainyard.podLauncher" .) }}
{{- $_ := set $platform "stockOperators" (merge $stock (pick .Values.stockOperators "namespace" "serviceAccountName")) }}
{{- end }}
{{- with include "trainyard.maintenance" . }}
{{- $_ := set $platform "maintenance" (fromJson .) }}
{{- end }}
{{- if .Values.openlineage.url }}
{{- $_ := set $platform "openlineage" .Values.openlineage }}
{{- end }}
{{- toPrettyJson $platform }}
{{- end }}

{{/* What the DAG `maintenance` may start: the names of CronJobs, one where it is made. JSON, or nothing.
     Params: the root context */}}
{{- define "trainyard.maintenance" -}}
{{- $cronJobs := dict }}
{{- if and .Values.airflow.enabled (.Values.airflow.databaseCleanup).enabled }}
{{- $_ := set $cronJobs "airflowDatabase" (include "airflow.databaseCleanupName" .Subcharts.airflow) }}
{{- end }}
{{- if and .Values.mlflow.enabled (.Values.mlflow.garbageCollection).enabled }}
{{- $_ := set $cronJobs "mlflowGarbage" (include "mlflow.garbageCollectionName" .Subcharts.mlflow) }}
{{- end }}
{{- with $cronJobs }}
{{- dict "namespace" $.Release.Namespace "cronJobs" . | toJson }}
{{- end }}
{{- end }}

{{/* The specs of the pods of these CronJobs. JSON. Params: the root context */}}
{{- define "trainyard.maintenancePods" -}}
{{- $cronJobs := (include "trainyard.maintenance" . | default "{}" | fromJson).cronJobs | default dict }}
{{- $pods := list }}
{{- if $cronJobs.airflowDatabase }}{{ $pods = append $pods (include "airflow.databaseCleanupPod" .Subcharts.airflow | fromYaml).spec }}{{ end }}
{{- if $cronJobs.mlflowGarbage }}{{ $pods = append $pods (include "mlflow.garbageCollectionPod" .Subcharts.mlflow | fromYaml).spec }}{{ end }}
{{- toJson $pods }}
{{- end }}

{{/* A small Job of the platform that runs one script, named after all that it runs.
     Params: root, name, component, script (in files/), env (a list), serviceAccountName, token (mount it?) */}}
{{- define "trainyard.scriptJob" -}}
{{- $root := .root -}}
{{- $script := $root.Files.Get (printf "files/%s" .script) -}}
{{- $pod := include "trainyard.scriptPod" . -}}
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ .name }}-{{ printf "%s%s" $pod $script | sha256sum | trunc 8 }}
  namespace: {{ $root.Release.Namespace | include "common.scalar" }}
  labels: {{- include "common.labels" (dict "root" $root "component" .component) | nindent 4 }}
spec:
  backoffLimit: 6
  template: {{- $pod | nindent 4 }}
{{- end }}

{{- define "trainyard.scriptPod" -}}
{{- $runtime := include "trainyard.scriptRuntime" .root | fromJson -}}
metadata:
  labels: {{- include "common.podLabels" (dict "root" .root "component" .component) | nindent 4 }}
spec:
  restartPolicy: OnFailure
  serviceAccountName: {{ .serviceAccountName | include "common.scalar" }}
  automountServiceAccountToken: {{ .token | include "common.scalar" }}
  enableServiceLinks: false
  securityContext: {{- toYaml $runtime.podSecurityContext | nindent 4 }}
  {{- with include "common.imagePullSecrets" (dict "root" .root "secrets" $runtime.imagePullSecrets) | trim }}{{ . | nindent 2 }}{{ end }}
  {{- with include "common.scheduling" (dict "priorityClassName" .root.Values.scriptJobs.priorityClassName
      "nodeSelector" $runtime.nodeSelector "tolerations" $runtime.tolerations) | trim }}{{ . | nindent 2 }}{{ end }}
  containers:
    - name: script
      image: {{ $runtime.image | include "common.scalar" }}
      imagePullPolicy: {{ $runtime.pullPolicy | include "common.scalar" }}
      command: [python, /scripts/{{ .script }}]
      securityContext: {{- toYaml $runtime.securityContext | nindent 8 }}
      resources: {{- toYaml .root.Values.scriptJobs.resources | nindent 8 }}
      env: {{- toYaml .env | nindent 8 }}
      volumeMounts:
        - {name: scripts, mountPath: /scripts, readOnly: true}
  volumes:
    - name: scripts
      configMap: {name: {{ include "trainyard.fullname" .root }}-platform-scripts}
{{- end }}

{{/* With what the script Jobs run, which need no more than Python's standard library: Airflow's image and settings,
     where it is off MLflow's, where that is off as well the trainer's. scriptJobs.image goes before all of them.
     JSON. Params: the root context */}}
{{- define "trainyard.scriptRuntime" -}}
{{- $runtime := dict }}
{{- if .Values.airflow.enabled }}
{{- $airflow := .Subcharts.airflow }}
{{- $runtime = merge (dict "image" (include "airflow.image" $airflow) "pullPolicy" $airflow.Values.images.airflow.pullPolicy
    "podSecurityContext" (include "airflow.podSecurityContext" (dict "root" $airflow) | fromYaml) "securityContext" $airflow.Values.securityContexts.containers)
    (pick $airflow.Values "imagePullSecrets" "nodeSelector" "tolerations") }}
{{- else if .Values.mlflow.enabled }}
{{- $mlflow := .Subcharts.mlflow.Values }}
{{- $runtime = merge (dict "image" (include "mlflow.image" .Subcharts.mlflow) "pullPolicy" $mlflow.image.pullPolicy)
    (pick $mlflow "podSecurityContext" "securityContext" "imagePullSecrets" "nodeSelector" "tolerations") }}
{{- else }}
{{- $training := .Values.training }}
{{- $runtime = dict "image" (include "common.image" (dict "root" . "key" "training.image" "image" $training.image)) "pullPolicy" $training.image.pullPolicy
    "podSecurityContext" $training.podSecurityContext "securityContext" $training.containerSecurityContext
    "imagePullSecrets" $training.imagePullSecrets }}
{{- end }}
{{- with .Values.scriptJobs.image }}
{{- if .repository }}
{{- $_ := set $runtime "image" (include "common.image" (dict "root" $ "key" "scriptJobs.image" "image" .)) }}
{{- $_ := set $runtime "pullPolicy" .pullPolicy }}
{{- end }}
{{- end }}
{{- with .Values.scriptJobs.imagePullSecrets }}{{ $_ := set $runtime "imagePullSecrets" . }}{{ end }}
{{- toJson $runtime }}
{{- end }}
