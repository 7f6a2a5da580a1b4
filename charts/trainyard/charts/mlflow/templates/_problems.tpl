{{/* What the schema cannot say of this chart's values, one line each. Params: the chart's root context */}}
{{- define "mlflow.problems" -}}
{{- $problems := splitList "\n" (include "common.claimProblems" (dict "claims" (include "mlflow.claims" . | fromJsonArray))) | compact }}
{{- range .Values.allowedHosts }}
{{- if contains "*" . }}
{{- $problems = append $problems (printf "mlflow.allowedHosts: %s would let any page in a browser reach MLflow, by DNS rebinding; name each host" .) }}
{{- end }}
{{- end }}
{{- range .Values.env }}
{{- if and (($.Values.global).databaseTls).mode (has .name (list "PGSSLMODE" "PGSSLROOTCERT")) }}
{{- $problems = append $problems (printf "mlflow.env: %s comes from global.databaseTls; remove it" .name) }}
{{- end }}
{{- end }}
{{- with include "common.ingressProblem" (dict "key" "mlflow.ingress" "ingress" .Values.ingress) }}
{{- $problems = append $problems . }}
{{- end }}
{{- $problems = concat $problems (include "common.lines" (dict "templates" (list "common.httpRouteProblems" "mlflow.httpRouteProblems")
    "params" (dict "root" . "component" "tracking-server" "key" "mlflow.httpRoute" "route" .Values.httpRoute)) | fromJsonArray) }}
{{- with include "common.checksumProblems" (dict "key" "mlflow.podAnnotations" "annotations" .Values.podAnnotations) }}
{{- $problems = concat $problems (splitList "\n" .) }}
{{- end }}
{{- with include "common.nameProblems" (dict "key" "mlflow.auth.people" "values" (.Values.auth.people | default dict) "max" 63 "separator" ".-") }}
{{- $problems = append $problems . }}
{{- end }}
{{- range $name := concat (list "admin" "trainer" "promoter" "serving") (keys ($.Values.auth.teams | default dict) | sortAlpha) }}
{{- if hasKey ($.Values.auth.people | default dict) $name }}
{{- $problems = append $problems (printf "mlflow.auth.people.%s: the platform has an account of this name itself; choose another name" $name) }}
{{- end }}
{{- end }}
{{- $problems = concat $problems (splitList "\n" (include "mlflow.singleSignOnProblems" .) | compact) }}
{{- with .Values.artifacts }}
{{- if hasPrefix "/" .destination }}
{{- if not .persistence.enabled }}
{{- $problems = append $problems (printf "mlflow.artifacts.destination: %s would go with the pod, as mlflow.artifacts.persistence.enabled is false; name an object store, or turn that on" .destination) }}
{{- else if not (hasPrefix (printf "%s/" (clean .persistence.mountPath)) (printf "%s/" (clean .destination))) }}
{{- $problems = append $problems (printf "mlflow.artifacts.destination: %s is not on the volume at mlflow.artifacts.persistence.mountPath %s; name a path below that" .destination .persistence.mountPath) }}
{{- end }}
{{- end }}
{{- end }}
{{- with include "common.scheduleProblem" .Values.garbageCollection.schedule }}
{{- $problems = append $problems (printf "mlflow.garbageCollection.schedule: %s" .) }}
{{- end }}
{{- with .Values.service }}
{{- if and .nodePort (eq .type "ClusterIP") }}
{{- $problems = append $problems "mlflow.service.nodePort: type ClusterIP has none; set mlflow.service.type to NodePort, or remove it" }}
{{- end }}
{{- end }}
{{- $problems | join "\n" }}
{{- end }}

{{/* Hosts that MLflow would not answer to, or to too many of. Params: as those of common.httpRouteProblems */}}
{{- define "mlflow.httpRouteProblems" -}}
{{- if .route.enabled }}
{{- if not .route.hostnames }}
{{ .key }}.hostnames: needed where {{ .key }}.enabled is true, as MLflow answers to names that it knows
{{- end }}
{{- range .route.hostnames }}
{{- if contains "*" . }}
{{ $.key }}.hostnames: {{ . }} is no single host, and MLflow answers to names that it knows; name each host
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* What is wrong with single sign-on, one line each. Params: the chart's root context */}}
{{- define "mlflow.singleSignOnProblems" -}}
{{- with .Values.auth.oidc }}
{{- if .issuer }}
{{- if not $.Values.auth.enabled }}
mlflow.auth.oidc.issuer: nobody logs in while mlflow.auth.enabled is false; set that to true, or remove the issuer
{{- end }}
{{- if not .secretName }}
mlflow.auth.oidc.secretName: is empty; name a Secret with the secret of the client {{ .clientId }} under {{ .secretKey }}
{{- end }}
{{- if not (compact (values .roles)) }}
mlflow.auth.oidc.roles: nobody would get in; give a group a role, or everybody, as in {"*": viewer}
{{- end }}
{{- if not (has "openid" .scopes) }}
mlflow.auth.oidc.scopes: without openid the provider says nothing of who somebody is; add it
{{- end }}
{{- end }}
{{- end }}
{{- end }}
