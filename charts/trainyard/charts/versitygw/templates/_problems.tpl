{{/* What the schema cannot say of this chart's values, one line each. Params: the chart's root context */}}
{{- define "versitygw.problems" -}}
{{- $problems := list }}
{{- with .Values.service }}
{{- if and .nodePort (eq .type "ClusterIP") }}
{{- $problems = append $problems "versitygw.service.nodePort: type ClusterIP has none; set versitygw.service.type to NodePort, or remove it" }}
{{- end }}
{{- end }}
{{- with include "common.ingressProblem" (dict "key" "versitygw.ingress" "ingress" .Values.ingress) }}
{{- $problems = append $problems . }}
{{- end }}
{{- $problems = concat $problems (include "common.lines" (dict "templates" (list "common.httpRouteProblems")
    "params" (dict "root" . "component" "object-store" "key" "versitygw.httpRoute" "route" .Values.httpRoute)) | fromJsonArray) }}
{{- $problems | join "\n" }}
{{- end }}
