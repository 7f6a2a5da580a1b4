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
