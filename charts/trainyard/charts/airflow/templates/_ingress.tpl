{{/* The hosts of the api-server's Ingress, each as {name, tls}: those of `hosts`, which are names or {name, tls}, else
     `host`. Who has no `tls` has that of the Ingress. JSON. Params: the chart's root context */}}
{{- define "airflow.ingressHosts" -}}
{{- $ingress := .Values.ingress.apiServer }}
{{- $hosts := list }}
{{- with $ingress.host }}{{ $hosts = list . }}{{ end }}
{{- $all := list }}
{{- range $ingress.hosts | default $hosts }}
{{- $host := ternary (dict "name" .) . (kindIs "string" .) }}
{{- $all = append $all (dict "name" $host.name "tls" ($host.tls | default $ingress.tls)) }}
{{- end }}
{{- toJson $all }}
{{- end }}

