{{/* What the names of the platform's own objects start with. Templates that Airflow's chart includes get its context, so
     this takes nothing but the release. Params: a root context, of any chart here */}}
{{- define "trainyard.fullname" -}}
{{ include "common.fullname" (dict "root" (dict "Values" dict "Release" .Release) "max" 33) }}
{{- end }}

{{/* The Job that makes Secrets, without its hash, and its ServiceAccount and Roles. */}}
{{- define "trainyard.bootstrapName" -}}
{{ include "trainyard.fullname" . }}-bootstrap-secrets
{{- end }}

{{/* The ConfigMap with platform.json. */}}
{{- define "trainyard.platformConfigMapName" -}}
{{ include "trainyard.fullname" . }}-platform
{{- end }}

{{/* The Secret whose key `connection` is Airflow's connection trainyard_s3. */}}
{{- define "trainyard.s3ConnectionSecretName" -}}
{{ include "trainyard.fullname" . }}-s3-connection
{{- end }}

{{/* The Secret by whose key `credentials` the triggerer logs in to MLflow. */}}
{{- define "trainyard.mlflowPromoterSecretName" -}}
{{ include "trainyard.fullname" . }}-promoter
{{- end }}

{{/* The Secret that says who gets alerts, which is the user's. */}}
{{- define "trainyard.alertsSecretName" -}}
{{ include "trainyard.fullname" . }}-alerts
{{- end }}

{{/* The Secret of Airflow's first user. Params: the root context */}}
{{- define "trainyard.adminSecretName" -}}
{{ .Values.secrets.admin.secretName | default (printf "%s-admin" (include "trainyard.fullname" .)) }}
{{- end }}

{{/* Where the object store runs: beside the claim that it serves. Params: the root context */}}
{{- define "trainyard.versitygwNamespace" -}}
{{ .Values.versitygw.namespace | default .Values.training.namespace }}
{{- end }}

{{/* The claim that it serves: that of the datasets, or where these are in the object store one of its own.
     Params: the root context */}}
{{- define "trainyard.versitygwClaim" -}}
{{- $datasets := .Values.training.volumes.datasets }}
{{- .Values.versitygw.persistence.existingClaim | default (ternary (include "versitygw.fullname" .Subcharts.versitygw) $datasets.claimName (not (empty $datasets.uri))) }}
{{- end }}

{{/* What the names of each chart that is on start with, the umbrella's as well. JSON. Params: the root context */}}
{{- define "trainyard.nameStarts" -}}
{{- $starts := dict .Chart.Name (include "trainyard.fullname" .) }}
{{- range $name, $chart := .Subcharts }}
{{- if (index $.Values $name).enabled }}{{ $_ := set $starts $name (include (printf "%s.fullname" $name) $chart) }}{{ end }}
{{- end }}
{{- toJson $starts }}
{{- end }}

{{/* The names that a chart may give, each as namespace/name, by files/name-ends.yaml. A subchart has the start for its own
     as well, as namespace/start/. JSON. Params: root, chart, start */}}
{{- define "trainyard.namePlaces" -}}
{{- $values := .root.Values }}
{{- $release := .root.Release.Namespace }}
{{- $spaces := dict "release" $release "training" $values.training.namespace "serving" $values.serving.namespace
    "jobs" $values.stockOperators.namespace "store" (include "trainyard.versitygwNamespace" .root)
    "plugin" ((index $values "nvidia-device-plugin").namespaceOverride | default $release) }}
{{- $users := dict }}
{{- if eq .chart "airflow" }}{{ $_ := set $users "BUNDLE" (include "airflow.gitBundles" .root.Subcharts.airflow | fromYaml | keys) }}{{ end }}
{{- if eq .chart "mlflow" }}{{ $_ := set $users "ACCOUNT" (include "mlflow.accounts" .root.Subcharts.mlflow | fromJson | keys) }}{{ end }}
{{- if eq .chart "nvidia-device-plugin" }}{{ $_ := set $users "POOL" ($values.gpuPools | default dict | keys) }}{{ end }}
{{- $places := list }}
{{- range $space, $ends := get (.root.Files.Get "files/name-ends.yaml" | fromYaml) .chart }}
{{- $all := list }}
{{- if not (or (eq $.chart $.root.Chart.Name) (has $space (list "training" "serving"))) }}
{{- $places = append $places (printf "%s/%s/" (get $spaces $space) $.start) }}
{{- end }}
{{- range $end := $ends }}
{{- $word := regexFind "[A-Z]+$" $end }}
{{- if $word }}
{{- range get $users $word }}{{ $all = append $all (replace $word . $end) }}{{ end }}
{{- else }}
{{- $all = append $all $end }}
{{- end }}
{{- end }}
{{- range $all }}{{ $places = append $places (printf "%s/%s-%s" (get $spaces $space) $.start . | trimSuffix "-") }}{{ end }}
{{- end }}
{{- uniq $places | toJson }}
{{- end }}
