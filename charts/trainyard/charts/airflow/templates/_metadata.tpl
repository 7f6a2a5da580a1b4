{{/* The Secret with the metadata database's URL. Params: the chart's root context */}}
{{- define "airflow.metadataSecretName" -}}
{{- if .Values.data.metadataConnection.host }}{{ include "airflow.fullname" . }}-metadata{{ else }}{{ .Values.data.metadataSecretName | default (printf "%s-airflow-metadata" (include "airflow.fullname" .)) }}{{ end }}
{{- end }}

{{/* The URLs that data.metadataConnection makes. Airflow makes the asynchronous one of the other by changing the driver,
     but asyncpg knows no `sslmode`: it calls the same `ssl`. JSON. Params: the chart's root context */}}
{{- define "airflow.metadataUrls" -}}
{{- $connection := .Values.data.metadataConnection }}
{{- $address := printf "%s@%s:%d/%s" (include "airflow.metadataLogin" $connection) $connection.host (int $connection.port) (include "airflow.urlPart" $connection.db) }}
{{- $urls := dict }}
{{- range $key, $driver := dict "connection" (list "psycopg2" "sslmode") "connection-async" (list "asyncpg" "ssl") }}
{{- $query := "" }}
{{- with $connection.sslmode }}{{ $query = printf "?%s=%s" (last $driver) . }}{{ end }}
{{- $_ := set $urls $key (printf "postgresql+%s://%s%s" (first $driver) $address $query) }}
{{- end }}
{{- toJson $urls }}
{{- end }}

{{/* User and password as in a URL. Params: data.metadataConnection */}}
{{- define "airflow.metadataLogin" -}}
{{ include "airflow.urlPart" .user }}:{{ include "airflow.urlPart" .pass }}
{{- end }}

{{/* A text as a part of a URL. Params: the text */}}
{{- define "airflow.urlPart" -}}
{{ urlquery . | replace "+" "%20" }}
{{- end }}
