{{/* What follows from an entry of gpuPools: the only place where labels, taints and names are made of it. What is more
     than a name is JSON. */}}

{{/* The Airflow pool that caps a GPU pool's tasks. Params: name */}}
{{- define "trainyard.airflowPoolName" -}}
gpu-{{ .name }}
{{- end }}

{{/* The label that every pod of a pool selects its nodes by. Params: name */}}
{{- define "trainyard.poolSelector" -}}
{{- dict "trainyard.dev/pool" .name | toJson }}
{{- end }}

{{/* Labels that nodes have beside the pool's own. Params: name, pool */}}
{{- define "trainyard.derivedLabels" -}}
{{- $gpuType := dict "trainyard.dev/gpu-type" (include "common.text" .pool.gpuType) }}
{{- merge (include "trainyard.poolSelector" . | fromJson) $gpuType | toJson }}
{{- end }}

{{/* Taints that nodes have beside the pool's own. Params: pool */}}
{{- define "trainyard.derivedTaints" -}}
{{- $taints := list (dict "key" "nvidia.com/gpu" "value" "present" "effect" "NoSchedule") }}
{{- if .pool.spot }}
{{- $taints = append $taints (dict "key" "trainyard.dev/spot" "value" "true" "effect" "NoSchedule") }}
{{- end }}
{{- toJson $taints }}
{{- end }}

{{/* A pool as DAGs and the tools that make nodes need it. Params: name, pool */}}
{{- define "trainyard.pool" -}}
{{- $own := .pool.labels | default dict }}
{{- $taints := include "trainyard.derivedTaints" . | fromJsonArray }}
{{- $tolerations := list }}
{{- range .pool.taints }}
{{- $taints = append $taints (dict "key" .key "value" (.value | default "") "effect" .effect) }}
{{- end }}
{{- range $taints }}
{{- $tolerations = append $tolerations (merge (dict "operator" "Equal") .) }}
{{- end }}
{{- merge (pick .pool "resources" "pod") (dict
    "airflowPool" (include "trainyard.airflowPoolName" .)
    "resourceName" .pool.resourceName
    "gpusPerNode" (int .pool.gpusPerNode)
    "maxNodes" (int .pool.nodes.max)
    "gpuType" (include "common.text" .pool.gpuType)
    "spot" .pool.spot
    "costPerGpuHour" .pool.costPerGpuHour
    "nodeSelector" (merge (include "trainyard.poolSelector" . | fromJson) $own)
    "tolerations" $tolerations
    "nodeLabels" (merge (include "trainyard.derivedLabels" . | fromJson) $own)
    "taints" $taints
    "kindNodes" (min (ternary .pool.kindNodes 1 (hasKey .pool "kindNodes")) .pool.nodes.max)) | toJson }}
{{- end }}

{{/* All pools, by name. Params: the root context */}}
{{- define "trainyard.pools" -}}
{{- $pools := dict }}
{{- range $name, $pool := .Values.gpuPools }}
{{- $made := include "trainyard.pool" (dict "name" $name "pool" $pool) | fromJson }}
{{- if $.Values.queues.kueue.enabled }}{{ $_ := set $made "queue" $name }}{{ end }}
{{- $_ := set $pools $name $made }}
{{- end }}
{{- toJson $pools }}
{{- end }}

{{/* The pool of tasks that name none: what `key` of training says, else the first by name whose spot is as asked,
     else for on demand the first of all; nothing where there is none. Params: root, key, spot */}}
{{- define "trainyard.defaultPool" -}}
{{- $pools := .root.Values.gpuPools | default dict }}
{{- $chosen := include "common.text" (get .root.Values.training .key) }}
{{- $names := keys $pools | sortAlpha }}
{{- if not $chosen }}
{{- range $names }}
{{- if and (not $chosen) (eq $.spot (get $pools .).spot) }}{{ $chosen = . }}{{ end }}
{{- end }}
{{- end }}
{{- if and (not $chosen) (not .spot) $names }}{{ $chosen = first $names }}{{ end }}
{{- $chosen }}
{{- end }}

{{/* Airflow pools, one for each GPU pool: as many slots as it can have GPUs. A task that waits in the triggerer
     holds its slot, or pools would not cap GPUs. Params: the root context */}}
{{- define "trainyard.airflowPools" -}}
{{- $pools := list }}
{{- range $name, $pool := .Values.gpuPools }}
{{- $pools = append $pools (dict
    "name" (include "trainyard.airflowPoolName" (dict "name" $name))
    "slots" (mul $pool.gpusPerNode $pool.nodes.max)
    "description" (printf "GPUs (%s) of the node pool %s" (include "common.text" $pool.gpuType) $name)
    "include_deferred" true) }}
{{- end }}
{{- range $name, $list := .Values.gpuPoolLists }}
{{- $slots := 0 }}
{{- range $list.pools }}{{ with get $.Values.gpuPools . }}{{ $slots = add $slots (mul .gpusPerNode .nodes.max) }}{{ end }}{{ end }}
{{- $pools = append $pools (dict
    "name" (include "trainyard.airflowPoolName" (dict "name" $name))
    "slots" $slots
    "description" (printf "GPUs of the node pools %s" (join ", " $list.pools))
    "include_deferred" true) }}
{{- end }}
{{- toJson $pools }}
{{- end }}

{{/* Lists of pools as the DAG library needs them: name -> {pools, airflowPool, queue}. Params: the root context */}}
{{- define "trainyard.poolLists" -}}
{{- $lists := dict }}
{{- range $name, $list := .Values.gpuPoolLists }}
{{- $_ := set $lists $name (dict "pools" $list.pools "airflowPool" (include "trainyard.airflowPoolName" (dict "name" $name)) "queue" $name) }}
{{- end }}
{{- toJson $lists }}
{{- end }}

{{/* What is wrong with lists of pools, one line each. Params: the root context */}}
{{- define "trainyard.poolListProblems" -}}
{{- $lists := .Values.gpuPoolLists | default dict }}
{{- $pools := .Values.gpuPools | default dict }}
{{- $problems := include "common.nameProblems" (dict "key" "gpuPoolLists" "values" $lists "max" 42 "separator" "-") | splitList "\n" | compact }}
{{- if and $lists (not .Values.queues.kueue.enabled) }}
{{- $problems = append $problems "gpuPoolLists: it is Kueue that chooses a pool; set queues.kueue.enabled, or leave the lists out" }}
{{- end }}
{{- range $name, $list := $lists }}
{{- $key := printf "gpuPoolLists.%s" $name }}
{{- if hasKey $pools $name }}
{{- $problems = append $problems (printf "%s: gpuPools has a pool of this name, and a task names both alike; choose another name" $key) }}
{{- end }}
{{- $known := list }}
{{- range $pool := $list.pools }}
{{- if hasKey $pools $pool }}
{{- $known = append $known $pool }}
{{- else }}
{{- $problems = append $problems (printf "%s.pools: there is no pool %s in gpuPools (there are: %s); correct or remove it" $key $pool (keys $pools | sortAlpha | join ", " | default "none")) }}
{{- end }}
{{- end }}
{{- /* One Job is made, before it is known in which pool it runs. */}}
{{- range $pool := rest $known }}
{{- range $of := list "resourceName" "resources" "pod" }}
{{- $values := list (get (get $pools (first $known)) $of | default dict | toJson) (get (get $pools $pool) $of | default dict | toJson) }}
{{- if ne (first $values) (last $values) }}
{{- $problems = append $problems (printf "%s.pools: gpuPools.%s.%s is another than gpuPools.%s.%s, and the same Job has to run in both; make them equal, or take one pool out" $key $pool $of (first $known) $of) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- $problems | join "\n" }}
{{- end }}
