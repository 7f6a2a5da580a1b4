{{/* One list out of several. An entry that is there already, to the letter, is left out; another one with the same
     identity is a problem. JSON: {items: [...], problems: [...]}.
     Params: identity (the field that is unique), what (its name in messages),
     lists (each {key, items}; the chart's own first, without a key) */}}
{{- define "airflow.mergeLists" -}}
{{- $items := list }}
{{- $problems := list }}
{{- $known := dict }}
{{- range $list := .lists }}
{{- range $list.items }}
{{- $id := get . $.identity }}
{{- if not (hasKey $known $id) }}
{{- $items = append $items . }}
{{- $_ := set $known $id (dict "item" . "owner" ($list.key | default "the chart")) }}
{{- else if not (deepEqual . (get $known $id).item) }}
{{- $problems = append $problems (printf "%s: the %s %q is %s's already; choose another one" $list.key $.what $id (get $known $id).owner) }}
{{- end }}
{{- end }}
{{- end }}
{{- dict "items" $items "problems" $problems | toJson }}
{{- end }}

{{/* Volumes of a component's pods: the chart's, the platform's and the user's. Returns {items, problems}.
     Params: root, name, key (of its values), component (its values) */}}
{{- define "airflow.mergedVolumes" -}}
{{- $own := include "common.list" (dict "templates" (list "airflow.ownVolumes" "airflow.platformVolumes") "params" .) | fromJsonArray }}
{{- include "airflow.mergeLists" (dict "identity" "name" "what" "volume" "lists" (list
    (dict "items" $own)
    (dict "key" "airflow.volumes" "items" .root.Values.volumes)
    (dict "key" (printf "airflow.%s.extraVolumes" .key) "items" (.component.extraVolumes | default list)))) }}
{{- end }}

{{/* Mounts of a component's container, in the same way. */}}
{{- define "airflow.mergedVolumeMounts" -}}
{{- $own := include "common.list" (dict "templates" (list "airflow.ownVolumeMounts" "airflow.platformVolumeMounts") "params" .) | fromJsonArray }}
{{- include "airflow.mergeLists" (dict "identity" "mountPath" "what" "mountPath" "lists" (list
    (dict "items" $own)
    (dict "key" "airflow.volumeMounts" "items" .root.Values.volumeMounts)
    (dict "key" (printf "airflow.%s.extraVolumeMounts" .key) "items" (.component.extraVolumeMounts | default list)))) }}
{{- end }}

{{- define "airflow.volumes" -}}
{{ toYaml (include "airflow.mergedVolumes" . | fromJson).items }}
{{- end }}

{{- define "airflow.volumeMounts" -}}
{{ toYaml (include "airflow.mergedVolumeMounts" . | fromJson).items }}
{{- end }}

{{/* Volumes and mounts of the user that clash with others, one line each. Params: the chart's root context */}}
{{- define "airflow.volumeProblems" -}}
{{- $root := . }}
{{- $workers := include "airflow.workers" . | fromJson }}
{{- $problems := list }}
{{- range $key, $name := dict "apiServer" "api-server" "scheduler" "scheduler" "dagProcessor" "dag-processor" "triggerer" "triggerer" "workers" "worker" }}
{{- $params := dict "root" $root "name" $name "key" $key "component" (ternary $workers (index $root.Values $key) (eq $key "workers")) }}
{{- range list "airflow.mergedVolumes" "airflow.mergedVolumeMounts" }}
{{- $problems = concat $problems (include . $params | fromJson).problems }}
{{- end }}
{{- end }}
{{- $problems | uniq | join "\n" }}
{{- end }}

{{/* The chart's own volumes; the root file system is read-only. Params: root, name, readsNoConfig (optional) */}}
{{- define "airflow.ownVolumes" -}}
- name: tmp
  emptyDir: {sizeLimit: 1Gi}
{{- if not (get . "readsNoConfig") }}
- name: logs
  {{- if .root.Values.logs.persistence.enabled }}
  persistentVolumeClaim:
    claimName: {{ include "airflow.logsClaimName" .root | include "common.scalar" }}
  {{- else }}
  emptyDir: {{- toYaml .root.Values.logs.emptyDirConfig | nindent 4 }}
  {{- end }}
- name: config
  configMap: {name: {{ include "airflow.fullname" .root }}-config}
{{- end }}
{{- if ne .name "worker" }}
- name: scripts
  configMap: {name: {{ include "airflow.fullname" .root }}-scripts}
{{- if not (include "airflow.usesPgbouncer" .) }}
{{- with include "common.databaseTlsVolumes" .root | trim }}{{ . | nindent 0 }}{{ end }}
{{- end }}
{{- end }}
{{- if eq .name "api-server" }}
{{- with include "airflow.apiServerConfigName" .root }}
- name: api-server-config
  configMap: {name: {{ . | include "common.scalar" }}}
{{- end }}
{{- end }}
{{- if eq .name "scheduler" }}
- name: pod-template
  configMap: {name: {{ include "airflow.fullname" .root }}-pod-template}
{{- end }}
{{- if has .name (list "dag-processor" "worker") }}
{{- include "airflow.dagVolumes" . }}
{{- end }}
{{- end }}

{{/* Where they are mounted. Params: as above */}}
{{- define "airflow.ownVolumeMounts" -}}
{{- $home := .root.Values.airflowHome -}}
- {name: tmp, mountPath: /tmp}
{{- if not (get . "readsNoConfig") }}
- {name: logs, mountPath: {{ $home }}/logs}
- {name: config, mountPath: {{ $home }}/airflow.cfg, subPath: airflow.cfg, readOnly: true}
{{- if .root.Values.airflowLocalSettings }}
- {name: config, mountPath: {{ $home }}/config/airflow_local_settings.py, subPath: airflow_local_settings.py, readOnly: true}
{{- end }}
{{- if include "airflow.usesPgbouncer" . }}
- {name: config, mountPath: {{ $home }}/config/pgbouncer_connections.py, subPath: pgbouncer_connections.py, readOnly: true}
{{- end }}
{{- end }}
{{- if and (eq .name "api-server") (include "airflow.apiServerConfigName" .root) }}
- {name: api-server-config, mountPath: {{ $home }}/webserver_config.py, subPath: webserver_config.py, readOnly: true}
{{- end }}
{{- if eq .name "scheduler" }}
- {name: pod-template, mountPath: {{ $home }}/pod_templates, readOnly: true}
{{- end }}
{{- if has .name (list "dag-processor" "worker") }}
{{- include "airflow.dagVolumeMounts" . }}
{{- end }}
{{- if ne .name "worker" }}
- {{ include "airflow.scriptsMount" .root }}
{{- with include "airflow.databaseTlsMounts" . | trim }}{{ . | nindent 0 }}{{ end }}
{{- end }}
{{- end }}

{{/* The CA of the database, for who connects to it. Params: root, name (optional) */}}
{{- define "airflow.databaseTlsMounts" -}}
{{- if not (include "airflow.usesPgbouncer" .) }}{{ include "common.databaseTlsMounts" .root }}{{ end }}
{{- end }}

{{/* The mount of the chart's own scripts (files/). Params: the chart's root context */}}
{{- define "airflow.scriptsMount" -}}
{name: scripts, mountPath: {{ .Values.airflowHome }}/scripts, readOnly: true}
{{- end }}

{{/* The claims that this chart makes. JSON, a list as for common.claimProblems. Params: the chart's root context */}}
{{- define "airflow.claims" -}}
{{- $claims := list }}
{{- with .Values.logs.persistence }}
{{- if and .enabled (not .existingClaim) }}
{{- $claims = append $claims (dict "key" "airflow.logs.persistence" "name" (include "airflow.logsClaimName" $) "component" "logs" "keep" true
    "size" .size "storageClassName" .storageClassName) }}
{{- end }}
{{- end }}
{{- with .Values.dags.persistence }}
{{- if and (include "airflow.gitBundles" $ | fromYaml) (not .existingClaim) }}
{{- /* What lies on it can be published again: it goes with the last bundle. */}}
{{- $claims = append $claims (dict "key" "airflow.dags.persistence" "name" (include "airflow.dagsClaimName" $) "component" "dag-publisher"
    "keep" false "size" .size "storageClassName" .storageClassName) }}
{{- end }}
{{- end }}
{{- range $claims }}{{ $_ := merge . (dict "namespace" $.Release.Namespace "accessMode" "ReadWriteMany") }}{{ end }}
{{- toJson $claims }}
{{- end }}

{{/* What of them cannot change, one line each. Params: the chart's root context */}}
{{- define "airflow.claimProblems" -}}
{{- include "common.claimProblems" (dict "claims" (include "airflow.claims" . | fromJsonArray)) }}
{{- end }}

{{- define "airflow.logsClaimName" -}}
{{ .Values.logs.persistence.existingClaim | default (printf "%s-logs" (include "airflow.fullname" .)) }}
{{- end }}
