{{/* What of the database's volume cannot change, one line each. Params: the chart's root context */}}
{{- define "postgresql.problems" -}}
{{- $name := include "postgresql.fullname" . }}
{{- with lookup "apps/v1" "StatefulSet" .Release.Namespace $name }}
{{- $spec := (first .spec.volumeClaimTemplates).spec }}
{{- $claim := merge (dict "key" "postgresql.persistence" "name" $name "accessMode" "ReadWriteOnce") $.Values.persistence }}
{{- include "common.claimTemplateChanges" (dict "claim" $claim "there" $spec) }}
{{- end }}
{{- end }}
