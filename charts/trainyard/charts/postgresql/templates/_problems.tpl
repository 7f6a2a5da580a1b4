{{/* What of the database's volume cannot change, one line each. Params: the chart's root context */}}
{{- define "postgresql.problems" -}}
{{- $name := include "postgresql.fullname" . }}
{{- with lookup "apps/v1" "StatefulSet" .Release.Namespace $name }}
{{- $spec := (first .spec.volumeClaimTemplates).spec }}
{{- $has := $spec.resources.requests.storage }}
{{- $claim := merge (dict "key" "postgresql.persistence" "name" $name "accessMode" "ReadWriteOnce") $.Values.persistence }}
{{- include "common.changedVolume" (dict "what" "StatefulSet" "claim" $claim "spec" $spec) }}
{{- if ne (include "common.quantity" $claim.size) (include "common.quantity" $has) }}
postgresql.persistence.size: the StatefulSet {{ $name }} has {{ $has }}, which Kubernetes does not change; set it back, or make it anew as docs/operations.md#change-a-volume says
{{- end }}
{{- end }}
{{- end }}
