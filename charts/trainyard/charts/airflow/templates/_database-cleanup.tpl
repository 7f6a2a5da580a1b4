{{/* The pod of the CronJob that the DAG `maintenance` starts. Params: the chart's root context */}}
{{- define "airflow.databaseCleanupPod" -}}
{{- with .Values.databaseCleanup }}
{{- $params := dict "root" $ "name" "database-cleanup" "key" "databaseCleanup" "component" .
    "secrets" (list "database") -}}
metadata:
  labels: {{- include "airflow.podLabels" (dict "root" $ "component" "database-cleanup" "labels" .labels) | nindent 4 }}
  {{- with include "airflow.podAnnotations" $params }}
  annotations: {{- . | nindent 4 }}
  {{- end }}
spec:
  restartPolicy: Never
  serviceAccountName: {{ include "airflow.serviceAccountName" (dict "root" $ "name" "database-cleanup" "serviceAccount" .serviceAccount) | include "common.scalar" }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  securityContext: {{- include "airflow.podSecurityContext" $params | nindent 4 }}
  {{- with include "common.imagePullSecrets" (dict "root" $ "secrets" $.Values.imagePullSecrets) | trim }}{{ . | nindent 2 }}{{ end }}
  {{- with include "airflow.scheduling" $params | trim }}{{ . | nindent 2 }}{{ end }}
  containers:
    - name: database-cleanup
      image: {{ include "airflow.image" $ | include "common.scalar" }}
      imagePullPolicy: {{ $.Values.images.airflow.pullPolicy | include "common.scalar" }}
      command: [python, {{ $.Values.airflowHome }}/scripts/clean_database.py]
      args:
        {{- if .skipArchive }}
        - --skip-archive
        {{- end }}
        {{- if .verbose }}
        - --verbose
        {{- end }}
        {{- with .batchSize }}
        - --batch-size={{ toJson . }}
        {{- end }}
        {{- with .tables }}
        - --tables={{ join "," . }}
        {{- end }}
      securityContext: {{- include "airflow.containerSecurityContext" $params | nindent 8 }}
      resources: {{- toYaml .resources | nindent 8 }}
      terminationMessagePolicy: FallbackToLogsOnError
      env:
        # The DAG `maintenance` may give a Job other values for these two.
        - {name: RETENTION_DAYS, value: {{ toJson .retentionDays | quote }}}
        - {name: DRY_RUN, value: "false"}
        {{- include "airflow.env" $params | nindent 8 }}
      {{- with include "airflow.envFrom" $params | trim }}{{ . | nindent 6 }}{{ end }}
      volumeMounts: {{- include "airflow.volumeMounts" $params | nindent 8 }}
  volumes: {{- include "airflow.volumes" $params | nindent 4 }}
{{- end }}
{{- end }}
