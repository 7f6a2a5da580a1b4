{{/* A PersistentVolumeClaim. Params: root (context), claim: name, namespace, component, accessMode, storageClassName, size,
     and keep (it stays when the release goes) */}}
{{- define "common.claim" -}}
{{- with .claim -}}
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: {{ .name | include "common.scalar" }}
  namespace: {{ .namespace | include "common.scalar" }}
  labels: {{- include "common.labels" (dict "root" $.root "component" .component) | nindent 4 }}
  {{- if .keep }}
  annotations: {{- include "common.keep" $.root | nindent 4 }}
  {{- end }}
spec:
  accessModes: [{{ .accessMode | include "common.scalar" }}]
  {{- with include "common.storageClass" .storageClassName | trim }}{{ . | nindent 2 }}{{ end }}
  resources:
    requests: {storage: {{ .size | include "common.scalar" }}}
{{- end }}
{{- end }}

{{/* What the values want of claims that are there and Kubernetes does not change, one line each: the upgrade would stop
     half way. Found where Helm asks a cluster; `helm template` and Argo CD do not, and there the API server refuses.
     Params: claims, each as for common.claim, and key (of its values) */}}
{{- define "common.claimProblems" -}}
{{- range .claims }}
{{- $claim := . }}
{{- with lookup "v1" "PersistentVolumeClaim" .namespace .name }}
{{- $class := dict }}
{{- /* One that may not read StorageClasses makes the claim larger with kubectl first; nothing is looked up then. */}}
{{- if include "common.growth" (dict "claim" $claim "there" .) | eq "+" }}
{{- $class = lookup "storage.k8s.io/v1" "StorageClass" "" (.spec.storageClassName | default "-") }}
{{- end }}
{{- include "common.claimChanges" (dict "claim" $claim "there" . "class" $class) }}
{{- end }}
{{- end }}
{{- end }}

{{/* What of a claim cannot become what the values want, one line each. Params: claim (as for common.claim, with key), there
     (the object), class (the StorageClass of a claim that is to grow; empty if there is none) */}}
{{- define "common.claimChanges" -}}
{{- $spec := .there.spec }}
{{- $has := $spec.resources.requests.storage }}
{{- $move := "move the files as docs/operations.md#change-a-volume says" }}
{{- with .claim }}
{{- /* A claim without a class may get one. */}}
{{- if and .storageClassName (hasKey $spec "storageClassName") (ne .storageClassName ($spec.storageClassName | default "-")) }}
{{ .key }}.storageClassName: the claim {{ .name }} has {{ $spec.storageClassName | default "-" }}, which Kubernetes does not change; set it back, or {{ $move }}
{{- else if and (not .storageClassName) (include "common.namedClass" $.there) }}
{{ .key }}.storageClassName: the claim {{ .name }} was made with {{ $spec.storageClassName | default "-" }}, which Kubernetes does not take away; set it again, or {{ $move }}
{{- end }}
{{- if ne .accessMode (join ", " $spec.accessModes) }}
{{ .key }}.accessMode: the claim {{ .name }} has {{ join ", " $spec.accessModes }}, which Kubernetes does not change; set it back, or {{ $move }}
{{- end }}
{{- $growth := include "common.growth" (dict "claim" . "there" $.there) }}
{{- if eq $growth "-" }}
{{ .key }}.size: the claim {{ .name }} has {{ $has }}, and volumes do not shrink; set at least that
{{- else if ne $growth "+" }}
{{- else if ne ($.there.status | default dict).phase "Bound" }}
{{ .key }}.size: the claim {{ .name }} asks for {{ $has }} and has no volume yet, until when Kubernetes does not change it; set it back, or delete the claim, which is empty
{{- else if not (and $.class $.class.allowVolumeExpansion) }}
{{ .key }}.size: the claim {{ .name }} has {{ $has }}, and {{ with $spec.storageClassName }}its StorageClass {{ . }} does not let volumes grow{{ else }}without a StorageClass volumes do not grow{{ end }}; set it back, or {{ $move }}
{{- end }}
{{- end }}
{{- end }}

{{/* true if a claim's class was asked for, and is not the cluster's default one: of that nobody is the manager. Params: the claim */}}
{{- define "common.namedClass" -}}
{{- range .metadata.managedFields }}
{{- if hasKey (get (.fieldsV1 | default dict) "f:spec" | default dict) "f:storageClassName" }}true{{ end }}
{{- end }}
{{- end }}

{{/* Whether a claim is to grow (+) or to shrink (-), else nothing. One that never got what it asks for, as its volume could not
     grow, may ask for less, but for more than the volume has. Params: claim, there */}}
{{- define "common.growth" -}}
{{- $wanted := include "common.quantity" .claim.size | float64 }}
{{- $has := include "common.quantity" .there.spec.resources.requests.storage | float64 }}
{{- $volume := ((.there.status | default dict).capacity | default dict).storage }}
{{- if gt $wanted $has }}+
{{- else if eq $wanted $has }}
{{- else if not (and $volume (gt $wanted (include "common.quantity" ($volume | default "0") | float64))) }}-
{{- end }}
{{- end }}

{{/* The same of the claims of a StatefulSet, which keeps its template as it is. Params: claim, there (the template's spec) */}}
{{- define "common.claimTemplateChanges" -}}
{{- $there := .there }}
{{- $class := ternary ($there.storageClassName | default "-") "" (hasKey $there "storageClassName") }}
{{- with .claim }}
{{- range $key, $has := dict "storageClassName" $class "accessMode" (join ", " $there.accessModes) "size" $there.resources.requests.storage }}
{{- $wants := get $.claim $key }}
{{- if and (ne $wants $has) (or (ne $key "size") (ne (include "common.quantity" $wants) (include "common.quantity" $has))) }}
{{ $.claim.key }}.{{ $key }}: the StatefulSet {{ $.claim.name }} has {{ $has | default "the cluster's default class" }}, which Kubernetes does not change; set it back, or make it anew as docs/operations.md#change-a-volume says
{{- end }}
{{- end }}
{{- end }}
{{- end }}
