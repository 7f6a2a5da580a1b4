{{/* A namespace of the platform beside the release's: its level of Pod Security, ServiceAccount and limits.
     Params: root, component, values (createNamespace, namespace, serviceAccountName, serviceAccountAnnotations,
     limitRange, quota), keep (annotations that keep it when the release goes; optional), accountKeep (the same of the
     ServiceAccount), queued (Kueue admits its Jobs; optional),
     team (whose it is; optional) */}}
{{- define "trainyard.namespace" -}}
{{- $values := .values }}
{{- $labels := include "common.labels" (dict "root" .root "component" .component) }}
{{- $name := printf "%s-%s" (include "trainyard.fullname" .root) .component }}
{{- if and $values.createNamespace (include "common.ownsNamespace" (dict "root" .root "name" $values.namespace)) }}
apiVersion: v1
kind: Namespace
metadata:
  name: {{ $values.namespace | include "common.scalar" }}
  labels:
    {{- $labels | nindent 4 }}
    pod-security.kubernetes.io/enforce: restricted
    pod-security.kubernetes.io/warn: restricted
    pod-security.kubernetes.io/audit: restricted
    {{- with .team }}
    trainyard.dev/team: {{ . | include "common.scalar" }}
    {{- end }}
    {{- if .queued }}
    # For a Kueue that is told which namespaces are its business.
    trainyard.dev/queued: "true"
    {{- end }}
  {{- with .keep }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
---
{{- end }}
{{ include "common.serviceAccount" (dict "root" .root "component" .component
    "name" $values.serviceAccountName "namespace" $values.namespace
    "annotations" (merge dict (.accountKeep | default dict) $values.serviceAccountAnnotations)) }}
{{- with $values.limitRange }}
---
# Pods that say nothing about resources get these, so that the quota never refuses them.
apiVersion: v1
kind: LimitRange
metadata:
  name: {{ $name }}
  namespace: {{ $values.namespace | include "common.scalar" }}
  labels: {{- $labels | nindent 4 }}
spec:
  limits:
    - type: Container
      defaultRequest: {{- toYaml .defaultRequest | nindent 8 }}
      default: {{- toYaml .default | nindent 8 }}
{{- end }}
{{- with $values.quota }}
---
apiVersion: v1
kind: ResourceQuota
metadata:
  name: {{ $name }}
  namespace: {{ $values.namespace | include "common.scalar" }}
  labels: {{- $labels | nindent 4 }}
spec:
  hard:
    {{- range $resource, $amount := . }}
    {{ $resource | include "common.scalar" }}: {{ include "common.text" $amount | quote }}
    {{- end }}
{{- end }}
{{- end }}
