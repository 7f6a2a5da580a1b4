{{/* Prometheus' statsd_exporter: it takes Airflow's metrics by StatsD, and Prometheus fetches them. */}}
{{- define "airflow.statsdName" -}}
{{ include "airflow.fullname" . }}-statsd
{{- end }}

{{/* The section [metrics] of airflow.cfg with where it is, unless the values say otherwise. JSON.
     Params: the chart's root context */}}
{{- define "airflow.metricsConfig" -}}
{{- $own := dict }}
{{- if .Values.statsd.enabled }}
{{- $own = dict "statsd_on" "True" "statsd_host" (include "airflow.statsdName" .) "statsd_port" (int .Values.ports.statsdIngest) "statsd_prefix" "airflow" }}
{{- end }}
{{- include "common.filledIn" (dict "values" (.Values.config.metrics | default dict) "defaults" $own) }}
{{- end }}

{{/* What becomes of Airflow's names, and of series that nobody sends any more. Params: the chart's root context */}}
{{- define "airflow.statsdMappings" -}}
{{- $mappings := .Values.statsd.overrideMappings }}
{{- if not $mappings }}{{ $mappings = concat (.Files.Get "files/statsd-mappings.yaml" | fromYaml).mappings .Values.statsd.extraMappings }}{{ end }}
{{- $ttl := .Values.statsd.cache.ttl }}
{{- merge (dict "mappings" $mappings) (ternary dict (dict "defaults" (dict "ttl" $ttl)) (eq $ttl "0s")) | toYaml }}
{{- end }}

{{/* Arguments: the chart's, or the user's, which may hold templates. Params: the chart's root context */}}
{{- define "airflow.statsdArguments" -}}
{{- $made := list }}
{{- range .Values.statsd.args }}{{ $made = append $made (include "common.made" (dict "root" $ "text" .)) }}{{ end }}
{{- $own := list "--statsd.mapping-config=/etc/statsd-exporter/mappings.yml"
    (printf "--statsd.listen-udp=:%d" (int .Values.ports.statsdIngest)) "--statsd.listen-tcp="
    (printf "--web.listen-address=:%d" (int .Values.ports.statsdScrape))
    (printf "--statsd.cache-size=%d" (int .Values.statsd.cache.size)) (printf "--statsd.cache-type=%s" .Values.statsd.cache.type) }}
{{- $made | default $own | toYaml }}
{{- end }}
