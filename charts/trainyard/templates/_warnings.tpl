{{/* What helm tells after each install and upgrade: choices that are right for a trial and wrong for real use. Nothing is
     refused for them. A template here makes a list of texts as JSON; add a further one to the list.
     Params: the root context */}}
{{- define "trainyard.warnings" -}}
{{- include "common.lines" (dict "params" . "templates" (list "trainyard.passwordWarnings" "trainyard.tlsWarnings"
    "trainyard.loginWarnings" "trainyard.imageWarnings" "trainyard.drainWarnings" "trainyard.clusterWarnings")) }}
{{- end }}

{{/* Passwords that stand in values, and so in git and in the Secret that Helm keeps. One line each. */}}
{{- define "trainyard.passwordWarnings" -}}
{{- if .Values.airflow.enabled }}
{{- $airflow := .Subcharts.airflow.Values }}
{{- with ($airflow.data.metadataConnection).pass }}
airflow.data.metadataConnection.pass: the database's password stands in your values{{ if has . (list "postgres" "airflow" "admin" "password") }}, and is one that everybody tries first{{ end }}; name a Secret in airflow.data.metadataSecretName
{{- end }}
{{- if and $airflow.pgbouncer.enabled $airflow.pgbouncer.ssl.key }}
airflow.pgbouncer.ssl.key: a private key stands in your values; mount a Secret in airflow.pgbouncer.extraVolumes, and name its files in airflow.pgbouncer.extraIni
{{- end }}
{{- range $airflow.createUserJob.env }}
{{- if and (contains "PASSWORD" (.name | default "")) .value }}
airflow.createUserJob.env: {{ .name }} stands in your values; leave it out, and the password is made in the cluster
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* What is reached in the clear from outside of the cluster, or outside of it. One line each. */}}
{{- define "trainyard.tlsWarnings" -}}
{{- $hasOwnDatabase := and (not .Values.postgresql.enabled) (or .Values.airflow.enabled .Values.mlflow.enabled) }}
{{- if and $hasOwnDatabase (not (hasPrefix "verify-" .Values.global.databaseTls.mode)) }}
global.databaseTls.mode: the database is your own, and nobody checks whose server it is; set verify-full and caSecretName
{{- end }}
{{- if .Values.airflow.enabled }}
{{- $airflow := .Subcharts.airflow }}
{{- if $airflow.Values.ingress.apiServer.enabled }}
{{- range include "airflow.ingressHosts" $airflow | fromJsonArray }}
{{- if not (.tls | default dict).enabled }}
airflow.ingress.apiServer: {{ .name }} has no TLS, so that passwords go in the clear; set its tls.enabled and tls.secretName
{{- end }}
{{- end }}
{{- end }}
{{- if eq $airflow.Values.apiServer.service.type "LoadBalancer" }}
airflow.apiServer.service.type: a LoadBalancer has no TLS, so that passwords go in the clear; use airflow.ingress.apiServer
{{- end }}
{{- end }}
{{- range $name := list "mlflow" "versitygw" }}
{{- $values := index $.Values $name }}
{{- if $values.enabled }}
{{- if and $values.ingress.enabled (not $values.ingress.tlsSecretName) }}
{{ $name }}.ingress: {{ $values.ingress.host }} has no TLS; set {{ $name }}.ingress.tlsSecretName
{{- end }}
{{- if and (eq $name "mlflow") $values.httpRoute.enabled (not $values.httpRoute.tls) }}
mlflow.httpRoute.tls: passwords go to {{ join ", " $values.httpRoute.hostnames }} in the clear; give the Gateway's listener a certificate, and set it to true
{{- end }}
{{- if eq $values.service.type "LoadBalancer" }}
{{ $name }}.service.type: a LoadBalancer has no TLS; use {{ $name }}.ingress
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* Pages that anybody may use. One line each. */}}
{{- define "trainyard.loginWarnings" -}}
{{- if and .Values.mlflow.enabled (not .Values.mlflow.auth.enabled) }}
{{- with .Values.mlflow }}
{{- $pages := include "mlflow.pages" $.Subcharts.mlflow | fromJsonArray }}
{{- if $pages }}
mlflow.auth.enabled: MLflow asks nobody for a login: whoever reaches {{ join " or " $pages | replace "https://" "" | replace "http://" "" }} may read, change and delete every model; set it to true
{{- else if ne .service.type "ClusterIP" }}
mlflow.auth.enabled: MLflow asks nobody for a login: whoever reaches its {{ .service.type }} may read, change and delete every model; set it to true
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* Images that are placeholders. One line each. */}}
{{- define "trainyard.imageWarnings" -}}
{{- $images := dict "training.image" (dict "root" . "image" .Values.training.image) }}
{{- range $name := list "mlflow" "versitygw" "postgresql" "nvidia-device-plugin" }}
{{- if (index $.Values $name).enabled }}
{{- $chart := index $.Subcharts $name }}
{{- $_ := set $images (printf "%s.image" $name) (dict "root" $chart "image" $chart.Values.image) }}
{{- end }}
{{- end }}
{{- if .Values.airflow.enabled }}
{{- $airflow := .Subcharts.airflow }}
{{- $_ := set $images "airflow.images.airflow" (dict "root" $airflow "image" $airflow.Values.images.airflow) }}
{{- if $airflow.Values.pgbouncer.enabled }}{{ $_ := set $images "airflow.images.pgbouncer" (dict "root" $airflow "image" $airflow.Values.images.pgbouncer) }}{{ end }}
{{- if $airflow.Values.dags.image.enabled }}{{ $_ := set $images "airflow.dags.image" (dict "root" $airflow "image" $airflow.Values.dags.image) }}{{ end }}
{{- end }}
{{- range $key, $one := $images }}
{{- $reference := include "common.image" (dict "root" $one.root "key" $key "image" $one.image "version" $one.root.Chart.AppVersion) }}
{{- if regexMatch `(^|[./])example\.(com|org|net)/` $reference }}
{{ $key }}: {{ $reference }} is a placeholder; name your registry
{{- else if regexMatch `@sha256:0+$` $reference }}
{{ $key }}: {{ $reference }} is a placeholder; give the digest that ./scripts/publish prints
{{- else if and (hasPrefix "trainyard/" $reference) (ne $one.image.pullPolicy "Never") (ne $one.image.pullPolicy "IfNotPresent") }}
{{ $key }}: {{ $reference }} names no registry, and would come from whoever has that name at the public one; name yours, or set global.imageRegistry
{{- end }}
{{- end }}
{{- end }}

{{/* PodDisruptionBudgets that let no pod go: their nodes cannot be drained. With an autoscaler its fewest replicas count.
     A share is rounded up, as Kubernetes does. One line each. */}}
{{- define "trainyard.drainWarnings" -}}
{{- $components := dict }}
{{- if .Values.airflow.enabled }}
{{- range $name := list "apiServer" "scheduler" "dagProcessor" "triggerer" }}
{{- $_ := set $components (printf "airflow.%s" $name) (index $.Subcharts.airflow.Values $name) }}
{{- end }}
{{- with .Subcharts.airflow.Values.pgbouncer }}{{ if .enabled }}{{ $_ := set $components "airflow.pgbouncer" . }}{{ end }}{{ end }}
{{- end }}
{{- if .Values.mlflow.enabled }}{{ $_ := set $components "mlflow" .Subcharts.mlflow.Values }}{{ end }}
{{- range $key, $component := $components }}
{{- if $component.podDisruptionBudget.enabled }}
{{- $replicas := int $component.replicas }}
{{- if ($component.hpa).enabled }}{{ $replicas = int $component.hpa.minReplicaCount }}{{ end }}
{{- range $name, $amount := include "common.budget" $component.podDisruptionBudget.config | fromJson }}
{{- $text := include "common.text" $amount }}
{{- $number := regexFind "^[0-9]+" $text | int }}
{{- if hasSuffix "%" $text }}{{ $number = div (add (mul $number $replicas) 99) 100 | int }}{{ end }}
{{- if and (gt $replicas 0) (ternary (ge $number $replicas) (eq $number 0) (eq $name "minAvailable")) }}
{{ $key }}.podDisruptionBudget.config.{{ $name }}: {{ $text }} of {{ $replicas }} lets no pod go, so that its node cannot be drained; {{ ternary "lower" "raise" (eq $name "minAvailable") }} it{{ if eq $name "minAvailable" }}, or have more replicas{{ end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* The cluster around it. One line each. */}}
{{- define "trainyard.clusterWarnings" -}}
{{- $plugin := index .Values "nvidia-device-plugin" }}
{{- $onTrial := and $plugin.enabled (index .Subcharts "nvidia-device-plugin").Values.simulator.enabled }}
{{- if not .Values.networkPolicies.enabled }}
networkPolicies.enabled: every pod of the cluster reaches the database, MLflow and the object store, and training pods reach everything; set it to true
{{- end }}
{{- if and .Values.postgresql.enabled (not $onTrial) }}
postgresql.enabled: the embedded database is one pod on one volume{{ if not .Values.backup.enabled }}, without a backup{{ end }}; for production use a server of your own{{ if not .Values.backup.enabled }}, or set backup.enabled{{ end }}
{{- end }}
{{- if and $plugin.enabled (not $onTrial) }}
{{- range $api, $owner := dict "cloud.google.com/v1" "GKE" "nvidia.com/v1/ClusterPolicy" "NVIDIA's GPU operator" }}
{{- if $.Capabilities.APIVersions.Has $api }}
nvidia-device-plugin.enabled: {{ $owner }}, which is in this cluster, runs a device plugin of its own, and two on a node hand out the same GPUs; set it to false
{{- end }}
{{- end }}
{{- end }}
{{- end }}
