{{/* What Kubernetes does not change in an object that is there: refused before an upgrade changes anything. */}}

{{/* The claims that this chart makes itself. JSON, a list as for common.claimProblems. Params: the root context */}}
{{- define "trainyard.claims" -}}
{{- $claims := list }}
{{- range $name, $volume := include "trainyard.claimedVolumes" . | fromJson }}
{{- if or .create (not (hasKey . "create")) }}
{{- range $namespace := include "trainyard.trainingNamespaceNames" $ | fromJsonArray }}
{{- $claims = append $claims (merge (dict "key" (printf "training.volumes.%s" $name) "namespace" $namespace "name" $volume.claimName) $volume) }}
{{- end }}
{{- end }}
{{- end }}
{{- if and .Values.airflow.enabled .Values.airflowLogs.create }}
{{- with .Values.airflow.logs.persistence }}
{{- if and .enabled .existingClaim }}
{{- $claims = append $claims (dict "key" "airflow.logs.persistence" "namespace" $.Release.Namespace "name" .existingClaim
    "size" .size "storageClassName" .storageClassName) }}
{{- end }}
{{- end }}
{{- end }}
{{- with .Values.versitygw }}
{{- if and .enabled $.Values.training.volumes.datasets.uri (not .persistence.existingClaim) }}
{{- $claims = append $claims (merge (dict "key" "versitygw.persistence" "namespace" (include "trainyard.versitygwNamespace" $)
    "name" (include "trainyard.versitygwClaim" $)) .persistence) }}
{{- end }}
{{- end }}
{{- with .Values.backup }}
{{- if and .enabled (not .uri) (not .persistence.existingClaim) }}
{{- $claims = append $claims (merge (dict "key" "backup.persistence" "namespace" $.Release.Namespace
    "name" (include "trainyard.backupClaim" $)) .persistence) }}
{{- end }}
{{- end }}
{{- range $claims }}
{{- $_ := merge . (dict "component" "storage" "keep" true) }}
{{- if not .accessMode }}{{ $_ := set . "accessMode" "ReadWriteMany" }}{{ end }}
{{- end }}
{{- toJson $claims }}
{{- end }}

{{/* One line for each value of this chart's own that cannot change. Params: the root context */}}
{{- define "trainyard.changeProblems" -}}
{{- include "common.claimProblems" (dict "claims" (include "trainyard.claims" . | fromJsonArray)) }}
{{- range $name, $class := .Values.priorityClasses }}
{{- if $class.enabled }}
{{- $there := lookup "scheduling.k8s.io/v1" "PriorityClass" "" $name }}
{{- if $there }}
{{- range $key, $wants := dict "value" $class.value "preemptionPolicy" (include "trainyard.preemptionPolicy" $class) }}
{{- $is := get $there $key | include "common.text" }}
{{- if ne $is ($wants | include "common.text") }}
priorityClasses.{{ $name }}.{{ $key }}: the class has {{ $is }}, which Kubernetes does not change; set it back, or delete the class first (pods keep their priority): kubectl delete priorityclass {{ $name }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* Whether pods of a PriorityClass preempt others. Written out: Kubernetes would put it there. Params: the class */}}
{{- define "trainyard.preemptionPolicy" -}}
{{ .preemptionPolicy | default "PreemptLowerPriority" }}
{{- end }}
