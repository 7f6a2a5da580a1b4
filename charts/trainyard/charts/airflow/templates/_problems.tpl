{{/* What the schema cannot say of this chart's values, one line each. Params: the chart's root context */}}
{{- define "airflow.problems" -}}
{{- $problems := include "common.lines" (dict "params" . "templates" (list "airflow.officialProblems" "airflow.portProblems"
    "airflow.sectionProblems" "airflow.extraProblems" "airflow.dagProblems" "airflow.volumeProblems" "airflow.sslModeProblems"
    "airflow.pgbouncerProblems" "airflow.claimProblems")) | fromJsonArray }}
{{- $ownLabels := include "airflow.podLabels" (dict "root" (dict "Values" dict "Release" .Release "Chart" .Chart) "component" "x") | fromYaml | keys }}
{{- if contains "trainyard.importer" (.Values.airflowLocalSettings | default "") }}
{{- $problems = append $problems "airflow.airflowLocalSettings: trainyard.importer is gone; remove it: the image registers the importer itself" }}
{{- end }}
{{- with .Values.podTemplate }}
{{- if ne (tpl . $ | fromYaml).kind "Pod" }}
{{- $problems = append $problems "airflow.podTemplate: is not a Pod in YAML" }}
{{- end }}
{{- end }}
{{- with include "common.scheduleProblem" (include "common.made" (dict "root" . "text" .Values.databaseCleanup.schedule)) }}
{{- $problems = append $problems (printf "airflow.databaseCleanup.schedule: %s" .) }}
{{- end }}
{{- range $key := list "labels" "apiServer.labels" "scheduler.labels" "dagProcessor.labels" "triggerer.labels" "workers.labels" "databaseCleanup.labels" "pgbouncer.labels" "statsd.labels" }}
{{- range $label, $_ := (include "airflow.valueAt" (dict "values" $.Values "path" $key) | fromJson).is }}
{{- if has $label $ownLabels }}
{{- $problems = append $problems (printf "airflow.%s: %s is the chart's own; choose another label" $key $label) }}
{{- end }}
{{- end }}
{{- end }}
{{- range $key := list "airflowPodAnnotations" "apiServer.podAnnotations" "scheduler.podAnnotations" "dagProcessor.podAnnotations" "triggerer.podAnnotations" "pgbouncer.podAnnotations" "statsd.podAnnotations" }}
{{- with include "common.checksumProblems" (dict "key" (print "airflow." $key) "annotations" (include "airflow.valueAt" (dict "values" $.Values "path" $key) | fromJson).is) }}
{{- $problems = concat $problems (splitList "\n" .) }}
{{- end }}
{{- end }}
{{- if and .Values.ingress.apiServer.enabled (not (include "airflow.ingressHosts" . | fromJsonArray)) }}
{{- $problems = append $problems "airflow.ingress.apiServer.hosts: needed where airflow.ingress.apiServer.enabled is true; give the names under which people reach the pages" }}
{{- end }}
{{- $problems = concat $problems (include "common.lines" (dict "templates" (list "common.httpRouteProblems")
    "params" (dict "root" . "component" "api-server" "key" "airflow.apiServer.httpRoute" "route" .Values.apiServer.httpRoute)) | fromJsonArray) }}
{{- with .Values.apiServer }}
{{- if and .apiServerConfig .apiServerConfigConfigMapName }}
{{- $problems = append $problems "airflow.apiServer.apiServerConfigConfigMapName: apiServerConfig makes a ConfigMap of its own; leave one of them empty" }}
{{- end }}
{{- if gt (int .hpa.minReplicaCount) (int .hpa.maxReplicaCount) }}
{{- $problems = append $problems (printf "airflow.apiServer.hpa.minReplicaCount: %v is over maxReplicaCount %v; lower it" .hpa.minReplicaCount .hpa.maxReplicaCount) }}
{{- end }}
{{- end }}
{{- if gt (int .Values.scheduler.replicas) 1 }}
{{- $problems = append $problems (printf "airflow.scheduler.replicas: %v schedulers with KubernetesExecutor leave stale worker pods (apache/airflow#69760); set 1" .Values.scheduler.replicas) }}
{{- end }}
{{- $problems | join "\n" }}
{{- end }}

{{/* Ports of the api-server's Service that a Service cannot have. Params: the chart's root context */}}
{{- define "airflow.portProblems" -}}
{{- $service := .Values.apiServer.service }}
{{- $problems := list }}
{{- $known := dict }}
{{- if not $service.ports }}
{{- $problems = append $problems "airflow.apiServer.service.ports: is empty, and workers need the api-server; add {name: api-server, port: 8080}" }}
{{- end }}
{{- range $index, $port := $service.ports }}
{{- $key := printf "airflow.apiServer.service.ports.%d" $index }}
{{- $number := include "common.made" (dict "root" $ "text" $port.port) }}
{{- if or (not (regexMatch "^[1-9][0-9]{0,4}$" $number)) (gt (int $number) 65535) }}
{{- $problems = append $problems (printf "%s.port: %v is not the number of a port; give one, or a template that makes one" $key $port.port) }}
{{- end }}
{{- range $part, $value := dict "name" $port.name "port" $number }}
{{- with get $known (print $part $value) }}
{{- $problems = append $problems (printf "%s.%s: %s is that of %s already; choose another one" $key $part $value .) }}
{{- end }}
{{- $_ := set $known (print $part $value) $key }}
{{- end }}
{{- if and $port.nodePort (eq $service.type "ClusterIP") }}
{{- $problems = append $problems (printf "%s.nodePort: type ClusterIP has none; set airflow.apiServer.service.type to NodePort, or remove it" $key) }}
{{- end }}
{{- end }}
{{- $problems | join "\n" }}
{{- end }}

{{/* Sections of airflow.cfg that nothing reads. Params: the chart's root context */}}
{{- define "airflow.sectionProblems" -}}
{{- $known := .Files.Get "files/config-sections.yaml" | fromYaml }}
{{- $problems := list }}
{{- range $section, $options := .Values.config }}
{{- range $option, $_ := $options }}
{{- if not (regexMatch "^[-A-Za-z0-9_.]+$" $option) }}
{{- $problems = append $problems (printf "airflow.config.%s: %q is no option; write letters, digits and _" $section $option) }}
{{- end }}
{{- end }}
{{- if not (or (has $section $known.image) (has $section $known.providers)) }}
{{- $problems = append $problems (printf "airflow.config.%s: Airflow has no such section; correct it, or set those of a plugin of your own in airflow.env (AIRFLOW__%s__OPTION)" $section (upper $section)) }}
{{- end }}
{{- end }}
{{- $problems | join "\n" }}
{{- end }}

{{/* An sslmode of the connection that contradicts global.databaseTls, or that needs the CA which this would bring. */}}
{{- define "airflow.sslModeProblems" -}}
{{- $tls := (.Values.global).databaseTls | default dict }}
{{- $own := .Values.data.metadataConnection }}
{{- if and $own.host $own.sslmode }}
{{- if and $tls.mode (ne $own.sslmode $tls.mode) }}
airflow.data.metadataConnection.sslmode: {{ $own.sslmode }} is not global.databaseTls.mode {{ $tls.mode }}, and would win; remove it
{{- else if and (hasPrefix "verify-" $own.sslmode) (not $tls.caSecretName) }}
airflow.data.metadataConnection.sslmode: {{ $own.sslmode }} needs the CA; remove it, and set global.databaseTls.mode and caSecretName
{{- end }}
{{- end }}
{{- end }}
