{{/* The HTTPRoute of a Service, for a Gateway. Its keys are those of the official Airflow chart. A rule that names no
     backend leads to the Service, unless it redirects, as the API allows none then. What the API would fill in within
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
{{- range .rule.matches | default (list dict) }}{{ $matches = append $matches (include "common.httpRouteMatch" . | fromJson) }}{{ end }}
{{- $filters := include "common.httpRouteFilters" (.rule.filters | default list) | fromJsonArray }}
{{- $redirects := false }}
{{- range $filters }}{{ if eq (toString .type) "RequestRedirect" }}{{ $redirects = true }}{{ end }}{{ end }}
{{- $backends := list }}
{{- range .rule.backendRefs | default (ternary list (list (dict "name" .service "port" (int .port))) $redirects) }}
{{- $service := dict "group" "" "kind" "Service" "weight" 1 }}
{{- $backend := include "common.filledIn" (dict "values" . "defaults" $service) | fromJson }}
{{- with .filters }}{{ $_ := set $backend "filters" (include "common.httpRouteFilters" . | fromJsonArray) }}{{ end }}
{{- $backends = append $backends $backend }}
{{- end }}
{{- $rule := merge (dict "matches" $matches) (omit .rule "backendRefs" "matches" "filters") }}
{{- with $filters }}{{ $_ := set $rule "filters" . }}{{ end }}
{{- with $backends }}{{ $_ := set $rule "backendRefs" . }}{{ end }}
{{- toJson $rule }}
{{- end }}

{{/* What a rule is for, with what it leaves out. JSON. Params: one of its matches */}}
{{- define "common.httpRouteMatch" -}}
{{- $path := include "common.filledIn" (dict "values" (.path | default dict) "defaults" (dict "type" "PathPrefix" "value" "/")) | fromJson }}
{{- $match := merge (dict "path" $path) (deepCopy .) }}
{{- range $key := list "headers" "queryParams" }}
{{- $conditions := list }}
{{- range get $match $key | default list }}
{{- $conditions = append $conditions (include "common.filledIn" (dict "values" . "defaults" (dict "type" "Exact")) | fromJson) }}
{{- end }}
{{- with $conditions }}{{ $_ := set $match $key . }}{{ end }}
{{- end }}
{{- toJson $match }}
{{- end }}

{{/* Filters with what they leave out. JSON. Params: the list */}}
{{- define "common.httpRouteFilters" -}}
{{- $filters := list }}
{{- range . }}
{{- $filter := deepCopy . }}
{{- with .requestRedirect }}
{{- $_ := set $filter "requestRedirect" (include "common.filledIn" (dict "values" . "defaults" (dict "statusCode" 302)) | fromJson) }}
{{- end }}
{{- with .requestMirror }}
{{- $mirror := deepCopy . }}
{{- $_ := set $mirror "backendRef" (include "common.filledIn" (dict "values" (.backendRef | default dict) "defaults" (dict "group" "" "kind" "Service")) | fromJson) }}
{{- with .fraction }}
{{- $_ := set $mirror "fraction" (include "common.filledIn" (dict "values" . "defaults" (dict "denominator" 100)) | fromJson) }}
{{- end }}
{{- $_ := set $filter "requestMirror" $mirror }}
{{- end }}
{{- $filters = append $filters $filter }}
{{- end }}
{{- toJson $filters }}
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
