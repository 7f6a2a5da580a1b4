{{- define "mlflow.fullname" -}}
{{ include "common.fullname" (dict "root" . "suffix" "-mlflow" "max" 33) }}
{{- end }}

{{/* The Secret with the database's URL. Params: the chart's root context */}}
{{- define "mlflow.backendSecretName" -}}
{{ .Values.backendStore.secretName | default (printf "%s-backend" (include "mlflow.fullname" .)) }}
{{- end }}

{{/* The image; without a tag or digest, that of this chart's MLflow. Params: the chart's root context */}}
{{- define "mlflow.image" -}}
{{- include "common.image" (dict "root" . "key" "mlflow.image" "image" .Values.image "version" .Chart.AppVersion) -}}
{{- end }}

{{/* The CronJob that the DAG `maintenance` starts. Params: the chart's root context */}}
{{- define "mlflow.garbageCollectionName" -}}
{{ include "mlflow.fullname" . }}-garbage-collection
{{- end }}

{{- define "mlflow.artifactsClaim" -}}
{{ .Values.artifacts.persistence.existingClaim | default (printf "%s-artifacts" (include "mlflow.fullname" .)) }}
{{- end }}

{{/* Host headers that the server answers to: a comma-separated list of exact names, so that a page in a browser
     cannot reach it by DNS rebinding. Params: the chart's root context */}}
{{- define "mlflow.allowedHosts" -}}
{{- $name := include "mlflow.fullname" . -}}
{{- $service := printf "%s.%s" $name .Release.Namespace -}}
{{- $hosts := list $name $service (printf "%s.svc" $service) (printf "%s.svc.cluster.local" $service) "localhost" "127.0.0.1" -}}
{{- $all := list -}}
{{- range $hosts }}{{ $all = concat $all (list . (printf "%s:%d" . (int $.Values.service.port))) }}{{ end -}}
{{- range include "mlflow.pages" . | fromJsonArray }}{{ $all = append $all (regexReplaceAll "^[a-z]+://" . "") }}{{ end -}}
{{- concat $all .Values.allowedHosts | uniq | join "," -}}
{{- end }}

{{/* Addresses of the pages for people, each as scheme://host, with the port where it is another than the scheme's: those of
     the Ingress, then those of the HTTPRoute. JSON. Params: the chart's root context */}}
{{- define "mlflow.pages" -}}
{{- $pages := list -}}
{{- with .Values.ingress }}
{{- if .enabled }}{{ $pages = append $pages (include "mlflow.page" (dict "host" .host "tls" (ne .tlsSecretName "") "port" .port)) }}{{ end }}
{{- end }}
{{- with .Values.httpRoute }}
{{- if .enabled }}
{{- $route := . }}
{{- range .hostnames }}{{ $pages = append $pages (include "mlflow.page" (dict "host" . "tls" $route.tls "port" $route.port)) }}{{ end }}
{{- end }}
{{- end }}
{{- uniq $pages | toJson -}}
{{- end }}

{{/* One of them. Params: host, tls, port (may be null) */}}
{{- define "mlflow.page" -}}
{{- $usual := ternary 443 80 .tls -}}
http{{ if .tls }}s{{ end }}://{{ .host }}{{ if and .port (ne (int .port) $usual) }}:{{ int .port }}{{ end }}
{{- end }}

{{/* Who may log in: name -> role. The platform's own four, one for the training pods of each team, and people. JSON.
     Params: the chart's root context */}}
{{- define "mlflow.accounts" -}}
{{- $accounts := dict "admin" "admin" "trainer" "trainer" "promoter" "promoter" "serving" "viewer" -}}
{{- range $name, $_ := include "mlflow.teams" . | fromJson }}{{ $_ := set $accounts $name "team-trainer" }}{{ end -}}
{{- range $name, $role := .Values.auth.people }}{{ if $role }}{{ $_ := set $accounts $name $role }}{{ end }}{{ end -}}
{{- toJson $accounts -}}
{{- end }}

{{/* The accounts of training pods where there are teams: name -> the names of their experiments, for files/server/teams.py.
     Empty without. The umbrella sets `auth.teams`, which is no value of this chart. JSON. Params: the chart's root context */}}
{{- define "mlflow.teams" -}}
{{- with .Values.auth.teams }}{{ merge (dict "trainer" list) . | toJson }}{{ else }}{}{{ end }}
{{- end }}

{{/* The Secret of an account: its `username`, its `password`, and `credentials`, which is a file of MLflow's clients with
     both. Params: root (the chart's root context), account */}}
{{- define "mlflow.accountSecretName" -}}
{{ include "mlflow.fullname" .root }}-login-{{ .account }}
{{- end }}

{{/* The Secret with the key of sessions, the same for all replicas. Params: the chart's root context */}}
{{- define "mlflow.sessionSecretName" -}}
{{ include "mlflow.fullname" . }}-session
{{- end }}

{{/* Whether people log in at a provider. Params: the chart's root context */}}
{{- define "mlflow.hasSingleSignOn" -}}
{{- if and .Values.auth.enabled .Values.auth.oidc.issuer }}true{{ end }}
{{- end }}

{{/* What the server knows of it: the settings of files/server/single_sign_on.py. JSON. Params: the chart's root context */}}
{{- define "mlflow.singleSignOn" -}}
{{- with .Values.auth.oidc -}}
{{- dict "issuer" .issuer "client_id" .clientId "client_secret_file" "/single-sign-on/client-secret" "scopes" .scopes
    "username_claim" .usernameClaim "groups_claim" .groupsClaim "roles" .roles "session_hours" .sessionHours
    "require_verified_email" .requireVerifiedEmail
    "pages" (include "mlflow.pages" $ | fromJsonArray) "ca" (ternary "/single-sign-on/ca.crt" "" (ne .caSecretName "")) | toJson -}}
{{- end }}
{{- end }}

{{/* The files of it, as a volume. Params: the chart's root context */}}
{{- define "mlflow.singleSignOnVolume" -}}
{{- with .Values.auth.oidc }}
{{- $sources := list (dict "secret" (dict "name" .secretName "items" (list (dict "key" .secretKey "path" "client-secret")))) }}
{{- with .caSecretName }}
{{- $sources = append $sources (dict "secret" (dict "name" . "items" (list (dict "key" "ca.crt" "path" "ca.crt")))) }}
{{- end }}
{{- dict "name" "single-sign-on" "projected" (dict "sources" $sources) | toYaml }}
{{- end }}
{{- end }}

{{/* What logs in as an account: its file of MLflow's clients, as a volume. Params: root, account */}}
{{- define "mlflow.credentialsVolume" -}}
name: mlflow-login
secret:
  secretName: {{ include "mlflow.accountSecretName" . | include "common.scalar" }}
  items: [{key: credentials, path: credentials}]
{{- end }}

{{/* Where MLflow's clients look for it: ~/.mlflow, for pods whose home is /tmp. */}}
{{- define "mlflow.credentialsMount" -}}
{name: mlflow-login, mountPath: /tmp/.mlflow, readOnly: true}
{{- end }}

{{/* The scripts of the server. Params: the chart's root context */}}
{{- define "mlflow.scriptsData" -}}
{{ (.Files.Glob "files/server/*.py").AsConfig }}
{{- end }}

{{/* The claims that this chart makes. JSON, a list as for common.claimProblems. Params: the chart's root context */}}
{{- define "mlflow.claims" -}}
{{- $claims := list }}
{{- with .Values.artifacts.persistence }}
{{- if and .enabled (not .existingClaim) }}
{{- $claims = append $claims (dict "key" "mlflow.artifacts.persistence" "namespace" $.Release.Namespace "name" (include "mlflow.artifactsClaim" $)
    "component" "artifacts" "keep" true "accessMode" .accessMode "size" .size "storageClassName" .storageClassName) }}
{{- end }}
{{- end }}
{{- toJson $claims }}
{{- end }}
