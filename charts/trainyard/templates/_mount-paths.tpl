{{/* Why a path of a pod clashes with another one of it: the same path, or one within the other, which would hide a part
     of it; nothing if it does not. Adds the path to `taken`. Params: key, path, name, taken (paths, with whose they are) */}}
{{- define "trainyard.pathProblem" -}}
{{- $path := clean .path }}
{{- $problem := "" }}
{{- if eq $path "/" }}
{{- $problem = printf "%s: / would hide the image; choose a directory, such as /%s" .key .name }}
{{- else }}
{{- range $other, $owner := .taken }}
{{- if or (hasPrefix (printf "%s/" $other) (printf "%s/" $path)) (hasPrefix (printf "%s/" $path) (printf "%s/" $other)) }}
{{- $problem = printf "%s: %s overlaps with %s of %s; choose another path" $.key $path $other $owner }}
{{- end }}
{{- end }}
{{- $_ := set .taken $path .key }}
{{- end }}
{{- $problem }}
{{- end }}

{{/* Paths that every training pod has, with whose they are. JSON. The path /airflow is that of the sidecar which
     KubernetesPodOperator adds to read a task's result. */}}
{{- define "trainyard.trainingPaths" -}}
{{- dict "/tmp" "every training pod" "/dev/shm" "every training pod" "/airflow" "every training pod" | toJson }}
{{- end }}
