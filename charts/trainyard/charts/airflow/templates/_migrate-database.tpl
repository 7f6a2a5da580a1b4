{{/* The migration Job. No Helm hook: it is named after everything it runs, so an upgrade that changes it makes a new one,
     an upgrade that does not leaves it alone, and Argo CD sees neither drift nor an immutable field.
     Params: root, adminSecretName (where the first user's name and password are) */}}
{{- define "airflow.migrateDatabaseJob" -}}
{{- $root := .root }}
{{- $job := $root.Values.migrateDatabaseJob }}
{{- $labels := dict "root" $root "component" "migrate-database" }}
{{- $template := include "airflow.migrateDatabasePod" (dict "root" $root "component" $job "adminSecretName" .adminSecretName) }}
{{- $hash := printf "%s%s%s" $template (include "airflow.configData" $root) (include "airflow.scriptsData" $root) | sha256sum | trunc 8 -}}
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
        {{- include "airflow.env" $pod | nindent 8 }}
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
