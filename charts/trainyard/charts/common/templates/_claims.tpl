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
{{- include "common.changedVolume" (dict "what" "claim" "claim" $claim "spec" .spec) }}
{{- $has := .spec.resources.requests.storage }}
{{- $more := subf (include "common.quantity" $claim.size | float64) (include "common.quantity" $has | float64) }}
{{- if lt $more 0.0 }}
{{ $claim.key }}.size: the claim {{ $claim.name }} has {{ $has }}, and volumes do not shrink; set at least that
{{- else if gt $more 0.0 }}
{{- /* One that may not read StorageClasses makes the claim larger with kubectl first; nothing is looked up then. */}}
{{- $class := lookup "storage.k8s.io/v1" "StorageClass" "" (.spec.storageClassName | default "-") }}
{{- if and $class (not $class.allowVolumeExpansion) }}
{{ $claim.key }}.size: the claim {{ $claim.name }} has {{ $has }}, and its StorageClass {{ .spec.storageClassName }} does not let volumes grow; set it back, or move the files as docs/operations.md#change-a-volume says
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* What of a volume no claim and no StatefulSet changes. A value that is empty asks for nothing: the class is then the one
     that the cluster has put there. Params: what (has it), claim (as for common.claim, with key), spec (of what is there) */}}
{{- define "common.changedVolume" -}}
{{- $has := ternary (.spec.storageClassName | default "-") "the cluster's default class" (hasKey .spec "storageClassName") }}
{{- $modes := join ", " .spec.accessModes }}
{{- $cure := "set it back, or move the files as docs/operations.md#change-a-volume says" }}
{{- with .claim }}
{{- if and .storageClassName (ne .storageClassName $has) }}
{{ .key }}.storageClassName: the {{ $.what }} {{ .name }} has {{ $has }}, which Kubernetes does not change; {{ $cure }}
{{- end }}
{{- if ne .accessMode $modes }}
{{ .key }}.accessMode: the {{ $.what }} {{ .name }} has {{ $modes }}, which Kubernetes does not change; {{ $cure }}
{{- end }}
{{- end }}
{{- end }}
