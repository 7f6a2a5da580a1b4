{{/* What the schema cannot say of this chart's values, one line each. Params: the chart's root context */}}
{{- define "airflow.problems" -}}
{{- $problems := list }}
{{- range $key, $cure := dict
    "airflowVersion" "nothing read it; remove it"
    "defaultAirflowRepository" "write airflow.images.airflow.repository"
    "defaultAirflowTag" "write airflow.images.airflow.tag" }}
{{- if hasKey $.Values $key }}
{{- $problems = append $problems (printf "airflow.%s: is gone; %s" $key $cure) }}
{{- end }}
{{- end }}
{{- if contains "trainyard.importer" (.Values.airflowLocalSettings | default "") }}
{{- $problems = append $problems "airflow.airflowLocalSettings: trainyard.importer is gone; remove it: the image registers the importer itself" }}
{{- end }}
{{- with include "airflow.dagProblems" . }}
{{- $problems = concat $problems (splitList "\n" .) }}
{{- end }}
{{- with include "airflow.volumeProblems" . }}
{{- $problems = concat $problems (splitList "\n" .) }}
{{- end }}
{{- $problems | join "\n" }}
{{- end }}
