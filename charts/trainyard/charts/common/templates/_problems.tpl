{{/* What is wrong with values of well-known shapes, wherever they lie: requests and limits, labels, security contexts and
     so on, one line each, with the key and the cure. What the schemas say is not repeated.
     Params: key (of the values; empty for the root), values (a map), ownNames (what common.ownNames says below it) */}}
{{- define "common.problems" -}}
{{- $lines := list }}
{{- $checks := dict
    "labels" "common.labelProblems" "nodeSelector" "common.labelProblems"
    "annotations" "common.annotationProblems" "podAnnotations" "common.annotationProblems"
    "airflowPodAnnotations" "common.annotationProblems" "jobAnnotations" "common.annotationProblems"
    "limitRange" "common.limitRangeProblems" "quota" "common.quantityProblems"
    "emptyDirConfig" "common.emptyDirProblems" "strategy" "common.strategyProblems" }}
{{- $namesAreTheUsers := has (list "*") .ownNames }}
{{- range $name, $value := ternary .values (omit .values "config") $namesAreTheUsers }}
{{- if kindIs "map" $value }}
{{- $key := printf "%s.%s" $.key $name | trimPrefix "." }}
{{- $template := ternary "" (get $checks $name) $namesAreTheUsers }}
{{- $ownNames := list }}
{{- range $.ownNames }}
{{- if and (has (first .) (list "*" $name)) (rest .) }}{{ $ownNames = append $ownNames (rest .) }}{{ end }}
{{- end }}
{{- $found := include ($template | default "common.problems") (dict "key" $key "values" $value "ownNames" $ownNames) }}
{{- with trim $found }}{{ $lines = append $lines . }}{{ end }}
{{- else if and (eq $name "env") (kindIs "slice" $value) }}
{{- range $value }}
{{- if and (hasKey . "value") (hasKey . "valueFrom") }}
{{- $lines = append $lines (printf "%s.env: %s has a value and a valueFrom; keep one of them" $.key .name | trimPrefix ".") }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- /* What is told by the keys that a map has, where they are the chart's. */}}
{{- $told := list }}
{{- if not $namesAreTheUsers }}
{{- if hasKey .values "repository" }}{{ $told = append $told "common.imageProblems" }}{{ end }}
{{- if or (hasKey .values "requests") (hasKey .values "limits") }}{{ $told = append $told "common.resourceProblems" }}{{ end }}
{{- if or (hasKey .values "podSecurityContext") (hasKey .values "pod") (hasKey .values "container") (hasKey .values "containers") }}{{ $told = append $told "common.userProblems" }}{{ end }}
{{- end }}
{{- range $told }}
{{- with include . $ | trim }}{{ $lines = append $lines . }}{{ end }}
{{- end }}
{{- $lines | join "\n" }}
{{- end }}

{{/* A quantity in units, as a number: 8Gi is 8589934592, 100m is 0.1; nothing where it is none. Params: the value */}}
{{- define "common.quantity" -}}
{{- $text := include "common.text" . }}
{{- if regexMatch `^\+?([0-9]+\.?[0-9]*|\.[0-9]+)([num]|[kMGTPE]|[KMGTPE]i|[eE][-+]?[0-9]+)?$` $text }}
{{- $text = trimPrefix "+" $text }}
{{- $suffix := trimAll "0123456789." $text }}
{{- $factors := dict "" 1.0 "n" 1e-9 "u" 1e-6 "m" 1e-3 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "E" 1e18
      "Ki" 1024.0 "Mi" 1048576.0 "Gi" 1073741824.0 "Ti" 1099511627776.0 "Pi" 1125899906842624.0 "Ei" 1152921504606846976.0 }}
{{- if hasSuffix $suffix $text }}
{{- mulf (trimSuffix $suffix $text | float64) (get $factors $suffix) }}
{{- else }}
{{- float64 $text }}
{{- end }}
{{- end }}
{{- end }}

{{/* Amounts that are none. Params: key, values (a map) */}}
{{- define "common.quantityProblems" -}}
{{- range $name, $value := .values }}
{{- if not (or (kindIs "invalid" $value) (include "common.quantity" $value)) }}
{{- include "common.noQuantity" (dict "key" (printf "%s.%s" $.key $name) "value" $value) }}
{{- end }}
{{- end }}
{{- end }}

{{- define "common.noQuantity" }}
{{ .key }}: {{ include "common.text" .value | quote }} is no quantity; write a number with a suffix of Kubernetes, as in 500m, 8Gi or 8G
{{- end }}

{{/* Resources of a container: what is no resource, no amount, or requested over its limit.
     Params: key, values; low and high, the two keys of the map (requests and limits by default) */}}
{{- define "common.resourceProblems" -}}
{{- $low := .low | default "requests" }}
{{- $high := .high | default "limits" }}
{{- $amounts := dict $low dict $high dict }}
{{- range $part, $numbers := $amounts }}
{{- $values := get $.values $part }}
{{- if kindIs "map" $values }}
{{- range $name, $value := $values }}
{{- $key := printf "%s.%s.%s" $.key $part $name }}
{{- $text := include "common.text" $value }}
{{- $number := include "common.quantity" $value }}
{{- if $number }}
{{- $_ := set $numbers $name (float64 $number) }}
{{- else if not (kindIs "invalid" $value) }}
{{- include "common.noQuantity" (dict "key" $key "value" $value) }}
{{- end }}
{{- if not (or (has $name (list "cpu" "memory" "ephemeral-storage")) (regexMatch "^(hugepages-[0-9]+[KMG]i|[a-z0-9][-a-z0-9.]*/[-A-Za-z0-9_.]+)$" $name)) }}
{{ $key }}: there is no such resource; name cpu, memory, ephemeral-storage, or one with a domain, as nvidia.com/gpu
{{- else if and (contains "/" $name) (not (regexMatch "^[0-9]+$" $text)) }}
{{ $key }}: {{ $text }} is not a whole number; give one
{{- else if and (has $name (list "memory" "ephemeral-storage")) (regexMatch "^[0-9.]+[num]$" $text) }}
{{ $key }}: {{ $text }} is a part of a byte; write {{ regexFind "^[0-9.]+" $text }}Mi
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- range $name, $request := get $amounts $low }}
{{- $key := printf "%s.%s.%s" $.key $low $name }}
{{- $limits := get $amounts $high }}
{{- if and (hasKey $limits $name) (gt $request (get $limits $name)) }}
{{ $key }}: {{ get (get $.values $low) $name | include "common.text" }} is over {{ $high }}.{{ $name }} {{ get (get $.values $high) $name | include "common.text" }}; lower it, or raise the other
{{- else if and (contains "/" $name) (ne (toString $request) (get $limits $name | toString)) }}
{{ $key }}: is not {{ $high }}.{{ $name }}, and such a resource is not shared; make them the same
{{- end }}
{{- end }}
{{- end }}

{{/* Params: key, values (a LimitRange's) */}}
{{- define "common.limitRangeProblems" -}}
{{- include "common.resourceProblems" (merge (dict "low" "defaultRequest" "high" "default") .) }}
{{- end }}

{{/* Params: key, values (of an emptyDir) */}}
{{- define "common.emptyDirProblems" -}}
{{- include "common.quantityProblems" (dict "key" .key "values" (pick .values "sizeLimit")) }}
{{- end }}

{{/* Keys of labels and annotations that are none, and values that YAML does not read as texts. Params: key, values */}}
{{- define "common.annotationProblems" -}}
{{- range $name, $value := .values }}
{{- if not (regexMatch "^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$" $name) }}
{{ $.key }}: {{ quote $name }} is no key of a label or an annotation; write NAME or DOMAIN/NAME, NAME of at most 63 letters, digits, -, _ and .
{{- else if not (or (kindIs "string" $value) (kindIs "invalid" $value)) }}
{{ $.key }}.{{ $name }}: {{ include "common.text" $value }} is not a text; quote it
{{- end }}
{{- end }}
{{- end }}

{{/* The same for labels, whose values are limited as well. Params: key, values */}}
{{- define "common.labelProblems" -}}
{{- include "common.annotationProblems" . }}
{{- range $name, $value := .values }}
{{- if and (kindIs "string" $value) (not (regexMatch "^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$" $value)) }}
{{ $.key }}.{{ $name }}: {{ quote $value }} is no value of a label; write at most 63 letters, digits, -, _ and ., the first and the last a letter or digit
{{- end }}
{{- end }}
{{- end }}

{{/* How a Deployment rolls. Params: key, values */}}
{{- define "common.strategyProblems" -}}
{{- $rolling := get .values "rollingUpdate" | default dict }}
{{- if and (eq (get .values "type" | toString) "Recreate") $rolling }}
{{ .key }}.rollingUpdate: type Recreate has none; set it to null
{{- else if and (hasKey $rolling "maxSurge") (hasKey $rolling "maxUnavailable") }}
{{- if not (or (regexMatch "[1-9]" (include "common.text" $rolling.maxSurge)) (regexMatch "[1-9]" (include "common.text" $rolling.maxUnavailable))) }}
{{ .key }}.rollingUpdate: nothing could roll with maxSurge and maxUnavailable 0; raise one of them
{{- end }}
{{- end }}
{{- end }}

{{/* Root in a pod that may not be root, as no such container starts. Params: key, values (with security contexts) */}}
{{- define "common.userProblems" -}}
{{- range $podKey, $containerKeys := dict "podSecurityContext" (list "securityContext" "containerSecurityContext") "pod" (list "container" "containers") }}
{{- /* A component without a context of its own has the chart's. */}}
{{- $pod := get $.values $podKey | default (dict "runAsNonRoot" (hasSuffix "securityContexts" $.key)) }}
{{- range $name := prepend $containerKeys $podKey }}
{{- $context := get $.values $name | default dict }}
{{- if and (eq (get $context "runAsUser" | include "common.text") "0") (ternary $context.runAsNonRoot $pod.runAsNonRoot (hasKey $context "runAsNonRoot")) }}
{{ $.key }}.{{ $name }}.runAsUser: 0 is root, which runAsNonRoot forbids; name the image's own user
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* An image's name that is none. Only an image that can be switched off, and those of the umbrella's script Jobs and
     backups, which then run another one, may have no name. Params: key, values */}}
{{- define "common.imageProblems" -}}
{{- if and (hasKey .values "repository") (hasKey .values "pullPolicy") }}
{{- $name := .values.repository | default "" }}
{{- if not (or $name (hasKey .values "enabled") (has .key (list "scriptJobs.image" "backup.image"))) }}
{{ .key }}.repository: is empty; name an image
{{- end }}
{{- if and $name (not (regexMatch "^([A-Za-z0-9][-A-Za-z0-9.]*(:[0-9]+)?/)?[a-z0-9]+([._-]+[a-z0-9]+)*(/[a-z0-9]+([._-]+[a-z0-9]+)*)*$" $name)) }}
{{- if regexMatch ":[^/:]*$" $name }}
{{ .key }}.repository: {{ $name }} ends with a tag; write that in {{ .key }}.tag
{{- else }}
{{ .key }}.repository: {{ $name }} is not the name of an image; write [HOST[:PORT]/]PATH in small letters, without https://
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* Keys that are the user's names and become names of objects. Of a schema's propertyNames Helm names another place.
     Params: key, values (a map), max (characters), separator (in names, `-`, or `.-` where dots may be there, too) */}}
{{- define "common.nameProblems" -}}
{{- range $name, $_ := .values }}
{{- if or (gt (len $name) $.max) (not (regexMatch (printf "^[a-z0-9]([a-z0-9%s]*[a-z0-9])?$" $.separator) $name)) }}
{{ $.key }}: {{ quote $name }} is no name; write at most {{ $.max }} small letters, digits and {{ $.separator }}, the first and the last a letter or digit
{{- end }}
{{- end }}
{{- end }}

{{/* Why a schedule is none that a CronJob takes, or nothing. Params: the schedule */}}
{{- define "common.scheduleProblem" -}}
{{- $fields := list "[0-5]?[0-9]" "([01]?[0-9]|2[0-3])" "(0?[1-9]|[12][0-9]|3[01])"
    "(0?[1-9]|1[0-2]|(?i:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec))" "([0-6]|(?i:sun|mon|tue|wed|thu|fri|sat))" }}
{{- $patterns := list }}
{{- range $fields }}
{{- $one := printf `(\*|\?|%[1]s(-%[1]s)?)(/0*[1-9][0-9]*)?` . }}
{{- $patterns = append $patterns (printf `%[1]s(,%[1]s)*` $one) }}
{{- end }}
{{- if not (or (regexMatch (printf `^\s*%s\s*$` (join `\s+` $patterns)) .)
    (regexMatch `^@(yearly|annually|monthly|weekly|daily|midnight|hourly|every ([0-9.]+(ns|us|µs|ms|s|m|h))+)$` .)) }}
{{- printf "%q is no schedule; write minute, hour, day, month and weekday, as in \"0 3 * * *\", or a word such as @daily" . }}
{{- end }}
{{- end }}

{{/* The lines that templates make of the same params, as one list. JSON. Params: templates (their names), params (of each) */}}
{{- define "common.lines" -}}
{{- $lines := list }}
{{- range .templates }}{{ $lines = concat $lines (splitList "\n" (include . $.params) | compact) }}{{ end }}
{{- toJson $lines }}
{{- end }}

{{/* Refuse bad values where a chart stands alone: an umbrella reports these with its own.
     Params: root (context), problems (the template of the chart's own, one line each; optional) */}}
{{- define "common.validation" -}}
{{- if .root.Chart.IsRoot }}
{{- $problems := include "common.problems" (dict "key" .root.Chart.Name "values" .root.Values
      "ownNames" (include "common.ownNames" .root | fromJsonArray)) }}
{{- $own := "" }}
{{- with .problems }}{{ $own = include . $.root }}{{ end }}
{{- with list $own $problems (include "common.databaseTlsProblems" .root) | join "\n" | trim }}{{ fail . }}{{ end }}
{{- end }}
{{- end }}

{{/* Annotations of pods that the chart sets itself, so that a change of what a pod reads restarts it: twice in one map is no
     YAML. One line each, nothing where there are none. Params: key, annotations */}}
{{- define "common.checksumProblems" -}}
{{- $problems := list }}
{{- range $name, $_ := .annotations }}
{{- if hasPrefix "checksum/" $name }}{{ $problems = append $problems (printf "%s: %s is the chart's own; choose another name" $.key $name) }}{{ end }}
{{- end }}
{{- join "\n" $problems }}
{{- end }}
