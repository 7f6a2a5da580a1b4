{{/* The pod that mounts the claims of training pods, as they do. Params: root, labels (of common.podLabels),
     paths (volume -> where it is mounted), team (its name; "" for no team) */}}
{{- define "trainyard.trainingVolumesPod" -}}
{{- $runtime := include "trainyard.scriptRuntime" .root | fromJson -}}
{{- $training := .root.Values.training -}}
metadata:
  labels: {{- include "common.podLabels" .labels | nindent 4 }}
spec:
  {{- /* A pod that failed stays, to say why. */}}
  restartPolicy: Never
  serviceAccountName: {{ $training.serviceAccountName | include "common.scalar" }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  securityContext: {{- toYaml $training.podSecurityContext | nindent 4 }}
  {{- /* The image may be of another registry than the trainer's. */}}
  {{- $secrets := concat ($training.imagePullSecrets | default list) ($runtime.imagePullSecrets | default list) }}
  {{- with include "common.imagePullSecrets" (dict "root" .root "secrets" $secrets) | trim }}{{ . | nindent 2 }}{{ end }}
  {{- /* A team's Jobs may have no class but theirs. */}}
  {{- $class := ternary $training.priorityClassName .root.Values.scriptJobs.priorityClassName (ne .team "") }}
  {{- with include "common.scheduling" (dict "priorityClassName" $class
      "nodeSelector" $runtime.nodeSelector "tolerations" $runtime.tolerations) | trim }}{{ . | nindent 2 }}{{ end }}
  containers:
    - name: mount
      image: {{ $runtime.image | include "common.scalar" }}
      imagePullPolicy: {{ $runtime.pullPolicy | include "common.scalar" }}
      command:
        - sh
        - -c
        - |-
          status=0
          for path; do
            if [ -w "$path" ]; then echo "$path: training pods can write to it"; continue; fi
            echo "$path: user $(id -u) cannot write to it: see training.podSecurityContext, and the StorageClass"
            status=1
          done
          exit $status
        - sh
        {{- range .paths }}
        - {{ . | include "common.scalar" }}
        {{- end }}
      securityContext: {{- toYaml $training.containerSecurityContext | nindent 8 }}
      resources: {{- toYaml .root.Values.scriptJobs.resources | nindent 8 }}
      terminationMessagePolicy: FallbackToLogsOnError
      volumeMounts:
        {{- range $name, $path := .paths }}
        - {name: {{ $name | include "common.scalar" }}, mountPath: {{ $path | include "common.scalar" }}}
        {{- end }}
  volumes:
    {{- range $name, $_ := .paths }}
    - name: {{ $name | include "common.scalar" }}
      persistentVolumeClaim: {claimName: {{ (index $training.volumes $name).claimName | include "common.scalar" }}}
    {{- end }}
{{- end }}
