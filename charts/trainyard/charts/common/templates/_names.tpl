{{/* A name of at most `max` characters. What is cut off is followed by a hash of all of it, so that no two names become
     one. Params: name, max */}}
{{- define "common.cut" -}}
{{- if le (len .name) (int .max) -}}
{{ .name }}
{{- else -}}
{{ trunc (sub .max 9 | int) .name | trimSuffix "-" | trimSuffix "." }}-{{ sha256sum .name | trunc 8 }}
{{- end -}}
{{- end }}

{{/* What the names of a chart's objects start with: fullnameOverride, else the release's name and the suffix, which
     nameOverride replaces. As Helm's charts do, there is no suffix where the release's name has nameOverride in it
     already. It leaves room for what the chart appends: a Service, a Job and a label take 63 characters, a CronJob and a
     StatefulSet 52. Labels keep the chart's name: selectors are immutable. Params: root, suffix (optional), max */}}
{{- define "common.fullname" -}}
{{- $values := .root.Values -}}
{{- $suffix := .suffix | default "" -}}
{{- with $values.fullnameOverride -}}
{{ . }}
{{- else -}}
{{- /* A release may have dots in its name and start with a digit, a Service may not. */ -}}
{{- $release := replace "." "-" .root.Release.Name -}}
{{- with $values.nameOverride }}{{ $suffix = ternary "" (printf "-%s" .) (contains . $release) }}{{ end -}}
{{- if lt $release "a" }}{{ $release = printf "r-%s" $release }}{{ end -}}
{{ include "common.cut" (dict "name" $release "max" (sub .max (len $suffix))) }}{{ $suffix }}
{{- end -}}
{{- end }}

{{/* Whether a namespace may be one of the chart's own objects: the release's namespace is there before the release, and
     Kubernetes has some. Params: root, name */}}
{{- define "common.ownsNamespace" -}}
{{- $isForeign := or (eq .name .root.Release.Namespace) (eq .name "default") (hasPrefix "kube-" .name) -}}
{{- if not $isForeign }}true{{ end -}}
{{- end }}
