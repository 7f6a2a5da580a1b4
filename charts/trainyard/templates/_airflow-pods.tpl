{{/* What the platform adds to Airflow's pods. These are definitions of the airflow chart, made again here: see
     charts/airflow/templates/_platform.tpl. */}}

{{- define "airflow.platformEnv" -}}
- {name: TRAINYARD_PLATFORM, value: /opt/airflow/platform/platform.json}
{{- /* Workers ask the api-server for the connection, through the Execution API. The triggerer has an Execution API of
       its own, in its process. */}}
{{- if has .name (list "api-server" "triggerer") }}
- name: AIRFLOW_CONN_TRAINYARD_S3
  valueFrom:
    secretKeyRef: {name: {{ include "trainyard.s3ConnectionSecretName" .root | include "common.scalar" }}, key: connection}
{{- end }}
{{- end }}

{{- define "airflow.platformVolumes" -}}
- name: platform
  configMap: {name: {{ include "trainyard.platformConfigMapName" .root | include "common.scalar" }}}
{{- if include "trainyard.sendsAlerts" . }}
- name: alerts
  secret: {secretName: {{ include "trainyard.alertsSecretName" .root | include "common.scalar" }}, optional: true}
{{- end }}
{{- if eq .name "triggerer" }}
{{- /* Control tasks, which register and promote models, run there and nowhere else. There is none without a login; one
       that comes later is mounted within a minute or two, for which the library waits. */}}
- name: mlflow-login
  secret: {secretName: {{ include "trainyard.mlflowPromoterSecretName" .root | include "common.scalar" }}, optional: true}
{{- end }}
{{- end }}

{{- define "airflow.platformVolumeMounts" -}}
- {name: platform, mountPath: /opt/airflow/platform, readOnly: true}
{{- if include "trainyard.sendsAlerts" . }}
- {name: alerts, mountPath: /opt/airflow/alerts, readOnly: true}
{{- end }}
{{- if eq .name "triggerer" }}
- {name: mlflow-login, mountPath: /opt/airflow/mlflow-login, readOnly: true}
{{- end }}
{{- end }}

{{/* Who sends alerts: the Secret <release>-alerts, which is the user's, says to whom. It may come, change and go at
     any time. Its keys: slack-webhook-url, pagerduty-routing-key (and pagerduty-url), webhook-url. Params: name */}}
{{- define "trainyard.sendsAlerts" -}}
{{- if has .name (list "dag-processor" "triggerer") }}true{{ end }}
{{- end }}
