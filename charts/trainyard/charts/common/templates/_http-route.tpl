{{/* The HTTPRoute of a Service, for a Gateway. Its keys are those of the official Airflow chart. A rule that names no
     backend leads to the Service, unless it redirects, as it may have none then. What the API would fill in within
     lists is written: Argo CD compares these as a whole. Params: root, component, name (of both), namespace, port (the
     Service's number), route (values) */}}
{{- define "common.httpRoute" -}}
{{- $route := .route }}
{{- $parents := list }}
{{- range $route.parentRefs }}
{{- $gateway := dict "group" "gateway.networking.k8s.io" "kind" "Gateway" }}
{{- $parents = append $parents (include "common.filledIn" (dict "values" . "defaults" $gateway) | fromJson) }}
{{- end }}
{{- $match := dict "path" (dict "type" $route.pathType "value" $route.path) }}
{{- $rules := list }}
{{- range $route.rules | default (list (dict "matches" (list $match))) }}
{{- $rules = append $rules (include "common.httpRouteRule" (dict "rule" . "service" $.name "port" $.port) | fromJson) }}
{{- end }}
{{- $spec := dict "parentRefs" $parents "rules" $rules }}
{{- with $route.hostnames }}{{ $_ := set $spec "hostnames" . }}{{ end -}}
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: {{ .name | include "common.scalar" }}
  namespace: {{ .namespace | include "common.scalar" }}
  labels:
    {{- include "common.labels" . | nindent 4 }}
    {{- with $route.labels }}{{ toYaml . | nindent 4 }}{{ end }}
  {{- with $route.annotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec: {{- toYaml $spec | nindent 2 }}
{{- end }}

{{/* A rule with what it leaves out. JSON. Params: rule, service, port */}}
{{- define "common.httpRouteRule" -}}
{{- $matches := list }}
{{- range .rule.matches | default (list dict) }}
{{- $matches = append $matches (merge (deepCopy .) (dict "path" (dict "type" "PathPrefix" "value" "/"))) }}
{{- end }}
{{- $redirects := false }}
{{- range .rule.filters }}{{ if eq (toString .type) "RequestRedirect" }}{{ $redirects = true }}{{ end }}{{ end }}
{{- $backends := list }}
{{- range .rule.backendRefs | default (ternary list (list (dict "name" .service "port" (int .port))) $redirects) }}
{{- $service := dict "group" "" "kind" "Service" "weight" 1 }}
{{- $backends = append $backends (include "common.filledIn" (dict "values" . "defaults" $service) | fromJson) }}
{{- end }}
{{- $rule := merge (dict "matches" $matches) (omit .rule "backendRefs") }}
{{- with $backends }}{{ $_ := set $rule "backendRefs" . }}{{ end }}
{{- toJson $rule }}
{{- end }}

{{/* A map with the keys that it lacks; unlike `merge`, it keeps what is empty. JSON. Params: values, defaults */}}
{{- define "common.filledIn" -}}
{{- $all := merge dict .defaults }}
{{- range $key, $value := .values }}{{ $_ := set $all $key $value }}{{ end }}
{{- toJson $all }}
{{- end }}

{{/* What the schema cannot say of it, one line each. `helm template` knows no cluster, and so nothing of its APIs; what
     every cluster has, and only a cluster, is apiregistration. Params: root, key (httpRoute, with the chart's name),
     component, route (values) */}}
{{- define "common.httpRouteProblems" -}}
{{- $key := .key }}
{{- $apis := .root.Capabilities.APIVersions }}
{{- with .route }}
{{- if .enabled }}
{{- if not .parentRefs }}
{{ $key }}.parentRefs: needed where {{ $key }}.enabled is true; name the Gateway, as in {name: gateway, namespace: gateways}
{{- end }}
{{- range .hostnames }}
{{- $label := "[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?" }}
{{- if or (not (regexMatch (printf `^(\*\.)?%[1]s(\.%[1]s)*$` $label) .)) (regexMatch `^[0-9.]+$` .) }}
{{ $key }}.hostnames: {{ . }} is no name of a host; write one, as in airflow.example.com, without https:// and without a port
{{- end }}
{{- end }}
{{- if and ($apis.Has "apiregistration.k8s.io/v1") (not ($apis.Has "gateway.networking.k8s.io/v1")) }}
{{ $key }}.enabled: the cluster has no API gateway.networking.k8s.io/v1; install the Gateway API and a controller for it, or use an Ingress
{{- end }}
{{- end }}
{{- end }}
{{- range $label, $_ := .route.labels }}
{{- if hasKey (include "common.labels" $ | fromYaml) $label }}
{{ $key }}.labels: {{ $label }} is the chart's own; choose another label
{{- end }}
{{- end }}
{{- end }}
