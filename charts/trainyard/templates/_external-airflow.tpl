{{/* Where Airflow's pods run. Params: the root context */}}
{{- define "trainyard.airflowNamespace" -}}
{{- $external := and (not .Values.airflow.enabled) .Values.externalAirflow.namespace }}
{{- $external | default .Release.Namespace }}
{{- end }}

{{/* Who starts training, deploys models and starts the maintenance's Jobs: the triggerer, or the ServiceAccounts of
     an Airflow from elsewhere. Subjects of a RoleBinding; nothing where there are none. Params: the root context */}}
{{- define "trainyard.airflowSubjects" -}}
{{- $names := list }}
{{- if not .Values.airflow.enabled }}
{{- $names = .Values.externalAirflow.serviceAccounts }}
{{- else if .Values.airflow.rbac.create }}
{{- $triggerer := .Subcharts.airflow.Values.triggerer }}
{{- $names = list (include "airflow.serviceAccountName" (dict "root" .Subcharts.airflow "name" "triggerer" "serviceAccount" $triggerer.serviceAccount)) }}
{{- end }}
{{- range $names }}
- kind: ServiceAccount
  name: {{ . | include "common.scalar" }}
  namespace: {{ include "trainyard.airflowNamespace" $ | include "common.scalar" }}
{{- end }}
{{- end }}
