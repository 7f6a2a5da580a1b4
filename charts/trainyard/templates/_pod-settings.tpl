{{/* What a pod cannot have of its settings: labels and volumes that the platform uses itself, mounts of no volume or over
     another one's path. One line each.
     Params: key, pod (the settings), base (those of training.pod, where they are merged with them, else a dict),
     platformVolumes (names), taken (paths, with whose they are) */}}
{{- define "trainyard.podSettingsProblems" -}}
{{- $problems := list }}
{{- $volumes := .platformVolumes }}
{{- $taken := deepCopy .taken }}
{{- range .base.extraVolumeMounts }}
{{- $_ := set $taken (clean .mountPath) "training.pod.extraVolumeMounts" }}
{{- end }}
{{- range $volume := concat (.base.extraVolumes | default list) (.pod.extraVolumes | default list) }}
{{- if not $volume.name }}
{{- $problems = append $problems (printf "%s.extraVolumes: every entry needs a name" $.key) }}
{{- else if has $volume.name $volumes }}
{{- $problems = append $problems (printf "%s.extraVolumes: there is a volume %s already; choose another name" $.key $volume.name) }}
{{- end }}
{{- $volumes = append $volumes $volume.name }}
{{- end }}
{{- range $mount := .pod.extraVolumeMounts }}
{{- if not (and $mount.name $mount.mountPath) }}
{{- $problems = append $problems (printf "%s.extraVolumeMounts: every entry needs name and mountPath" $.key) }}
{{- else }}
{{- if not (has $mount.name $volumes) }}
{{- $problems = append $problems (printf "%s.extraVolumeMounts: there is no volume %s; add it to %s.extraVolumes" $.key $mount.name $.key) }}
{{- end }}
{{- with include "trainyard.pathProblem" (dict "key" (printf "%s.extraVolumeMounts" $.key) "path" $mount.mountPath "name" $mount.name "taken" $taken) }}
{{- $problems = append $problems . }}
{{- end }}
{{- end }}
{{- end }}
{{- range $label, $_ := .pod.labels }}
{{- if or (hasPrefix "trainyard.dev/" $label) (hasPrefix "app.kubernetes.io/" $label) }}
{{- $problems = append $problems (printf "%s.labels: %s is the platform's own; choose another key" $.key $label) }}
{{- end }}
{{- end }}
{{- $problems | uniq | join "\n" }}
{{- end }}
