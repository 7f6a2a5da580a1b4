{{/* Null means the default. Helm drops a key that is null, so what is missing is set again, from files/defaults.json
     (written by docs/values.py). A part of a path that ends with ? may be missing: what is in it is set only where it is.
     Each chart includes this in a template with a long path: Helm renders those first, and `.Values` is one map for the
     whole render. In an umbrella its own file has the keys of its subcharts, so it alone does it.
     Params: the chart's root context */}}
{{- define "common.setDefaults" -}}
{{- if .Chart.IsRoot }}
{{- $defaults := .Files.Get "files/defaults.json" | fromJson }}
{{- range $name, $lost := include "common.lostSettings" (dict "root" . "defaults" $defaults) | fromJson }}
{{- fail (printf "%[1]s: null takes away what the platform sets in it (%[2]s); remove the line, or set %[1]s.enabled to false" $name (join ", " $lost)) }}
{{- end }}
{{- range $path, $value := $defaults }}
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

{{/* The keys that an umbrella sets in its subcharts, by those subcharts that are null as a whole: there, all of them are
     as without an umbrella. One key alone may be what the user has chosen. JSON.
     Params: root, defaults (files/defaults.json of the umbrella) */}}
{{- define "common.lostSettings" -}}
{{- $lost := dict }}
{{- range $name, $subchart := .root.Subcharts }}
{{- $own := $subchart.Files.Get "files/defaults.json" | fromJson }}
{{- $set := list }}
{{- $isWhole := true }}
{{- range $key, $value := $own }}
{{- $default := get $.defaults (print $name "." $key) }}
{{- if and $isWhole (not (deepEqual $value $default)) (not (contains "?" $key)) }}
{{- $set = append $set (splitList "." $key | first) | uniq }}
{{- $found := get $.root.Values $name }}
{{- range splitList "." $key }}{{ $found = ternary $found dict (kindIs "map" $found) | dig . nil }}{{ end }}
{{- $isWhole = deepEqual $found $value }}
{{- end }}
{{- end }}
{{- if and $isWhole (gt (len $set) 1) }}{{ $_ := set $lost $name $set }}{{ end }}
{{- end }}
{{- toJson $lost }}
{{- end }}
