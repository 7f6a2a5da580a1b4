{{/* A value as YAML reads it back, in a block or within {...}: plain where that is safe, else as JSON. A number in JSON
     or YAML is a float to Helm, which would print 10485760 as 1.048576e+07. Params: the value */}}
{{- define "common.scalar" -}}
{{- /* Most are names, and toYaml is slow: a word with a dash or a slash is a text to YAML as it stands. */ -}}
{{- if and (kindIs "string" .) (regexMatch "^[A-Za-z]\\w*[-/][-\\w./]*$" .) -}}
{{ . }}
{{- else -}}
{{- $plain := toYaml . -}}
{{- if regexMatch "^[-\\w./][-\\w./:@= ]*$" $plain }}{{ $plain }}{{ else }}{{ toJson . }}{{ end -}}
{{- end -}}
{{- end }}

{{/* A text of the values that may be a template, made. Where it is none, tpl is left out: it copies every template of
     the chart. Params: root (context), text (or another scalar) */}}
{{- define "common.made" -}}
{{- $text := include "common.text" .text -}}
{{- if contains "{{" $text }}{{ tpl $text .root }}{{ else }}{{ $text }}{{ end -}}
{{- end }}

{{/* The lists that templates make, as one. JSON; what does not parse stops the render. Params: templates (their names),
     params (of each) */}}
{{- define "common.list" -}}
{{- $params := .params }}
{{- $all := list }}
{{- range $template := .templates }}
{{- $list := include $template $params | fromYamlArray }}
{{- if and $list (kindIs "string" (first $list)) }}{{ fail (printf "%s: %s" $template (first $list)) }}{{ end }}
{{- $all = concat $all $list }}
{{- end }}
{{- toJson $all }}
{{- end }}

{{/* A value as text, for arguments and files: what YAML reads as a number or a switch is written as it was.
     Params: the value */}}
{{- define "common.text" -}}
{{- if kindIs "string" . }}{{ . }}{{ else }}{{ toJson . }}{{ end -}}
{{- end }}
