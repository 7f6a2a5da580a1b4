{{/* Mount paths of training.volumes that clash with another path of the training pods, one line each: the same path,
     or one within the other, which would hide a part of it. Params: training.volumes */}}
{{- define "trainyard.mountPathProblems" -}}
{{- $problems := list }}
{{- /* The path /airflow is that of the sidecar which KubernetesPodOperator adds to read a task's result. */}}
{{- $taken := dict "/tmp" "every training pod" "/dev/shm" "every training pod" "/airflow" "every training pod" }}
{{- range $name, $volume := . }}
{{- $key := printf "training.volumes.%s.mountPath" $name }}
{{- $path := clean $volume.mountPath }}
{{- if eq $path "/" }}
{{- $problems = append $problems (printf "%s: / would hide the image; choose a directory, such as /%s" $key $name) }}
{{- else }}
{{- range $other, $owner := $taken }}
{{- if or (hasPrefix (printf "%s/" $other) (printf "%s/" $path)) (hasPrefix (printf "%s/" $path) (printf "%s/" $other)) }}
{{- $problems = append $problems (printf "%s: %s overlaps with %s of %s; choose another path" $key $path $other $owner) }}
{{- end }}
{{- end }}
{{- $_ := set $taken $path $key }}
{{- end }}
{{- end }}
{{- $problems | join "\n" }}
{{- end }}
