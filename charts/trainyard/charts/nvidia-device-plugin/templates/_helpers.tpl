{{- define "nvidia-device-plugin.fullname" -}}
{{ include "common.fullname" (dict "root" . "suffix" "-nvidia-device-plugin" "max" 63) }}
{{- end }}

{{- define "nvidia-device-plugin.namespace" -}}
{{ .Values.namespaceOverride | default .Release.Namespace }}
{{- end }}

{{/* The configuration file that is in force: {map (the ConfigMap's name), key, content (of values' own)}; nothing where
     there is none. JSON. Params: the chart's root context */}}
{{- define "nvidia-device-plugin.config" -}}
{{- $config := .Values.config }}
{{- $found := dict }}
{{- if $config.map }}
{{- $key := $config.default | default (keys $config.map | sortAlpha | first) }}
{{- $content := get $config.map $key }}
{{- $found = dict "map" (printf "%s-configs" (include "nvidia-device-plugin.fullname" .)) "key" $key
    "content" (include "nvidia-device-plugin.parsed" $content | fromJson) }}
{{- else if $config.name }}
{{- $found = dict "map" $config.name "key" $config.default }}
{{- end }}
{{- toJson $found }}
{{- end }}

{{/* A configuration, which is a map or YAML; {Error: why} where it is no map. JSON. Params: the configuration */}}
{{- define "nvidia-device-plugin.parsed" -}}
{{- if kindIs "map" . }}{{ toJson . }}{{ else }}{{ fromYaml . | toJson }}{{ end }}
{{- end }}

{{/* Flags of the plugin as they will be: {migStrategy, deviceListStrategy (a list), known (does the chart see all of
     them?)}, from the values where they say something, else from the configuration file. JSON.
     Params: the chart's root context */}}
{{- define "nvidia-device-plugin.flags" -}}
{{- $config := include "nvidia-device-plugin.config" . | fromJson }}
{{- $flags := dict }}
{{- with $config.content }}{{ if kindIs "map" .flags }}{{ $flags = .flags }}{{ end }}{{ end }}
{{- $plugin := ternary $flags.plugin dict (kindIs "map" $flags.plugin) }}
{{- $mig := .Values.migStrategy }}
{{- if eq $mig "none" }}{{ $mig = $flags.migStrategy | default $mig }}{{ end }}
{{- $lists := list .Values.deviceListStrategy }}
{{- with $plugin.deviceListStrategy }}
{{- if eq $.Values.deviceListStrategy "envvar" }}{{ $lists = ternary . (list .) (kindIs "slice" .) }}{{ end }}
{{- end }}
{{- $known := or (empty $config) (hasKey $config "content") }}
{{- dict "migStrategy" $mig "deviceListStrategy" $lists "known" $known | toJson }}
{{- end }}

{{/* The security context of the plugin: NVIDIA's container runtime gives MIG monitor devices, and all GPUs where lists come
     from volumes, only to a container with CAP_SYS_ADMIN. Nobody knows what a ConfigMap of the user's says, so it has the
     capability then. Params: the chart's root context */}}
{{- define "nvidia-device-plugin.securityContext" -}}
{{- $flags := include "nvidia-device-plugin.flags" . | fromJson }}
{{- $context := deepCopy .Values.securityContext }}
{{- $needed := or (ne $flags.migStrategy "none") (has "volume-mounts" $flags.deviceListStrategy) (not $flags.known) }}
{{- if and $needed (not .Values.simulator.enabled) (not $context.privileged) }}
{{- $capabilities := $context.capabilities | default dict }}
{{- $_ := set $capabilities "add" (append ($capabilities.add | default list) "SYS_ADMIN" | uniq) }}
{{- /* The API refuses the capability beside allowPrivilegeEscalation: false. */}}
{{- $context = merge (dict "capabilities" $capabilities) (omit $context "allowPrivilegeEscalation") }}
{{- end }}
{{- toYaml $context }}
{{- end }}

{{/* The DaemonSet, for all GPU nodes or for one pool's.
     Params: root, pool (optional: its name), nodeSelector (of its nodes), env (beyond the values') */}}
{{- define "nvidia-device-plugin.daemonset" -}}
{{- $values := .root.Values -}}
{{- $flags := include "nvidia-device-plugin.flags" .root | fromJson -}}
{{- $config := include "nvidia-device-plugin.config" .root | fromJson -}}
{{- $driver := and (ne $values.nvidiaDriverRoot "") (not $values.simulator.enabled) -}}
{{- $cdi := and $driver (not $flags.known) -}}
{{- range $flags.deviceListStrategy }}{{ if hasPrefix "cdi-" . }}{{ $cdi = $driver }}{{ end }}{{ end -}}
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
      {{- $annotations := $values.podAnnotations }}
      {{- with $values.config.map }}{{ $annotations = merge (dict "checksum/config" (toJson . | sha256sum)) $annotations }}{{ end }}
      {{- with $annotations }}
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
          securityContext: {{- include "nvidia-device-plugin.securityContext" .root | nindent 12 }}
          resources: {{- toYaml $values.resources | nindent 12 }}
          env:
            - name: NODE_NAME
              valueFrom:
                fieldRef: {fieldPath: spec.nodeName}
            {{- if not $values.simulator.enabled }}
            {{- /* Variables go before the configuration file, so the plugin's own defaults are left to it. */}}
            {{- range $name, $value := dict "DEVICE_LIST_STRATEGY" $values.deviceListStrategy "FAIL_ON_INIT_ERROR" $values.failOnInitError
                "MIG_STRATEGY" $values.migStrategy "NVIDIA_DRIVER_ROOT" $values.nvidiaDriverRoot }}
            {{- if not (has $value (list "envvar" "true" "none" "")) }}
            - {name: {{ $name }}, value: {{ $value | quote }}}
            {{- end }}
            {{- end }}
            {{- if $config }}
            - {name: CONFIG_FILE, value: {{ printf "/config/%s" $config.key | include "common.scalar" }}}
            {{- end }}
            {{- if or (ne $flags.migStrategy "none") (not $flags.known) }}
            - {name: NVIDIA_MIG_MONITOR_DEVICES, value: all}
            {{- end }}
            - {name: NVIDIA_VISIBLE_DEVICES, value: all}
            - {name: NVIDIA_DRIVER_CAPABILITIES, value: {{ ternary "compute,utility" "utility" $cdi | quote }}}
            {{- end }}
            {{- range list .env $values.env }}
            {{- with . }}{{ toYaml . | nindent 12 }}{{ end }}
            {{- end }}
          {{- with $values.livenessProbe }}
          livenessProbe: {{- toYaml . | nindent 12 }}
          {{- end }}
          volumeMounts:
            - {name: device-plugins, mountPath: /var/lib/kubelet/device-plugins}
            {{- if $config }}
            - {name: config, mountPath: /config, readOnly: true}
            {{- end }}
            {{- if $cdi }}
            - {name: cdi, mountPath: /var/run/cdi}
            {{- end }}
            {{- if $driver }}
            - {name: driver, mountPath: /driver-root, readOnly: true}
            {{- end }}
            {{- if $values.simulator.enabled }}
            - {name: health, mountPath: {{ $values.simulator.healthDirectory | include "common.scalar" }}}
            {{- end }}
      volumes:
        - name: device-plugins
          hostPath: {path: /var/lib/kubelet/device-plugins, type: Directory}
        {{- with $config }}
        - name: config
          configMap: {name: {{ .map | include "common.scalar" }}}
        {{- end }}
        {{- if $cdi }}
        - name: cdi
          hostPath: {path: /var/run/cdi, type: DirectoryOrCreate}
        {{- end }}
        {{- if $driver }}
        - name: driver
          hostPath: {path: {{ $values.nvidiaDriverRoot | include "common.scalar" }}, type: Directory}
        {{- end }}
        {{- if $values.simulator.enabled }}
        - name: health
          hostPath: {path: {{ $values.simulator.healthDirectory | include "common.scalar" }}, type: DirectoryOrCreate}
        {{- end }}
{{- end }}
