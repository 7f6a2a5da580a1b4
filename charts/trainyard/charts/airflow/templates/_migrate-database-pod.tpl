{{/* The pod of the migration Job. The admin user is made in the same process, as importing Airflow a second
     time would cost 5 CPU-seconds. Params: root, component (migrateDatabaseJob's values), labels */}}
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
        {{- with $user.env }}{{ toYaml . | nindent 8 }}{{ end }}
        {{- end }}
        {{- end }}
      {{- with include "airflow.envFrom" . | trim }}{{ . | nindent 6 }}{{ end }}
      volumeMounts: {{- include "airflow.volumeMounts" $pod | nindent 8 }}
  volumes: {{- include "airflow.volumes" $pod | nindent 4 }}
{{- end }}
