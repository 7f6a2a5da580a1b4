{{/* The CronJob that makes backups, its claim's and its ServiceAccount's start. Params: the root context */}}
{{- define "trainyard.backupName" -}}
{{ include "trainyard.fullname" . }}-backup
{{- end }}

{{/* Whether there are any: not where what is needed is missing, which trainyard.backupProblems says. */}}
{{- define "trainyard.makesBackups" -}}
{{- if and .Values.backup.enabled (or .Values.airflow.enabled .Values.mlflow.enabled)
    (or .Values.backup.image.repository .Values.postgresql.enabled) }}true{{ end }}
{{- end }}

{{- define "trainyard.backupClaim" -}}
{{ .Values.backup.persistence.existingClaim | default (printf "%ss" (include "trainyard.backupName" .)) }}
{{- end }}

{{/* The databases that are saved, in this order: name -> {name, key} of the Secret with the URL. What one says of
     another is saved before that other: Airflow knows runs and versions of MLflow, MLflow knows artifacts. A restored
     row then never names what is missing. JSON, a list of {name, secret, key}. Params: the root context */}}
{{- define "trainyard.backupDatabases" -}}
{{- $databases := list }}
{{- if .Values.airflow.enabled }}
{{- $databases = append $databases (dict "name" "airflow" "secret" (include "airflow.metadataSecretName" .Subcharts.airflow) "key" "connection") }}
{{- end }}
{{- if .Values.mlflow.enabled }}
{{- $mlflow := .Subcharts.mlflow }}
{{- $databases = append $databases (dict "name" "mlflow" "secret" (include "mlflow.backendSecretName" $mlflow) "key" $mlflow.Values.backendStore.secretKey) }}
{{- end }}
{{- toJson $databases }}
{{- end }}

{{/* Where MLflow's artifacts are saved from: a path on its volume, a URI in the embedded object store, or nothing where
     the object store is the user's. Params: the root context */}}
{{- define "trainyard.backupArtifacts" -}}
{{- if .Values.mlflow.enabled }}
{{- $destination := .Values.mlflow.artifacts.destination }}
{{- if or (hasPrefix "/" $destination) (hasKey (include "trainyard.embeddedBuckets" . | fromJson) "mlflow") }}{{ $destination }}{{ end }}
{{- end }}
{{- end }}

{{/* The image, user and place of what is Python: MLflow's, who can read the artifacts; where that is off Airflow's. JSON.
     Params: the root context */}}
{{- define "trainyard.backupRuntime" -}}
{{- if .Values.mlflow.enabled }}
{{- $mlflow := .Subcharts.mlflow }}
{{- merge (dict "image" (include "mlflow.image" $mlflow) "pullPolicy" $mlflow.Values.image.pullPolicy)
    (pick $mlflow.Values "podSecurityContext" "securityContext" "nodeSelector" "tolerations") | toJson }}
{{- else }}
{{- $airflow := .Subcharts.airflow }}
{{- merge (dict "image" (include "airflow.image" $airflow) "pullPolicy" $airflow.Values.images.airflow.pullPolicy
    "podSecurityContext" (include "airflow.podSecurityContext" (dict "root" $airflow) | fromYaml) "securityContext" $airflow.Values.securityContexts.containers)
    (pick $airflow.Values "nodeSelector" "tolerations") | toJson }}
{{- end }}
{{- end }}

{{/* The image with pg_dump and psql: that of the embedded database, unless the values name another one. JSON.
     Params: the root context */}}
{{- define "trainyard.backupPostgres" -}}
{{- with .Values.backup.image }}
{{- if .repository }}
{{- dict "image" (include "common.image" (dict "root" $ "key" "backup.image" "image" .)) "pullPolicy" .pullPolicy | toJson }}
{{- else }}
{{- $postgresql := $.Subcharts.postgresql }}
{{- dict "image" (include "postgresql.image" $postgresql) "pullPolicy" $postgresql.Values.image.pullPolicy | toJson }}
{{- end }}
{{- end }}
{{- end }}

{{/* A container. Params: root, name, runtime (image, pullPolicy), command, env (optional), uses (a list of what it gets:
     place, artifacts, databases, which are their URLs) */}}
{{- define "trainyard.backupContainer" -}}
{{- $root := .root }}
{{- $backup := $root.Values.backup }}
{{- $artifacts := include "trainyard.backupArtifacts" $root }}
{{- $usesPlace := has "place" .uses }}
{{- $usesArtifacts := has "artifacts" .uses }}
{{- $env := .env | default list }}
{{- $sources := list }}
{{- if $usesPlace }}
{{- $env = append $env (dict "name" "PLACE" "value" ($backup.uri | default "/backups")) }}
{{- $env = concat $env ($backup.env | default list) }}
{{- $sources = concat $sources ($backup.envFrom | default list) }}
{{- end }}
{{- if $usesArtifacts }}
{{- $env = append $env (dict "name" "ARTIFACTS" "value" $artifacts) }}
{{- if hasPrefix "s3://" $artifacts }}
{{- $secret := include "trainyard.storeAccountSecretName" (dict "root" $root "name" "mlflow") }}
{{- $sources = append $sources (dict "prefix" "ARTIFACTS_" "secretRef" (dict "name" $secret)) }}
{{- end }}
{{- end }}
{{- $databases := include "trainyard.backupDatabases" $root | fromJsonArray }}
{{- if has "databases" .uses }}
{{- range $databases }}
{{- $url := dict "secretKeyRef" (dict "name" .secret "key" .key) }}
{{- $env = append $env (dict "name" (printf "URL_%s" (upper .name)) "valueFrom" $url) }}
{{- end }}
{{- end }}
{{- $names := list }}
{{- range $databases }}{{ $names = append $names .name }}{{ end -}}
- name: {{ .name }}
  image: {{ .runtime.image | include "common.scalar" }}
  imagePullPolicy: {{ .runtime.pullPolicy | include "common.scalar" }}
  command: {{- toYaml .command | nindent 4 }}
  securityContext: {{- toYaml (include "trainyard.backupRuntime" $root | fromJson).securityContext | nindent 4 }}
  resources: {{- toYaml $backup.resources | nindent 4 }}
  terminationMessagePolicy: FallbackToLogsOnError
  env:
    - {name: HOME, value: /tmp}
    - {name: PGSERVICEFILE, value: /connections/pg_service.conf}
    - {name: DATABASES, value: {{ join " " $names | quote }}}
    {{- with include "common.databaseTlsEnv" $root | trim }}{{ . | nindent 4 }}{{ end }}
    {{- with $env }}{{ toYaml . | nindent 4 }}{{ end }}
  {{- with $sources }}
  envFrom: {{- toYaml . | nindent 4 }}
  {{- end }}
  volumeMounts:
    - {name: scripts, mountPath: /scripts, readOnly: true}
    - {name: work, mountPath: /work}
    - {name: connections, mountPath: /connections}
    - {name: tmp, mountPath: /tmp}
    {{- with include "common.databaseTlsMounts" $root | trim }}{{ . | nindent 4 }}{{ end }}
    {{- if and $usesPlace (not $backup.uri) }}
    - {name: backups, mountPath: /backups}
    {{- end }}
    {{- if and $usesArtifacts (hasPrefix "/" $artifacts) }}
    - {name: artifacts, mountPath: {{ $root.Values.mlflow.artifacts.persistence.mountPath | include "common.scalar" }}}
    {{- end }}
{{- end }}

{{/* A pod of these. Params: root, component, initContainers, containers (YAML) */}}
{{- define "trainyard.backupPod" -}}
{{- $root := .root -}}
{{- $backup := $root.Values.backup -}}
{{- $runtime := include "trainyard.backupRuntime" $root | fromJson -}}
{{- $onVolume := hasPrefix "/" (include "trainyard.backupArtifacts" $root) -}}
{{- $pullSecrets := list -}}
{{- range $name := list "mlflow" "airflow" "postgresql" }}
{{- if (index $root.Values $name).enabled }}{{ $pullSecrets = concat $pullSecrets ((index $root.Subcharts $name).Values.imagePullSecrets | default list) }}{{ end }}
{{- end -}}
metadata:
  labels: {{- include "common.podLabels" . | nindent 4 }}
spec:
  restartPolicy: Never
  serviceAccountName: {{ include "trainyard.backupName" $root | include "common.scalar" }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  securityContext: {{- toYaml $runtime.podSecurityContext | nindent 4 }}
  {{- with include "common.imagePullSecrets" (dict "root" $root "secrets" (concat $pullSecrets ($backup.imagePullSecrets | default list) | uniq)) | trim }}{{ . | nindent 2 }}{{ end }}
  {{- with include "common.scheduling" (dict "priorityClassName" $backup.priorityClassName "nodeSelector" $runtime.nodeSelector
      "tolerations" $runtime.tolerations) | trim }}{{ . | nindent 2 }}{{ end }}
  {{- if and $onVolume (ne $root.Values.mlflow.artifacts.persistence.accessMode "ReadWriteMany") }}
  # A ReadWriteOnce volume is mounted by the pods of one node.
  affinity:
    podAffinity:
      requiredDuringSchedulingIgnoredDuringExecution:
        - topologyKey: kubernetes.io/hostname
          labelSelector:
            matchLabels: {{- include "common.selectorLabels" (dict "root" $root.Subcharts.mlflow "component" "tracking-server") | nindent 14 }}
  {{- end }}
  {{- with .initContainers }}
  initContainers: {{- . | nindent 4 }}
  {{- end }}
  containers: {{- .containers | nindent 4 }}
  volumes:
    - name: scripts
      configMap: {name: {{ include "trainyard.backupName" $root }}}
    - name: work
      emptyDir: {sizeLimit: {{ $backup.scratchSize | include "common.scalar" }}}
    - name: connections
      emptyDir: {medium: Memory, sizeLimit: 1Mi}
    - name: tmp
      emptyDir: {sizeLimit: 64Mi}
    {{- with include "common.databaseTlsVolumes" $root | trim }}{{ . | nindent 4 }}{{ end }}
    {{- if not $backup.uri }}
    - name: backups
      persistentVolumeClaim: {claimName: {{ include "trainyard.backupClaim" $root | include "common.scalar" }}}
    {{- end }}
    {{- if $onVolume }}
    - name: artifacts
      persistentVolumeClaim: {claimName: {{ include "mlflow.artifactsClaim" $root.Subcharts.mlflow | include "common.scalar" }}}
    {{- end }}
{{- end }}

{{/* What is wrong with backup, one line each. Params: the root context */}}
{{- define "trainyard.backupProblems" -}}
{{- $problems := list }}
{{- with .Values.backup }}
{{- if .enabled }}
{{- if not (or $.Values.airflow.enabled $.Values.mlflow.enabled) }}
{{- $problems = append $problems "backup.enabled: there is nothing to save, as airflow.enabled and mlflow.enabled are false; set it to false" }}
{{- end }}
{{- if not (or .image.repository $.Values.postgresql.enabled) }}
{{- $problems = append $problems "backup.image.repository: needed where postgresql.enabled is false; name an image with pg_dump and psql of your server's version or newer, as postgres" }}
{{- end }}
{{- if and .uri .persistence.existingClaim }}
{{- $problems = append $problems (printf "backup.persistence.existingClaim: %s is not used, as backup.uri names an object store; remove one of them" .persistence.existingClaim) }}
{{- end }}
{{- if and (hasPrefix "/" (include "trainyard.backupArtifacts" $)) (eq $.Values.mlflow.artifacts.persistence.accessMode "ReadWriteOncePod") }}
{{- $problems = append $problems "mlflow.artifacts.persistence.accessMode: ReadWriteOncePod with backup.enabled: no pod but MLflow's can mount the artifacts; set ReadWriteOnce or ReadWriteMany" }}
{{- end }}
{{- if and .uri $.Values.versitygw.enabled }}
{{- $embedded := include "versitygw.url" (dict "root" $.Subcharts.versitygw "namespace" (include "trainyard.versitygwNamespace" $)) | trim }}
{{- range .env }}
{{- $url := .value | default "" | toString | replace ".svc.cluster.local" ".svc" | trimSuffix "/" }}
{{- if and (hasPrefix "AWS_ENDPOINT_URL" .name) (eq $url $embedded) }}
{{- $problems = append $problems (printf "backup.env: %s %s: that is the embedded object store, which is lost with what is saved there; name another one" .name .value) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- with include "common.scheduleProblem" .schedule }}
{{- $problems = append $problems (printf "backup.schedule: %s" .) }}
{{- end }}
{{- end }}
{{- $problems | join "\n" }}
{{- end }}
