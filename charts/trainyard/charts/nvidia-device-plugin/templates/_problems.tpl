{{/* What the schema cannot say of this chart's values, one line each. Params: the chart's root context */}}
{{- define "nvidia-device-plugin.problems" -}}
{{- $problems := list }}
{{- $key := "nvidia-device-plugin" }}
{{- $config := .Values.config }}
{{- if and $config.map $config.name }}
{{- $problems = append $problems (printf "%[1]s.config: name and map are both set; keep one of them" $key) }}
{{- else if and $config.map $config.default (not (hasKey $config.map $config.default)) }}
{{- $problems = append $problems (printf "%[1]s.config.default: %[1]s.config.map has no %[2]s; it has %[3]s" $key $config.default (keys $config.map | sortAlpha | join ", ")) }}
{{- else if and $config.map (not $config.default) (gt (len $config.map) 1) }}
{{- $problems = append $problems (printf "%[1]s.config.default: needed, as there are %[2]s" $key (keys $config.map | sortAlpha | join ", ")) }}
{{- else if and $config.name (not $config.default) }}
{{- $problems = append $problems (printf "%[1]s.config.default: needed, as the key of the ConfigMap %[2]s that is in force" $key $config.name) }}
{{- end }}
{{- if and $config.default (not $config.map) (not $config.name) }}
{{- $problems = append $problems (printf "%[1]s.config.default: there is no configuration; set %[1]s.config.map or name, or remove it" $key) }}
{{- end }}
{{- if and .Values.simulator.enabled (or $config.map $config.name) }}
{{- $problems = append $problems (printf "%[1]s.config: simulated GPUs have none; remove it, or set %[1]s.simulator.enabled to false" $key) }}
{{- end }}
{{- range $name, $content := $config.map }}
{{- $where := printf "%s.config.map.%s" $key $name }}
{{- $parsed := include "nvidia-device-plugin.parsed" $content | fromJson }}
{{- if hasKey $parsed "Error" }}
{{- $problems = append $problems (printf "%s: it is no YAML map: %s" $where $parsed.Error) }}
{{- else if ne (toString $parsed.version) "v1" }}
{{- $problems = append $problems (printf "%s: it needs version: v1" $where) }}
{{- else if not (and (kindIs "map" ($parsed.flags | default dict)) (kindIs "map" ($parsed.sharing | default dict))) }}
{{- $problems = append $problems (printf "%s: flags and sharing are maps" $where) }}
{{- else if ($parsed.sharing | default dict).mps }}
{{- $problems = append $problems (printf "%s: sharing.mps needs NVIDIA's MPS control daemon, which this chart has not; share by timeSlicing, or set %s.enabled to false and install NVIDIA's own chart" $where $key) }}
{{- end }}
{{- end }}
{{- if not $problems }}
{{- $flags := include "nvidia-device-plugin.flags" . | fromJson }}
{{- if not (has $flags.migStrategy (list "none" "single" "mixed")) }}
{{- $problems = append $problems (printf "%s.config: flags.migStrategy %v is none of none, single, mixed" $key $flags.migStrategy) }}
{{- end }}
{{- range $flags.deviceListStrategy }}
{{- if not (has . (list "envvar" "volume-mounts" "cdi-annotations" "cdi-cri")) }}
{{- $problems = append $problems (printf "%s.config: flags.plugin.deviceListStrategy %v is none of envvar, volume-mounts, cdi-annotations, cdi-cri" $key .) }}
{{- else if and (hasPrefix "cdi-" .) (not $.Values.nvidiaDriverRoot) (not $.Values.simulator.enabled) }}
{{- $problems = append $problems (printf "%[1]s.nvidiaDriverRoot: needed for deviceListStrategy %[2]s; set it to / where the driver is installed on the nodes, to /run/nvidia/driver where a container brings it" $key .) }}
{{- end }}
{{- end }}
{{- end }}
{{- $problems | join "\n" }}
{{- end }}
