{{/* Teams, which share the GPU pools: where they train, and which part of each pool is theirs. What is more than a name
     is JSON. */}}

{{/* The namespaces of training pods, first that of whoever is in no team: a list of {team ("" for that one), values (for
     trainyard.namespace)}. Params: the root context */}}
{{- define "trainyard.trainingNamespaces" -}}
{{- $training := .Values.training }}
{{- $spaces := list (dict "team" "" "values" $training) }}
{{- range $name, $team := .Values.teams }}
{{- /* A cloud identity is one team's. */}}
{{- $own := dict "createNamespace" true "quota" $training.quota "serviceAccountAnnotations" dict }}
{{- range $key, $value := pick $team "namespace" "createNamespace" "quota" "serviceAccountAnnotations" }}
{{- if not (kindIs "invalid" $value) }}{{ $_ := set $own $key $value }}{{ end }}
{{- end }}
{{- $spaces = append $spaces (dict "team" $name "values" (merge $own (pick $training "serviceAccountName" "limitRange"))) }}
{{- end }}
{{- toJson $spaces }}
{{- end }}

{{/* Only their names. A list. Params: the root context */}}
{{- define "trainyard.trainingNamespaceNames" -}}
{{- $names := list }}
{{- range include "trainyard.trainingNamespaces" . | fromJsonArray }}{{ $names = append $names .values.namespace }}{{ end }}
{{- toJson $names }}
{{- end }}

{{/* The name of what each team has one of; that of no team ends after the first part. Params: name (its first part), team
     (the team's name, or ""), separator ("-" by default) */}}
{{- define "trainyard.teamName" -}}
{{ .name }}{{ with .team }}{{ $.separator | default "-" }}{{ . }}{{ end }}
{{- end }}

{{/* The part of a pool that is a team's: {own, weight, and where they are set borrow, lend}. Whoever is in no team has what no
     team has. Params: root, team ("" for no team), pool (its name) */}}
{{- define "trainyard.teamShare" -}}
{{- if .team }}
{{- $share := get ((get .root.Values.teams .team).gpus | default dict) .pool | default dict }}
{{- $weight := (get .root.Values.teams .team).weight }}
{{- $result := dict "own" (int ($share.own | default 0)) "weight" (ternary 1 $weight (kindIs "invalid" $weight) | include "common.text") }}
{{- range $key := list "borrow" "lend" }}
{{- $limit := get $share $key }}
{{- if and (hasKey $share $key) (not (kindIs "invalid" $limit)) }}{{ $_ := set $result $key (int $limit) }}{{ end }}
{{- end }}
{{- toJson $result }}
{{- else }}
{{- $pool := get .root.Values.gpuPools .pool }}
{{- dict "own" (sub (mul $pool.gpusPerNode $pool.nodes.max) (include "trainyard.ownedGpus" . | int)) "weight" "1" | toJson }}
{{- end }}
{{- end }}

{{/* How many GPUs of a pool are teams' own. Params: root, pool (its name) */}}
{{- define "trainyard.ownedGpus" -}}
{{- $owned := 0 }}
{{- range .root.Values.teams }}{{ $owned = add $owned (((get (.gpus | default dict) $.pool | default dict).own) | default 0) }}{{ end }}
{{- $owned }}
{{- end }}

{{/* The teams as the DAG library needs them: name -> {namespace, dags, and where it is set airflowRole}.
     Params: the root context */}}
{{- define "trainyard.teams" -}}
{{- $teams := dict }}
{{- range $name, $team := .Values.teams }}
{{- $told := pick $team "namespace" "dags" }}
{{- with $team.airflowRole }}{{ $_ := set $told "airflowRole" . }}{{ end }}
{{- $_ := set $teams $name $told }}
{{- end }}
{{- toJson $teams }}
{{- end }}

{{/* The account in MLflow of training pods. Params: the team's name, or "" */}}
{{- define "trainyard.mlflowTrainer" -}}
{{ include "trainyard.teamName" (dict "name" "trainer" "team" .) }}
{{- end }}

{{/* Those of teams -> the names of their experiments, which are the ids of their DAGs. JSON. Params: the root context */}}
{{- define "trainyard.mlflowTeams" -}}
{{- $accounts := dict }}
{{- range $name, $team := .Values.teams }}{{ $_ := set $accounts (include "trainyard.mlflowTrainer" $name) $team.dags }}{{ end }}
{{- toJson $accounts }}
{{- end }}

{{/* The roles in Airflow of teams that have one. A list. Params: the root context */}}
{{- define "trainyard.airflowRoles" -}}
{{- $roles := list }}
{{- range .Values.teams }}{{ with .airflowRole }}{{ $roles = append $roles . }}{{ end }}{{ end }}
{{- toJson $roles }}
{{- end }}

{{/* Roles of teams that are nobody's own, or that nothing would read; one line each. Params: the root context */}}
{{- define "trainyard.airflowRoleProblems" -}}
{{- $problems := list }}
{{- $owners := dict "Admin" "Airflow's own" "Op" "Airflow's own" "User" "Airflow's own" "Viewer" "Airflow's own" "Public" "Airflow's own" }}
{{- range $name, $team := .Values.teams }}
{{- $key := printf "teams.%s.airflowRole" $name }}
{{- with $team.airflowRole }}
{{- with get $owners . }}
{{- $problems = append $problems (printf "%s: the role %s is %s already; choose another name" $key $team.airflowRole .) }}
{{- end }}
{{- $_ := set $owners . (printf "that of teams.%s" $name) }}
{{- if not $.Values.airflow.enabled }}
{{- $problems = append $problems (printf "%s: the chart makes roles in no Airflow but its own, and airflow.enabled is false; leave it out" $key) }}
{{- else if not (contains "FabAuthManager" (include "trainyard.authManager" $)) }}
{{- $problems = append $problems (printf "%s: roles are of the FabAuthManager, and Airflow has %q (airflow.config.core.auth_manager, or AIRFLOW__CORE__AUTH_MANAGER in airflow.env); leave either out" $key (include "trainyard.authManager" $)) }}
{{- end }}
{{- end }}
{{- end }}
{{- $problems | join "\n" }}
{{- end }}

{{/* Who decides in Airflow what people may do, as far as the values say: null is Airflow's own. Params: the root context */}}
{{- define "trainyard.authManager" -}}
{{- $manager := get (.Values.airflow.config.core | default dict) "auth_manager" | default "SimpleAuthManager" }}
{{- range concat (.Values.airflow.env | default list) (.Values.airflow.apiServer.env | default list) }}
{{- if and (eq .name "AIRFLOW__CORE__AUTH_MANAGER") .value }}{{ $manager = .value }}{{ end }}
{{- end }}
{{- include "common.made" (dict "root" .Subcharts.airflow "text" $manager) | trim }}
{{- end }}

{{/* What is wrong with the teams, one line each. Params: the root context */}}
{{- define "trainyard.teamProblems" -}}
{{- $names := include "common.nameProblems" (dict "key" "teams" "values" (.Values.teams | default dict) "max" 42 "separator" "-") | splitList "\n" | compact }}
{{- $parts := list "trainyard.teamNamespaceProblems" "trainyard.teamDagProblems" "trainyard.teamGpuProblems" "trainyard.teamPriorityProblems" "trainyard.airflowRoleProblems" }}
{{- concat $names (include "common.lines" (dict "templates" $parts "params" .) | fromJsonArray) | join "\n" }}
{{- end }}

{{/* Namespaces of teams that are Kubernetes' or somebody else's, one line each. Params: the root context */}}
{{- define "trainyard.teamNamespaceProblems" -}}
{{- $problems := list }}
{{- $owners := dict .Release.Namespace "the release's" .Values.training.namespace "training.namespace" }}
{{- with include "trainyard.airflowNamespace" . }}{{ if ne . $.Release.Namespace }}{{ $_ := set $owners . "externalAirflow.namespace" }}{{ end }}{{ end }}
{{- if .Values.serving.enabled }}{{ $_ := set $owners .Values.serving.namespace "serving.namespace" }}{{ end }}
{{- if .Values.stockOperators.enabled }}{{ $_ := set $owners .Values.stockOperators.namespace "stockOperators.namespace" }}{{ end }}
{{- $plugin := index .Values "nvidia-device-plugin" }}
{{- if and $plugin.enabled $plugin.namespaceOverride }}{{ $_ := set $owners $plugin.namespaceOverride "nvidia-device-plugin.namespaceOverride" }}{{ end }}
{{- range $name, $team := .Values.teams }}
{{- $key := printf "teams.%s.namespace" $name }}
{{- if hasPrefix "kube-" $team.namespace }}
{{- $problems = append $problems (printf "%s: %s is Kubernetes' own; choose another name" $key $team.namespace) }}
{{- end }}
{{- with get $owners $team.namespace }}
{{- $problems = append $problems (printf "%s: %s is %s already; a team needs a namespace of its own" $key $team.namespace .) }}
{{- end }}
{{- $_ := set $owners $team.namespace $key }}
{{- end }}
{{- $problems | join "\n" }}
{{- end }}

{{/* DAGs that are not one team's alone, one line each. Params: the root context */}}
{{- define "trainyard.teamDagProblems" -}}
{{- $problems := list }}
{{- $owners := dict }}
{{- range $name, $team := .Values.teams }}
{{- $key := printf "teams.%s.dags" $name }}
{{- range $pattern := $team.dags }}
{{- if or (hasPrefix "maintenance-" $pattern) (eq "maintenance" $pattern) (and (hasSuffix "*" $pattern) (hasPrefix (trimSuffix "*" $pattern) "maintenance")) }}
{{- $problems = append $problems (printf "%s: %s may be a DAG of the platform, maintenance or maintenance-TEAM; name others" $key $pattern) }}
{{- end }}
{{- range $other, $owner := $owners }}
{{- $starts := list (trimSuffix "*" $pattern) (trimSuffix "*" $other) }}
{{- $reaches := and (hasSuffix "*" $pattern) (hasPrefix (first $starts) (last $starts)) }}
{{- $isReached := and (hasSuffix "*" $other) (hasPrefix (last $starts) (first $starts)) }}
{{- if and (ne $owner $name) (or $reaches $isReached (eq $pattern $other)) }}
{{- $problems = append $problems (printf "%s: %s and %s of teams.%s.dags may be the same DAG; a DAG is one team's" $key $pattern $other $owner) }}
{{- end }}
{{- end }}
{{- $_ := set $owners $pattern $name }}
{{- end }}
{{- end }}
{{- $problems | join "\n" }}
{{- end }}

{{/* GPUs of teams that no pool has, one line each. Params: the root context */}}
{{- define "trainyard.teamGpuProblems" -}}
{{- $problems := list }}
{{- range $name, $team := .Values.teams }}
{{- $key := printf "teams.%s" $name }}
{{- range $pool, $share := $team.gpus }}
{{- if not (hasKey ($.Values.gpuPools | default dict) $pool) }}
{{- $problems = append $problems (printf "%s.gpus.%s: there is no such pool in gpuPools (there are: %s); remove it, or set it to null" $key $pool (keys ($.Values.gpuPools | default dict) | sortAlpha | join ", " | default "none")) }}
{{- end }}
{{- if gt (int (($share | default dict).lend | default 0)) (int (($share | default dict).own | default 0)) }}
{{- $problems = append $problems (printf "%s.gpus.%s.lend: %v is over its own %v; lower it" $key $pool $share.lend (int $share.own)) }}
{{- end }}
{{- end }}
{{- if and $team.gpus (not $.Values.queues.kueue.enabled) }}
{{- $problems = append $problems (printf "%s.gpus: nothing shares GPUs out without a queue; set queues.kueue.enabled, or leave it out and set %s.quota" $key $key) }}
{{- end }}
{{- end }}
{{- if .Values.teams }}
{{- range $name, $pool := .Values.gpuPools }}
{{- $has := mul $pool.gpusPerNode $pool.nodes.max }}
{{- $owned := include "trainyard.ownedGpus" (dict "root" $ "pool" $name) | int }}
{{- if gt $owned (int $has) }}
{{- $problems = append $problems (printf "teams: they own %d GPUs of pool %s, which has %d (gpusPerNode x nodes.max); lower teams.*.gpus.%s.own, or raise gpuPools.%s.nodes.max" $owned $name (int $has) $name $name) }}
{{- end }}
{{- end }}
{{- end }}
{{- $problems | join "\n" }}
{{- end }}

{{/* Priorities of teams without which nothing of theirs trains, or that nothing makes; one line each.
     Params: the root context */}}
{{- define "trainyard.teamPriorityProblems" -}}
{{- $problems := list }}
{{- $classes := pick .Values.training "priorityClassName" "spotPriorityClassName" }}
{{- range $name, $team := .Values.teams }}
{{- with $team.priorityClassNames }}
{{- $key := printf "teams.%s.priorityClassNames" $name }}
{{- range $of, $class := $classes }}
{{- if not $class }}
{{- $problems = append $problems (printf "%s: training.%s is empty, so training pods have none of them; name one there" $key $of) }}
{{- else if not (has $class $team.priorityClassNames) }}
{{- $problems = append $problems (printf "%s: training pods have %s; add it" $key $class) }}
{{- end }}
{{- end }}
{{- range . }}
{{- if not (hasKey $.Values.priorityClasses .) }}
{{- $problems = append $problems (printf "%s: there is no %s in priorityClasses; add it there (with enabled: false if it is made elsewhere)" $key .) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- $problems | join "\n" }}
{{- end }}
