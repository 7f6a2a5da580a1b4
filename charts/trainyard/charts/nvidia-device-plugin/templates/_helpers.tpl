{{- define "nvidia-device-plugin.fullname" -}}
{{ include "common.fullname" (dict "root" . "suffix" "-nvidia-device-plugin" "max" 63) }}
{{- end }}

{{- define "nvidia-device-plugin.namespace" -}}
{{ .Values.namespaceOverride | default .Release.Namespace }}
{{- end }}

{{/* The DaemonSet, for all GPU nodes or for one pool's.
     Params: root, pool (optional: its name), nodeSelector (of its nodes), env (beyond the values') */}}
{{- define "nvidia-device-plugin.daemonset" -}}
{{- $values := .root.Values -}}
{{- $labels := dict "root" .root "component" (printf "device-plugin%s" (ternary "" (printf "-%s" .pool) (empty .pool))) -}}
apiVersion: apps/v1
kind: DaemonSet
metadata:
  name: {{ include "common.cut" (dict "name" (list (include "nvidia-device-plugin.fullname" .root) .pool | compact | join "-") "max" 63) | include "common.scalar" }}
  namespace: {{ include "nvidia-device-plugin.namespace" .root | include "common.scalar" }}
  labels: {{- include "common.labels" $labels | nindent 4 }}
spec:
  revisionHistoryLimit: 3
  updateStrategy: {{- toYaml $values.updateStrategy | nindent 4 }}
  selector:
    matchLabels: {{- include "common.selectorLabels" $labels | nindent 6 }}
  template:
    metadata:
      labels: {{- include "common.podLabels" $labels | nindent 8 }}
      {{- with $values.podAnnotations }}
      annotations: {{- toYaml . | nindent 8 }}
      {{- end }}
    spec:
      serviceAccountName: {{ include "nvidia-device-plugin.fullname" .root | include "common.scalar" }}
      automountServiceAccountToken: false
      enableServiceLinks: false
      {{- with $values.runtimeClassName }}
      runtimeClassName: {{ . | include "common.scalar" }}
      {{- end }}
      securityContext: {{- toYaml $values.podSecurityContext | nindent 8 }}
      {{- with include "common.imagePullSecrets" (dict "root" .root "secrets" $values.imagePullSecrets) | trim }}{{ . | nindent 6 }}{{ end }}
      {{- $selector := merge (deepCopy (.nodeSelector | default dict)) $values.nodeSelector }}
      {{- with include "common.scheduling" (merge (dict "nodeSelector" $selector) $values) | trim }}{{ . | nindent 6 }}{{ end }}
      containers:
        - name: device-plugin
          image: {{ include "common.image" (dict "root" .root "key" "nvidia-device-plugin.image" "image" $values.image "version" (printf "v%s" .root.Chart.AppVersion)) | include "common.scalar" }}
          imagePullPolicy: {{ $values.image.pullPolicy | include "common.scalar" }}
          {{- with $values.command }}
          command: {{- toYaml . | nindent 12 }}
          {{- end }}
          {{- with $values.args }}
          args: {{- toYaml . | nindent 12 }}
          {{- end }}
          securityContext: {{- toYaml $values.securityContext | nindent 12 }}
          resources: {{- toYaml $values.resources | nindent 12 }}
          env:
            - name: NODE_NAME
              valueFrom:
                fieldRef: {fieldPath: spec.nodeName}
            {{- if not $values.simulator.enabled }}
            - {name: DEVICE_LIST_STRATEGY, value: {{ $values.deviceListStrategy | include "common.scalar" }}}
            - {name: FAIL_ON_INIT_ERROR, value: {{ $values.failOnInitError | quote }}}
            - {name: MIG_STRATEGY, value: {{ $values.migStrategy | include "common.scalar" }}}
            - {name: NVIDIA_VISIBLE_DEVICES, value: all}
            - {name: NVIDIA_DRIVER_CAPABILITIES, value: utility}
            {{- end }}
            {{- range list .env $values.env }}
            {{- with . }}{{ toYaml . | nindent 12 }}{{ end }}
            {{- end }}
          {{- with $values.livenessProbe }}
          livenessProbe: {{- toYaml . | nindent 12 }}
          {{- end }}
          volumeMounts:
            - {name: device-plugins, mountPath: /var/lib/kubelet/device-plugins}
            {{- if $values.simulator.enabled }}
            - {name: health, mountPath: {{ $values.simulator.healthDirectory | include "common.scalar" }}}
            {{- end }}
      volumes:
        - name: device-plugins
          hostPath: {path: /var/lib/kubelet/device-plugins, type: Directory}
        {{- if $values.simulator.enabled }}
        - name: health
          hostPath: {path: {{ $values.simulator.healthDirectory | include "common.scalar" }}, type: DirectoryOrCreate}
        {{- end }}
{{- end }}
