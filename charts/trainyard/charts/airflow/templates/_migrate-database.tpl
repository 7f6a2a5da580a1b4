{{/* The migration Job. No Helm hook: it is named after its pod, which cannot be changed, its scripts and the database. So
     an upgrade that changes one of them makes a new Job, an upgrade that does not leaves it alone, and Argo CD sees
     neither drift nor an immutable field.
     Params: root, adminSecretName (where the first user's name and password are) */}}
{{- define "airflow.migrateDatabaseJob" -}}
{{- $root := .root }}
{{- $job := $root.Values.migrateDatabaseJob }}
{{- $labels := dict "root" $root "component" "migrate-database" }}
{{- $template := include "airflow.migrateDatabasePod" (dict "root" $root "component" $job "adminSecretName" .adminSecretName) }}
{{- $hash := printf "%s%s" $template (include "airflow.migrationReads" $root) | sha256sum | trunc 8 -}}
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ include "airflow.fullname" $root }}-migrate-database-{{ $hash }}
  namespace: {{ $root.Release.Namespace | include "common.scalar" }}
  labels: {{- include "common.labels" $labels | nindent 4 }}
  {{- with $job.jobAnnotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  backoffLimit: 6
  {{- with $job.ttlSecondsAfterFinished }}
  ttlSecondsAfterFinished: {{ . | include "common.scalar" }}
  {{- end }}
  template: {{- $template | nindent 4 }}
{{- end }}

{{/* What the migration reads beside its pod: scripts, options of airflow.cfg, and which database it is. JSON.
     Params: the chart's root context */}}
{{- define "airflow.migrationReads" -}}
{{- $options := dict }}
{{- range $section, $values := .Values.config }}
{{- range $option, $value := $values }}
{{- $name := printf "AIRFLOW__%s__%s" $section $option | upper }}
{{- if not (include "airflow.isOfNoDatabase" $name) }}{{ $_ := set $options $name (include "common.made" (dict "root" $ "text" $value)) }}{{ end }}
{{- end }}
{{- end }}
{{- $secret := get .Values.extraSecrets (include "airflow.metadataSecretName" .) | default dict }}
{{- list (.Files.Get "files/migrate_database.py") (.Files.Get "files/database.py") $options
    (pick .Values.data.metadataConnection "user" "host" "port" "db" "sslmode") (include "airflow.extraHeld" (dict "root" . "object" $secret)) | toJson }}
{{- end }}

{{/* Whether a variable sets something of Airflow that is no matter of its database: the migration is without it, or each
     change would make a new Job. Params: its name */}}
{{- define "airflow.isOfNoDatabase" -}}
{{- if and (regexMatch "^AIRFLOW_(_|CONN_|VAR_)" .) (not (regexMatch "^AIRFLOW__(DATABASE|SECRETS|CORE__(AUTH_MANAGER|EXECUTOR|FERNET_KEY))" .)) }}true{{ end }}
{{- end }}

{{/* Where the first user's name and password come from, as a list of variables. Params: root, adminSecretName */}}
{{- define "airflow.firstUserEnv" -}}
{{- $secret := .adminSecretName }}
{{- $env := list }}
{{- range $key := list "username" "password" }}
{{- $reference := dict "secretKeyRef" (dict "name" $secret "key" $key) }}
{{- $env = append $env (dict "name" (printf "ADMIN_%s" (upper $key)) "valueFrom" $reference) }}
{{- end }}
{{- toYaml (.root.Values.createUserJob.env | default $env) }}
{{- end }}

{{/* The pod of the migration Job. The admin user is made in the same process, as importing Airflow a second
     time would cost 5 CPU-seconds. Params: root, component (migrateDatabaseJob's values), adminSecretName */}}
{{- define "airflow.migrateDatabasePod" -}}
{{- $root := .root -}}
{{- $user := $root.Values.createUserJob -}}
{{- $pod := dict "root" $root "name" "migrate-database" "key" "migrateDatabaseJob" "component" .component
    "secrets" (list "database" "fernet") -}}
metadata:
  labels: {{- include "airflow.podLabels" (dict "root" $root "component" "migrate-database") | nindent 4 }}
spec:
  restartPolicy: OnFailure
  serviceAccountName: {{ include "airflow.serviceAccountName" (dict "root" $root "name" "migrate-database" "serviceAccount" .component.serviceAccount) | include "common.scalar" }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  securityContext: {{- include "airflow.podSecurityContext" . | nindent 4 }}
  {{- with include "common.imagePullSecrets" (dict "root" $root "secrets" $root.Values.imagePullSecrets) | trim }}{{ . | nindent 2 }}{{ end }}
  {{- with include "airflow.scheduling" . | trim }}{{ . | nindent 2 }}{{ end }}
  containers:
    - name: migrate-database
      image: {{ include "airflow.image" $root | include "common.scalar" }}
      imagePullPolicy: {{ $root.Values.images.airflow.pullPolicy | include "common.scalar" }}
      command: [python, {{ $root.Values.airflowHome }}/scripts/migrate_database.py]
      securityContext: {{- include "airflow.containerSecurityContext" . | nindent 8 }}
      resources: {{- toYaml .component.resources | nindent 8 }}
      env:
        {{- range include "airflow.env" $pod | fromYamlArray }}
        {{- if not (include "airflow.isOfNoDatabase" .name) }}{{ list . | toYaml | nindent 8 }}{{ end }}
        {{- end }}
        {{- with $user.defaultUser }}
        {{- if and .enabled $user.enabled }}
        - {name: ADMIN_ROLE, value: {{ .role | quote }}}
        - {name: ADMIN_EMAIL, value: {{ .email | quote }}}
        - {name: ADMIN_FIRST_NAME, value: {{ .firstName | quote }}}
        - {name: ADMIN_LAST_NAME, value: {{ .lastName | quote }}}
        {{- include "airflow.firstUserEnv" $ | nindent 8 }}
        {{- end }}
        {{- end }}
      {{- with include "airflow.envFrom" . | trim }}{{ . | nindent 6 }}{{ end }}
      volumeMounts: {{- include "airflow.volumeMounts" $pod | nindent 8 }}
  volumes: {{- include "airflow.volumes" $pod | nindent 4 }}
{{- end }}
