{{/* What Kueue is told, where pools are lists' as well: GPUs that several queues of a team share belong to none of them, but
     to the team's Cohort, from which all borrow. What is more than a name is JSON. */}}

{{/* What names a team's queue of a pool or list, or its Cohort. Names of pools have no dots, so none is another pool's.
     Params: name (its first part), team (its name; "" for no team) */}}
{{- define "trainyard.queueName" -}}
{{ include "trainyard.teamName" (dict "name" .name "team" .team "separator" ".") }}
{{- end }}

{{/* The pools that are in a list, in order of their names. A list. Params: the root context */}}
{{- define "trainyard.listedPools" -}}
{{- $listed := list }}
{{- range .Values.gpuPoolLists }}{{ $listed = concat $listed .pools }}{{ end }}
{{- $listed | uniq | sortAlpha | toJson }}
{{- end }}

{{/* The Cohort of a team's GPUs of listed pools, or of all teams'. Names of pools have no dots, so none is a pool's own.
     Params: root, of (own or all), team (its name; "" for no team) */}}
{{- define "trainyard.cohortName" -}}
{{ include "trainyard.clusterScopedName" (dict "root" .root "component" (include "trainyard.queueName" (dict "name" (print .of ".pools") "team" .team))) | include "common.scalar" }}
{{- end }}

{{/* GPUs of a pool as a flavor of a queue or a Cohort. Params: root, pool (its name), share (what trainyard.teamShare
     says; without it, as many as the Cohort gives) */}}
{{- define "trainyard.flavorQuota" -}}
{{- $share := .share | default (dict "own" 0) }}
{{- /* Quantities, which the API server writes so. */}}
{{- $quota := dict "name" (get .root.Values.gpuPools .pool).resourceName "nominalQuota" (toString $share.own) }}
{{- if hasKey $share "borrow" }}{{ $_ := set $quota "borrowingLimit" (toString $share.borrow) }}{{ end }}
{{- if hasKey $share "lend" }}{{ $_ := set $quota "lendingLimit" (toString $share.lend) }}{{ end }}
{{- dict "name" (include "trainyard.clusterScopedName" (dict "root" .root "component" .pool)) "resources" (list $quota) | toJson }}
{{- end }}

{{/* A ClusterQueue and the LocalQueue by which Jobs name it. Params: root, name (of the latter), space (of
     trainyard.trainingNamespaces), resource, flavors (a list of trainyard.flavorQuota), isShared (whether the GPUs are the
     Cohort's); optional: cohort, weight (for fair sharing), fungibility (of trainyard.fungibility) */}}
{{- define "trainyard.queue" -}}
{{- $labels := include "common.labels" (dict "root" .root "component" "queues") }}
{{- $name := include "trainyard.clusterScopedName" (dict "root" .root "component" (include "trainyard.queueName" (dict "name" .name "team" .space.team))) | include "common.scalar" }}
apiVersion: kueue.x-k8s.io/v1beta2
kind: ClusterQueue
metadata:
  name: {{ $name }}
  labels: {{- $labels | nindent 4 }}
spec:
  # By priority, then by age. A training on several nodes would else starve, as single ones pass it for ever.
  queueingStrategy: StrictFIFO
  namespaceSelector:
    matchLabels: {kubernetes.io/metadata.name: {{ .space.values.namespace | include "common.scalar" }}}
  {{- with .cohort }}
  cohortName: {{ . }}
  {{- end }}
  {{- with .weight }}
  fairSharing: {weight: {{ . | quote }}}
  {{- end }}
  resourceGroups:
    - coveredResources: [{{ .resource | include "common.scalar" }}]
      flavors: {{- toYaml .flavors | nindent 8 }}
  {{- with .fungibility }}
  flavorFungibility: {{- toYaml . | nindent 4 }}
  {{- end }}
  preemption:
    withinClusterQueue: LowerPriority
    {{- if .root.Values.teams }}
    # Who wants their own GPUs back gets them, whatever the priority of those who have borrowed them.
    reclaimWithinCohort: Any
    {{- else if .isShared }}
    # No other team has borrowed any. With Any, Kueue would keep none free for a training that waits for several.
    reclaimWithinCohort: LowerPriority
    {{- end }}
    {{- if .isShared }}
    # As in one queue: by priority, among all that borrow from the team's Cohort.
    borrowWithinCohort: {policy: LowerPriority}
    {{- end }}
---
apiVersion: kueue.x-k8s.io/v1beta2
kind: LocalQueue
metadata:
  name: {{ .name | include "common.scalar" }}
  namespace: {{ .space.values.namespace | include "common.scalar" }}
  labels: {{- $labels | nindent 4 }}
spec:
  clusterQueue: {{ $name }}
{{- end }}

{{/* When a Job takes the next pool of a list, in Kueue's words. Params: nextPool, of the values */}}
{{- define "trainyard.fungibility" -}}
{{- $words := dict
    "beforePreempting" (list "MayStopSearch" "TryNextFlavor")
    "beforeBorrowing" (list "TryNextFlavor" "TryNextFlavor")
    "last" (list "MayStopSearch" "MayStopSearch") }}
{{- $chosen := get $words (. | default "beforePreempting") }}
{{- dict "whenCanBorrow" (first $chosen) "whenCanPreempt" (last $chosen) | toJson }}
{{- end }}
