{{/* A value as YAML reads it back, in a block or within {...}: plain where that is safe, else as JSON. A number in JSON
     or YAML is a float to Helm, which would print 10485760 as 1.048576e+07. Params: the value */}}
{{- define "common.scalar" -}}
{{- $plain := toYaml . -}}
{{- if regexMatch "^[-\\w./][-\\w./:@= ]*$" $plain }}{{ $plain }}{{ else }}{{ toJson . }}{{ end -}}
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
