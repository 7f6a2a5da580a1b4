{{/* Null means the default. Helm drops a key that is null, so what is missing is set again, from files/defaults.json
     (written by docs/values.py). A part of a path that ends with ? may be missing: what is in it is set only where it is.
     A path that ends with * stands for the entries of a map with names of the user's own: Helm keeps those that are null
     where an earlier values file has made them, and they are removed.
     Each chart includes this in a template with a long path: Helm renders those first, and `.Values` is one map for the
     whole render. In an umbrella its own file has the keys of its subcharts, so it alone does it.
     Params: the chart's root context */}}
{{- define "common.setDefaults" -}}
{{- if .Chart.IsRoot }}
{{- $defaults := .Files.Get "files/defaults.json" | fromJson }}
{{- $lost := include "common.lostSettings" (dict "root" . "defaults" $defaults) | fromJsonArray }}
{{- range include "common.ownNames" . | fromJsonArray }}
{{- include "common.removeNulls" (dict "map" $.Values "path" .) }}
{{- end }}
{{- range $path, $value := $defaults }}
{{- $parts := splitList "." $path }}
{{- if not (has "*" $parts) }}
{{- $map := $.Values }}
{{- range initial $parts }}
{{- $key := trimSuffix "?" . }}
{{- if not (or (hasKey $map $key) (hasSuffix "?" .)) }}{{ $_ := set $map $key dict }}{{ end }}
{{- $below := get $map $key }}
{{- $map = ternary $below dict (kindIs "map" $below) }}
{{- end }}
{{- if or (not (hasKey $map (last $parts))) (has $path $lost) }}{{ $_ := set $map (last $parts) $value }}{{ end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* The maps with names of the user's own: the path of each map's entries as a list of its parts, of which the last one is *.
     JSON. Params: the chart's root context */}}
{{- define "common.ownNames" -}}
{{- $paths := list }}
{{- range $path, $_ := .Files.Get "files/defaults.json" | fromJson }}
{{- if hasSuffix "*" $path }}{{ $paths = append $paths (splitList "." $path) }}{{ end }}
{{- end }}
{{- toJson $paths }}
{{- end }}

{{/* Remove what is null of the entries that a path with * stands for. Params: map, path (its parts; the last one is *) */}}
{{- define "common.removeNulls" -}}
{{- $map := .map }}
{{- $first := first .path }}
{{- $rest := rest .path }}
{{- if kindIs "map" $map }}
{{- range $key, $value := $map }}
{{- if or (eq "*" $first) (eq $key $first) }}
{{- if $rest }}{{ include "common.removeNulls" (dict "map" $value "path" $rest) }}
{{- else if kindIs "invalid" $value }}{{ $_ := unset $map $key }}{{ end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* The paths that an umbrella sets in a subchart which is null as a whole: there, all of them are as without an umbrella,
     and `enabled`, which no subchart sets itself, is missing. JSON. Params: root, defaults (files/defaults.json of the
     umbrella) */}}
{{- define "common.lostSettings" -}}
{{- $lost := list }}
{{- range $name, $subchart := .root.Subcharts }}
{{- $set := list }}
{{- $isWhole := not (hasKey (get $.root.Values $name | default dict) "enabled") }}
{{- range $key, $value := $subchart.Files.Get "files/defaults.json" | fromJson }}
{{- $path := print $name "." $key }}
{{- if and $isWhole (not (deepEqual $value (get $.defaults $path))) (not (contains "?" $key)) }}
{{- $set = append $set $path }}
{{- $found := get $.root.Values $name }}
{{- range splitList "." $key }}{{ $found = ternary $found dict (kindIs "map" $found) | dig . nil }}{{ end }}
{{- $isWhole = deepEqual $found $value }}
{{- end }}
{{- end }}
{{- if $isWhole }}{{ $lost = concat $lost $set }}{{ end }}
{{- end }}
{{- toJson $lost }}
{{- end }}
