{{/* Keys of the official chart that cannot do here what they do there, one line each, from files/official-chart.yaml.
     Params: the chart's root context */}}
{{- define "airflow.officialProblems" -}}
{{- $root := . }}
{{- $problems := list }}
{{- $table := .Files.Get "files/official-chart.yaml" | fromYaml }}
{{- range $entry := $table.keys }}
{{- range $place := $entry.in | default (list "") }}
{{- range $key := $entry.keys }}
{{- $path := printf "%s.%s" $place $key | trimPrefix "." }}
{{- $value := include "airflow.valueAt" (dict "values" $root.Values "path" $path) | fromJson }}
{{- if and (hasKey $value "is") (not (include "airflow.isFine" (dict "value" $value.is "fine" $entry.fine))) }}
{{- $problems = append $problems (printf "airflow.%s: %s" $path (replace "{key}" $key $entry.cure)) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- concat $problems (include "airflow.variableProblems" (dict "root" . "variables" $table.variables) | fromJsonArray) | join "\n" }}
{{- end }}

{{/* A value as JSON {is: value}; {} where it is empty. Params: values, path */}}
{{- define "airflow.valueAt" -}}
{{- $value := .values }}
{{- range splitList "." .path }}
{{- $value = ternary (get (ternary $value dict (kindIs "map" $value)) .) nil (kindIs "map" $value) }}
{{- end }}
{{- $isEmpty := and (not $value) (has (kindOf $value) (list "invalid" "string" "map" "slice")) }}
{{- ternary dict (dict "is" $value) $isEmpty | toJson }}
{{- end }}

{{/* Whether a value is what this chart does anyway. Params: value, fine (a pattern, or a map of patterns) */}}
{{- define "airflow.isFine" -}}
{{- $value := .value }}
{{- $fine := .fine }}
{{- if not (kindIs "map" $fine) }}{{ $fine = dict "" .fine }}{{ $value = dict "" .value }}{{ end }}
{{- $isFine := and .fine (kindIs "map" $value) }}
{{- range $key, $pattern := $fine }}
{{- if and $isFine (not (regexMatch (printf "^(%s)$" (toString $pattern)) (get $value $key | toString))) }}{{ $isFine = false }}{{ end }}
{{- end }}
{{- if $isFine }}true{{ end }}
{{- end }}

{{/* Variables without effect, wherever they are set, as a JSON list. Params: root, variables (name -> cure) */}}
{{- define "airflow.variableProblems" -}}
{{- $values := .root.Values }}
{{- $variables := .variables }}
{{- $problems := list }}
{{- range $place := list "env" "apiServer.env" "scheduler.env" "dagProcessor.env" "triggerer.env" "workers.env" "workers.kubernetes.env" "migrateDatabaseJob.env" "databaseCleanup.env" }}
{{- range (include "airflow.valueAt" (dict "values" $values "path" $place) | fromJson).is }}
{{- if hasKey $variables .name }}
{{- $problems = append $problems (printf "airflow.%s: %s: %s" $place .name (get $variables .name)) }}
{{- end }}
{{- end }}
{{- end }}
{{- range $name, $cure := $variables }}
{{- if contains $name ($values.extraEnv | default "") }}
{{- $problems = append $problems (printf "airflow.extraEnv: %s: %s" $name $cure) }}
{{- end }}
{{- end }}
{{- toJson $problems }}
{{- end }}
