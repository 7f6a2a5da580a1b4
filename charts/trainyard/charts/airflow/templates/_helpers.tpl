{{- define "airflow.fullname" -}}
{{ include "common.fullname" (dict "root" . "max" 33) }}
{{- end }}

{{/* Names of Secrets: those of the values, else the chart's own. Params: the chart's root context */}}
{{- define "airflow.fernetKeySecretName" -}}
{{ .Values.fernetKeySecretName | default (printf "%s-fernet-key" (include "airflow.fullname" .)) }}
{{- end }}

{{- define "airflow.apiSecretKeySecretName" -}}
{{ .Values.apiSecretKeySecretName | default (printf "%s-api-secret-key" (include "airflow.fullname" .)) }}
{{- end }}

{{- define "airflow.jwtSecretName" -}}
{{ .Values.jwtSecretName | default (printf "%s-jwt-secret" (include "airflow.fullname" .)) }}
{{- end }}

{{/* The port of the api-server's Service that clients in the cluster use, as JSON {name, port}: one that leads to the
     api-server itself, else the first. Params: the chart's root context */}}
{{- define "airflow.apiServerServicePort" -}}
{{- $root := . }}
{{- $direct := list }}
{{- $others := list }}
{{- range .Values.apiServer.service.ports }}
{{- $port := dict "name" .name "port" (include "common.made" (dict "root" $root "text" .port) | int) }}
{{- $target := include "common.made" (dict "root" $root "text" (.targetPort | default "api-server")) }}
{{- if has $target (list "api-server" (include "common.text" $root.Values.ports.apiServer)) }}
{{- $direct = append $direct $port }}
{{- else }}
{{- $others = append $others $port }}
{{- end }}
{{- end }}
{{- concat $direct $others | first | toJson }}
{{- end }}

{{/* Where clients in the cluster find the api-server. Params: the chart's root context */}}
{{- define "airflow.apiServerUrl" -}}
http://{{ include "airflow.fullname" . }}-api-server.{{ .Release.Namespace }}.svc:{{ (include "airflow.apiServerServicePort" . | fromJson).port }}
{{- end }}

{{/* The CronJob that the DAG `maintenance` starts. Params: the chart's root context */}}
{{- define "airflow.databaseCleanupName" -}}
{{ include "airflow.fullname" . }}-database-cleanup
{{- end }}

{{/* The image of every pod; without a tag or digest, that of this chart's Airflow. Params: the chart's root context */}}
{{- define "airflow.image" -}}
{{- include "common.image" (dict "root" . "key" "airflow.images.airflow" "image" .Values.images.airflow "version" .Chart.AppVersion) -}}
{{- end }}

{{/* Params: root, name (scheduler, ...), serviceAccount (its values) */}}
{{- define "airflow.serviceAccountName" -}}
{{ .serviceAccount.name | default (printf "%s-%s" (include "airflow.fullname" .root) .name) }}
{{- end }}

{{/* Pod labels: ours, and the official chart's (tier, component, release), which tools select on.
     Params: root, component, labels (extra) */}}
{{- define "airflow.podLabels" -}}
{{ include "common.podLabels" . }}
tier: airflow
component: {{ .component | include "common.scalar" }}
release: {{ .root.Release.Name | include "common.scalar" }}
{{- with merge dict (.labels | default dict) (.root.Values.labels | default dict) }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* One environment variable from a Secret. Params: name, secret, key, optional (may the key be missing?) */}}
{{- define "airflow.secretEnv" -}}
- name: {{ .name | include "common.scalar" }}
  valueFrom:
    secretKeyRef: {name: {{ .secret | include "common.scalar" }}, key: {{ .key | include "common.scalar" }}{{ if .optional }}, optional: true{{ end }}}
{{- end }}

{{/* The built-in secrets a component holds. Params: root, name (optional), secrets (names, each given only where needed) */}}
{{- define "airflow.builtInSecrets" -}}
{{- if and (has "database" .secrets) (include "airflow.usesPgbouncer" .) }}
{{ include "airflow.pgbouncerEnv" .root }}
{{- else if has "database" .secrets }}
{{- $secret := include "airflow.metadataSecretName" .root }}
{{ include "airflow.secretEnv" (dict "name" "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN" "secret" $secret "key" "connection") }}
{{ include "airflow.secretEnv" (dict "name" "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC" "secret" $secret "key" "connection-async" "optional" true) }}
{{- with include "common.databaseTlsEnv" .root | trim }}{{ . | nindent 0 }}{{ end }}
{{- end }}
{{- if has "fernet" .secrets }}
{{ include "airflow.secretEnv" (dict "name" "AIRFLOW__CORE__FERNET_KEY" "secret" (include "airflow.fernetKeySecretName" .root) "key" "fernet-key") }}
{{- end }}
{{- if has "jwt" .secrets }}
{{ include "airflow.secretEnv" (dict "name" "AIRFLOW__API_AUTH__JWT_SECRET" "secret" (include "airflow.jwtSecretName" .root) "key" "jwt-secret") }}
{{- end }}
{{- if has "api" .secrets }}
{{ include "airflow.secretEnv" (merge (dict "name" "AIRFLOW__API__SECRET_KEY") (include "airflow.apiSecret" .root | fromJson)) }}
{{- end }}
{{- end }}

{{/* The Secret with the key of the api-server's sessions, as JSON {secret, key}. Params: the chart's root context */}}
{{- define "airflow.apiSecret" -}}
{{- with .Values.webserverSecretKeySecretName }}
{{- dict "secret" . "key" "webserver-secret-key" | toJson }}
{{- else }}
{{- dict "secret" (include "airflow.apiSecretKeySecretName" .) "key" "api-secret-key" | toJson }}
{{- end }}
{{- end }}

{{/* A container's environment. Of variables with the same name the last one stays: a user's own wins.
     Params: root, name, component (its values), secrets */}}
{{- define "airflow.env" -}}
{{- $own := include "common.list" (dict "templates" (list "airflow.ownEnv" "airflow.platformEnv") "params" .) | fromJsonArray }}
{{- $extra := list }}
{{- with .root.Values.extraEnv }}
{{- $extra = tpl . $.root | fromYamlArray }}
{{- if and $extra (kindIs "string" (first $extra)) }}{{ fail (printf "airflow.extraEnv: not a list of {name, value}: %s" (first $extra)) }}{{ end }}
{{- end }}
{{- $names := dict }}
{{- $kept := list }}
{{- range concat $own (.root.Values.env | default list) (.component.env | default list) $extra | reverse }}
{{- if not (hasKey $names .name) }}{{ $kept = prepend $kept . }}{{ end }}
{{- $_ := set $names .name true }}
{{- end }}
{{- toYaml $kept }}
{{- end }}

{{- define "airflow.ownEnv" -}}
- {name: AIRFLOW__CORE__EXECUTOR, value: {{ .root.Values.executor | include "common.scalar" }}}
- {name: AIRFLOW_HOME, value: {{ .root.Values.airflowHome | include "common.scalar" }}}
- {name: HOME, value: /tmp}
{{- if and .root.Values.dags.image.enabled (has .name (list "dag-processor" "worker")) }}
- {name: TRAINYARD_DAGS_IMAGE, value: {{ include "airflow.dagsImage" .root | quote }}}
{{- end }}
{{- include "airflow.builtInSecrets" . }}
{{- range .root.Values.secret }}
{{ include "airflow.secretEnv" (dict "name" .envName "secret" .secretName "key" .secretKey) }}
{{- end }}
{{- end }}

{{/* envFrom of a container. Params: root */}}
{{- define "airflow.envFrom" -}}
{{- with .root.Values.extraEnvFrom }}
{{- $sources := tpl . $.root | fromYamlArray }}
{{- if and $sources (kindIs "string" (first $sources)) }}{{ fail (printf "airflow.extraEnvFrom: not a list of {secretRef} or {configMapRef}: %s" (first $sources)) }}{{ end }}
envFrom: {{- toYaml $sources | nindent 2 }}
{{- end }}
{{- end }}

{{/* Security contexts: the component's own, else the chart's; that of pods has `uid` and `gid` where it says nothing.
     Params: root, component (values), uid and gid (optional: the chart's) */}}
{{- define "airflow.podSecurityContext" -}}
{{- $values := .root.Values }}
{{- $uid := get . "uid" | default $values.uid | int64 }}
{{- $gid := get . "gid" | default $values.gid | int64 }}
{{- $ids := dict "runAsUser" $uid "runAsGroup" $gid "fsGroup" $gid }}
{{- range $field, $value := $values.securityContexts.pod }}
{{- if kindIs "invalid" $value }}{{ $_ := unset $ids $field }}{{ else }}{{ $_ := set $ids $field $value }}{{ end }}
{{- end }}
{{- toYaml (((.component).securityContexts).pod | default $ids) }}
{{- end }}

{{- define "airflow.containerSecurityContext" -}}
{{ toYaml (((.component).securityContexts).container | default .root.Values.securityContexts.containers) }}
{{- end }}

{{/* The values of worker pods: those of workers.kubernetes go before those of workers. JSON.
     Params: the chart's root context */}}
{{- define "airflow.workers" -}}
{{- $workers := omit .Values.workers "kubernetes" }}
{{- range $key, $value := .Values.workers.kubernetes }}
{{- if eq $key "serviceAccount" }}
{{- $account := merge dict $workers.serviceAccount }}
{{- range $field, $own := $value }}{{ if not (kindIs "invalid" $own) }}{{ $_ := set $account $field $own }}{{ end }}{{ end }}
{{- $_ := set $workers $key $account }}
{{- else if or $value (not (has (kindOf $value) (list "invalid" "string" "slice" "map"))) }}
{{- $_ := set $workers $key $value }}
{{- end }}
{{- end }}
{{- toJson $workers }}
{{- end }}

{{/* The component's scheduling values over the chart's. Params: root, component (values) */}}
{{- define "airflow.scheduling" -}}
{{- $merged := dict "priorityClassName" .component.priorityClassName }}
{{- range $field := list "nodeSelector" "affinity" "tolerations" "topologySpreadConstraints" }}
{{- $_ := set $merged $field (index $.component $field | default (index $.root.Values $field)) }}
{{- end }}
{{- include "common.scheduling" $merged }}
{{- end }}

{{/* An init container that waits until the database's schema is this image's. Params: root */}}
{{- define "airflow.waitForMigrations" -}}
- name: wait-for-airflow-migrations
  image: {{ include "airflow.image" .root | include "common.scalar" }}
  imagePullPolicy: {{ .root.Values.images.airflow.pullPolicy | include "common.scalar" }}
  command: [python, {{ .root.Values.airflowHome }}/scripts/database.py, wait-for-migrations, {{ toJson .root.Values.images.migrationsWaitTimeout | quote }}]
  securityContext: {{- include "airflow.containerSecurityContext" (dict "root" .root) | nindent 4 }}
  resources: {{- toYaml .root.Values.waitForMigrationsResources | nindent 4 }}
  env: {{- include "airflow.builtInSecrets" (dict "root" .root "secrets" (list "database")) | nindent 4 }}
  volumeMounts:
    - {{ include "airflow.scriptsMount" .root }}
    {{- with include "airflow.databaseTlsMounts" . | trim }}{{ . | nindent 4 }}{{ end }}
{{- end }}

{{/* A probe. Params: root, probe (values), handler (a dict, used unless the values give a command) */}}
{{- define "airflow.probe" -}}
{{- $timing := omit .probe "command" "scheme" -}}
{{- $handler := .handler -}}
{{- with .probe.scheme }}{{ $handler = merge (dict "httpGet" (dict "scheme" .)) $handler }}{{ end -}}
{{- with .probe.command }}{{ $handler = dict "exec" (dict "command" .) }}{{ end -}}
{{ toYaml (merge (deepCopy $timing) $handler) }}
{{- end }}

{{/* The annotations that the values give a component's pods: its own go before those of all; nothing where there are
     none. Params: root, component (its values) */}}
{{- define "airflow.podAnnotations" -}}
{{- with merge dict (.component.podAnnotations | default dict) (.root.Values.airflowPodAnnotations | default dict) }}{{ toYaml . }}{{ end }}
{{- end }}

{{/* The annotations of a component's pods: the checksums of what a pod reads at its start, and the values'. The kubelet
     updates scripts and the pod template in the mounted ConfigMaps, and they are read anew each time.
     Params: as below */}}
{{- define "airflow.startAnnotations" -}}
{{- $root := .root -}}
{{- if not (get . "readsNoConfig") }}
checksum/config: {{ include "airflow.configData" $root | sha256sum }}
{{- end }}
{{- if and (eq .name "api-server") .component.apiServerConfig }}
checksum/api-server-config: {{ include "airflow.apiServerConfig" $root | sha256sum }}
{{- end }}
{{- if $root.Values.data.metadataConnection.host }}
checksum/metadata: {{ include "airflow.metadataUrls" $root | sha256sum }}
{{- end }}
{{- if or $root.Values.extraConfigMaps $root.Values.extraSecrets }}
{{- with include "airflow.extraRead" . | trim }}
checksum/extra: {{ sha256sum . }}
{{- end }}
{{- end }}
{{ include "airflow.podAnnotations" . }}
{{- end }}

{{/* One Airflow component as a Deployment.
     Params: root, name (api-server, ...), key (of its values), component (its values), args (default arguments),
     secrets (those it holds), probe (the handler of its probes), readiness (that of its readiness probe, if it has
     one), ports, readsNoConfig (true where neither airflow.cfg nor logs concern it) */}}
{{- define "airflow.deployment" -}}
{{- $root := .root -}}
{{- $component := .component -}}
{{- $labels := dict "root" $root "component" .name "labels" $component.labels -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ include "airflow.fullname" $root }}-{{ .name }}
  namespace: {{ $root.Release.Namespace | include "common.scalar" }}
  labels: {{- include "common.labels" $labels | nindent 4 }}
spec:
  {{- if not ($component.hpa).enabled }}
  replicas: {{ $component.replicas | include "common.scalar" }}
  {{- end }}
  revisionHistoryLimit: 3
  strategy: {{- toYaml $component.strategy | nindent 4 }}
  selector:
    matchLabels: {{- include "common.selectorLabels" $labels | nindent 6 }}
  template:
    metadata:
      labels: {{- include "airflow.podLabels" $labels | nindent 8 }}
      {{- with include "airflow.startAnnotations" . | trim }}
      annotations: {{- . | nindent 8 }}
      {{- end }}
    spec:
      serviceAccountName: {{ include "airflow.serviceAccountName" (dict "root" $root "name" .name "serviceAccount" $component.serviceAccount) | include "common.scalar" }}
      automountServiceAccountToken: {{ $component.serviceAccount.automountServiceAccountToken | include "common.scalar" }}
      enableServiceLinks: false
      terminationGracePeriodSeconds: {{ $component.terminationGracePeriodSeconds | include "common.scalar" }}
      securityContext: {{- include "airflow.podSecurityContext" . | nindent 8 }}
      {{- with include "common.imagePullSecrets" (dict "root" $root "secrets" $root.Values.imagePullSecrets) | trim }}{{ . | nindent 6 }}{{ end }}
      {{- with include "airflow.scheduling" . | trim }}{{ . | nindent 6 }}{{ end }}
      initContainers:
        {{- if $component.waitForMigrations.enabled }}
        {{- include "airflow.waitForMigrations" . | nindent 8 }}
        {{- end }}
        {{- if eq .name "dag-processor" }}
        {{- include "airflow.dagInitContainers" . | nindent 8 }}
        {{- end }}
        {{- with $component.extraInitContainers }}{{ toYaml . | nindent 8 }}{{ end }}
      containers:
        - name: {{ .name | include "common.scalar" }}
          image: {{ include "airflow.image" $root | include "common.scalar" }}
          imagePullPolicy: {{ $root.Values.images.airflow.pullPolicy | include "common.scalar" }}
          {{- with $component.command }}
          command: {{- toYaml . | nindent 12 }}
          {{- end }}
          args: {{- toYaml ($component.args | default .args) | nindent 12 }}
          securityContext: {{- include "airflow.containerSecurityContext" . | nindent 12 }}
          resources: {{- toYaml $component.resources | nindent 12 }}
          env: {{- include "airflow.env" . | nindent 12 }}
          {{- with include "airflow.envFrom" . | trim }}{{ . | nindent 10 }}{{ end }}
          {{- with .ports }}
          ports: {{- toYaml . | nindent 12 }}
          {{- end }}
          startupProbe: {{- include "airflow.probe" (dict "probe" $component.startupProbe "handler" .probe) | nindent 12 }}
          livenessProbe: {{- include "airflow.probe" (dict "probe" $component.livenessProbe "handler" .probe) | nindent 12 }}
          {{- with $component.readinessProbe }}
          readinessProbe: {{- include "airflow.probe" (dict "probe" . "handler" $.readiness) | nindent 12 }}
          {{- end }}
          volumeMounts: {{- include "airflow.volumeMounts" . | nindent 12 }}
        {{- if ($component.logGroomerSidecar).enabled }}
        {{- include "airflow.logGroomer" . | nindent 8 }}
        {{- end }}
        {{- with $component.extraContainers }}{{ toYaml . | nindent 8 }}{{ end }}
      volumes: {{- include "airflow.volumes" . | nindent 8 }}
{{- end }}

{{/* The container that deletes old logs. It holds no Secret. Params: root, name, component (its values) */}}
{{- define "airflow.logGroomer" -}}
{{- $groomer := .component.logGroomerSidecar -}}
- name: {{ .name }}-log-groomer
  image: {{ include "airflow.image" .root | include "common.scalar" }}
  imagePullPolicy: {{ .root.Values.images.airflow.pullPolicy | include "common.scalar" }}
  {{- with $groomer.command }}
  command: {{- toYaml . | nindent 4 }}
  {{- end }}
  args: {{- toYaml $groomer.args | nindent 4 }}
  securityContext: {{- include "airflow.containerSecurityContext" . | nindent 4 }}
  resources: {{- toYaml $groomer.resources | nindent 4 }}
  env:
    - {name: AIRFLOW_HOME, value: {{ .root.Values.airflowHome | include "common.scalar" }}}
    - {name: AIRFLOW__LOG_RETENTION_DAYS, value: {{ toJson $groomer.retentionDays | quote }}}
    - {name: AIRFLOW__LOG_CLEANUP_FREQUENCY_MINUTES, value: {{ toJson $groomer.frequencyMinutes | quote }}}
    {{- with $groomer.env }}{{ toYaml . | nindent 4 }}{{ end }}
  volumeMounts:
    - {name: logs, mountPath: {{ .root.Values.airflowHome }}/logs}
{{- end }}

{{/* What stands beside a component's Deployment: ServiceAccount and PodDisruptionBudget. Params: as above */}}
{{- define "airflow.companions" -}}
{{- $component := .component }}
{{- if $component.serviceAccount.create }}
---
{{ include "common.serviceAccount" (dict "root" .root "component" .name
    "name" (include "airflow.serviceAccountName" (dict "root" .root "name" .name "serviceAccount" $component.serviceAccount))
    "annotations" $component.serviceAccount.annotations) }}
{{- end }}
{{- if ($component.podDisruptionBudget).enabled }}
---
{{ include "common.podDisruptionBudget" (dict "root" .root "component" .name
    "name" (printf "%s-%s-pdb" (include "airflow.fullname" .root) .name)
    "config" $component.podDisruptionBudget.config) }}
{{- end }}
{{- end }}

{{/* The probe of components without an HTTP endpoint: their heartbeat in the database, read by a script that
     imports nothing of Airflow (`airflow jobs check` costs 1.7 CPU-seconds each time). Params: root, job */}}
{{- define "airflow.heartbeatProbe" -}}
exec:
  command: [python, {{ .root.Values.airflowHome }}/scripts/database.py, check-heartbeat, {{ .job }}, {{ toJson .root.Values.heartbeatMaxAge | quote }}]
{{- end }}
