{{/* What the schema cannot say of this chart's values, one line each. Params: the chart's root context */}}
{{- define "airflow.problems" -}}
{{- $problems := list }}
{{- with include "airflow.officialProblems" . }}
{{- $problems = concat $problems (splitList "\n" .) }}
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
