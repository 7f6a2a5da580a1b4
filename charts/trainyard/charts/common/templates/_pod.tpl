{{/* An image reference. Params: key (the values key, for the error), image {repository, tag, digest},
     version (the tag where there is neither a tag nor a digest; optional) */}}
{{- define "common.image" -}}
{{- $tag := .image.tag -}}
{{- if not .image.digest }}{{ $tag = $tag | default .version }}{{ end -}}
{{- if not (or $tag .image.digest) }}{{ fail (printf "%s: set a tag or a digest" .key) }}{{ end -}}
{{ .image.repository }}{{ with $tag }}:{{ . }}{{ end }}{{ with .image.digest }}@{{ . }}{{ end }}
{{- end }}

{{/* Where a pod may run. Params: a dict with any of priorityClassName, nodeSelector, affinity, ... */}}
{{- define "common.scheduling" -}}
{{- with .priorityClassName }}
priorityClassName: {{ . | include "common.scalar" }}
{{- end }}
{{- range $field := list "nodeSelector" "affinity" "tolerations" "topologySpreadConstraints" }}
{{- with index $ $field }}
{{ $field }}: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end }}

{{/* Pull secrets. Params: a list of {name} */}}
{{- define "common.imagePullSecrets" -}}
{{- with . }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* A ServiceAccount. Params: root, component, name, annotations, token (mount one by default?) */}}
{{- define "common.serviceAccount" -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ .name | include "common.scalar" }}
  namespace: {{ .namespace | default .root.Release.Namespace | include "common.scalar" }}
  labels: {{- include "common.labels" . | nindent 4 }}
  {{- with .annotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
automountServiceAccountToken: {{ .token | default false | include "common.scalar" }}
{{- end }}

{{/* A PodDisruptionBudget. Params: root, component, name, config {minAvailable or maxUnavailable} */}}
{{- define "common.podDisruptionBudget" -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ .name | include "common.scalar" }}
  namespace: {{ .root.Release.Namespace | include "common.scalar" }}
  labels: {{- include "common.labels" . | nindent 4 }}
spec:
  {{- toYaml .config | nindent 2 }}
  selector:
    matchLabels: {{- include "common.selectorLabels" . | nindent 6 }}
{{- end }}

{{/* Annotations of what stays when the release goes, whether Helm or Argo CD removes it. To Argo CD, what stays without
     being in git any more is no difference. */}}
{{- define "common.keep" -}}
helm.sh/resource-policy: keep
argocd.argoproj.io/sync-options: Prune=false,Delete=false
argocd.argoproj.io/compare-options: IgnoreExtraneous
{{- end }}
