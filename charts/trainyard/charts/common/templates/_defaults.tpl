{{/* Null means the default. Helm drops a key that is null, so what is missing is set again, from files/defaults.json
     (written by docs/values.py). A part of a path that ends with ? may be missing: what is in it is set only where it is.
     Each chart includes this in a template with a long path: Helm renders those first, and `.Values` is one map for the
     whole render. In an umbrella its own file has the keys of its subcharts, so it alone does it.
     Params: the chart's root context */}}
{{- define "common.setDefaults" -}}
{{- if .Chart.IsRoot }}
{{- range $path, $value := .Files.Get "files/defaults.json" | fromJson }}
{{- $map := $.Values }}
{{- $parts := splitList "." $path }}
{{- range initial $parts }}
{{- $key := trimSuffix "?" . }}
{{- if not (or (hasKey $map $key) (hasSuffix "?" .)) }}{{ $_ := set $map $key dict }}{{ end }}
{{- $below := get $map $key }}
{{- $map = ternary $below dict (kindIs "map" $below) }}
{{- end }}
{{- if not (hasKey $map (last $parts)) }}{{ $_ := set $map (last $parts) $value }}{{ end }}
{{- end }}
{{- end }}
{{- end }}
