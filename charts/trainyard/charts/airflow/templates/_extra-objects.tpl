{{/* ConfigMaps and Secrets of the user. Params: the chart's root context */}}
{{- define "airflow.extraObjects" -}}
{{- $root := . }}
{{- range $kind, $objects := dict "ConfigMap" .Values.extraConfigMaps "Secret" .Values.extraSecrets }}
{{- range $name, $object := $objects }}
---
apiVersion: v1
kind: {{ $kind }}
metadata:
  name: {{ tpl $name $root | include "common.scalar" }}
  namespace: {{ $root.Release.Namespace | include "common.scalar" }}
  labels:
    {{- include "common.labels" (dict "root" $root "component" "extra") | nindent 4 }}
    {{- with $object.labels }}{{ toYaml . | nindent 4 }}{{ end }}
  {{- with $object.annotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
{{- with $object.type }}
type: {{ . | include "common.scalar" }}
{{- end }}
{{- range $field := list "data" "stringData" }}
{{- with index $object $field }}
{{ $field }}: {{- include "airflow.extraData" (dict "root" $root "data" .) | fromJson | toYaml | nindent 2 }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* Those that a component's containers get, with what they hold: who reads them as variables would not see a change.
     JSON, or nothing. Params: root, name, key (of its values), component (its values), secrets */}}
{{- define "airflow.extraRead" -}}
{{- $root := .root }}
{{- $own := dict "env" (include "airflow.env" . | fromYamlArray) "envFrom" (include "airflow.envFrom" . | fromYaml).envFrom }}
{{- $read := include "common.references" (dict "volumes" (include "airflow.volumes" . | fromYamlArray)
    "containers" (concat (list $own) (.component.extraContainers | default list) (.component.extraInitContainers | default list))) | fromJson }}
{{- $found := dict }}
{{- range $kind, $objects := dict "ConfigMap" .root.Values.extraConfigMaps "Secret" .root.Values.extraSecrets }}
{{- range $name, $object := $objects }}
{{- if has (tpl $name $root) (get $read $kind) }}
{{- $_ := set $found (print $kind $name) (include "airflow.extraHeld" (dict "root" $root "object" $object)) }}
{{- end }}
{{- end }}
{{- end }}
{{- with $found }}{{ toJson . }}{{ end }}
{{- end }}

{{/* All that one of them holds. JSON. Params: root, object (its values) */}}
{{- define "airflow.extraHeld" -}}
{{- $held := dict }}
{{- range $field := list "data" "stringData" }}
{{- $_ := set $held $field (include "airflow.extraData" (dict "root" $.root "data" (index $.object $field)) | fromJson) }}
{{- end }}
{{- toJson $held }}
{{- end }}

{{/* What such an object holds, each value as text; what does not parse is {Error: ...}. JSON.
     Params: root, data (a map, or a string of YAML that may hold templates) */}}
{{- define "airflow.extraData" -}}
{{- $data := .data }}
{{- if kindIs "string" $data }}{{ $data = tpl $data .root | fromYaml }}{{ end }}
{{- $texts := dict }}
{{- range $key, $value := $data }}{{ $_ := set $texts $key (include "common.text" $value) }}{{ end }}
{{- toJson $texts }}
{{- end }}

{{/* What is wrong with them, one line each. Params: the chart's root context */}}
{{- define "airflow.extraProblems" -}}
{{- $root := . }}
{{- $problems := list }}
{{- range $key := list "extraConfigMaps" "extraSecrets" }}
{{- range $name, $object := index $root.Values $key }}
{{- range $label, $_ := $object.labels }}
{{- if hasKey (include "common.labels" (dict "root" $root "component" "extra") | fromYaml) $label }}
{{- $problems = append $problems (printf "airflow.%s.%s.labels: %s is the chart's own; choose another label" $key $name $label) }}
{{- end }}
{{- end }}
{{- range $field := list "data" "stringData" }}
{{- with (include "airflow.extraData" (dict "root" $root "data" (index $object $field)) | fromJson).Error }}
{{- $problems = append $problems (printf "airflow.%s.%s.%s: is not YAML with a text for each key: %s" $key $name $field .) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- $problems | join "\n" }}
{{- end }}
