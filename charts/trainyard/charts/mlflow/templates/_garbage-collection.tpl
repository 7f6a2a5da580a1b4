{{/* The pod of the CronJob that the DAG `maintenance` starts. Params: the chart's root context */}}
{{- define "mlflow.garbageCollectionPod" -}}
{{- with .Values.garbageCollection -}}
metadata:
  labels: {{- include "common.podLabels" (dict "root" $ "component" "garbage-collection") | nindent 4 }}
  {{- with $.Values.podAnnotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  restartPolicy: Never
  serviceAccountName: {{ $.Values.serviceAccount.name | default (include "mlflow.fullname" $) | include "common.scalar" }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  securityContext: {{- toYaml $.Values.podSecurityContext | nindent 4 }}
  {{- with include "common.imagePullSecrets" (dict "root" $ "secrets" $.Values.imagePullSecrets) | trim }}{{ . | nindent 2 }}{{ end }}
  {{- with include "common.scheduling" $.Values | trim }}{{ . | nindent 2 }}{{ end }}
  containers:
    - name: garbage-collection
      image: {{ include "mlflow.image" $ | include "common.scalar" }}
      imagePullPolicy: {{ $.Values.image.pullPolicy | include "common.scalar" }}
      args: [python, /scripts/collect_garbage.py]
      securityContext: {{- toYaml $.Values.securityContext | nindent 8 }}
      resources: {{- toYaml .resources | nindent 8 }}
      terminationMessagePolicy: FallbackToLogsOnError
      env:
        # The DAG `maintenance` may give a Job other values for these two.
        - {name: RETENTION_DAYS, value: {{ toJson .retentionDays | quote }}}
        - {name: DRY_RUN, value: "false"}
        - {name: HOME, value: /tmp}
        - name: MLFLOW_BACKEND_STORE_URI
          valueFrom:
            secretKeyRef: {name: {{ include "mlflow.backendSecretName" $ | include "common.scalar" }}, key: {{ $.Values.backendStore.secretKey | include "common.scalar" }}}
        {{- with include "common.databaseTlsEnv" $ | trim }}{{ . | nindent 8 }}{{ end }}
        {{- /* The server removes the artifacts: their volume may be mounted by one pod only. */}}
        - {name: MLFLOW_TRACKING_URI, value: "http://{{ include "mlflow.fullname" $ }}:{{ $.Values.service.port }}"}
        {{- with $.Values.env }}{{ toYaml . | nindent 8 }}{{ end }}
      {{- with $.Values.envFrom }}
      envFrom: {{- toYaml . | nindent 8 }}
      {{- end }}
      volumeMounts:
        - {name: tmp, mountPath: /tmp}
        - {name: scripts, mountPath: /scripts, readOnly: true}
        {{- if $.Values.auth.enabled }}
        - {{ include "mlflow.credentialsMount" $ }}
        {{- end }}
        {{- with include "common.databaseTlsMounts" $ | trim }}{{ . | nindent 8 }}{{ end }}
  volumes:
    - name: tmp
      emptyDir: {sizeLimit: 1Gi}
    - name: scripts
      configMap: {name: {{ include "mlflow.garbageCollectionName" $ | include "common.scalar" }}}
    {{- if $.Values.auth.enabled }}
    - {{- include "mlflow.credentialsVolume" (dict "root" $ "account" "admin") | nindent 6 }}
    {{- end }}
    {{- with include "common.databaseTlsVolumes" $ | trim }}{{ . | nindent 4 }}{{ end }}
{{- end }}
{{- end }}
