{{/* An image reference. What global.imageRegistry says takes the place of the registry in it, which is a first part
     with a dot or a port. Params: root (whose values have `global`), key (the values key, for the error),
     image {repository, tag, digest}, version (the tag where there is neither a tag nor a digest; optional) */}}
{{- define "common.image" -}}
{{- $tag := .image.tag -}}
{{- if not .image.digest }}{{ $tag = $tag | default .version }}{{ end -}}
{{- if not (or $tag .image.digest) }}{{ fail (printf "%s: set a tag or a digest" .key) }}{{ end -}}
{{- $repository := .image.repository -}}
{{- with (.root.Values.global).imageRegistry -}}
{{- $registry := trimSuffix "/" . -}}
{{- if not (hasPrefix (printf "%s/" $registry) $repository) -}}
{{- $repository = printf "%s/%s" $registry (regexReplaceAll "^([^/]*[.:][^/]*|localhost)/" $repository "") -}}
{{- end -}}
{{- end -}}
{{ $repository }}{{ with $tag }}:{{ . }}{{ end }}{{ with .image.digest }}@{{ . }}{{ end }}
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

{{/* Pull secrets of a pod. Params: root, secrets (a list) */}}
{{- define "common.imagePullSecrets" -}}
{{- with include "common.pullSecrets" . | fromJsonArray }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Pull secrets as a list of {name}, those of `global` after those given; values have names or {name}. JSON.
     Params: root, secrets (a list) */}}
{{- define "common.pullSecrets" -}}
{{- $all := list }}
{{- range concat (.secrets | default list) ((.root.Values.global).imagePullSecrets | default list) }}
{{- $all = append $all (ternary (dict "name" .) . (kindIs "string" .)) }}
{{- end }}
{{- uniq $all | toJson }}
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

{{/* What a PodDisruptionBudget allows. The API takes minAvailable or maxUnavailable: minAvailable goes before the default
     of the other. JSON. Params: minAvailable, maxUnavailable */}}
{{- define "common.budget" -}}
{{- pick . (ternary "maxUnavailable" "minAvailable" (kindIs "invalid" .minAvailable)) | toJson }}
{{- end }}

{{/* A PodDisruptionBudget. Params: root, component, name, config {minAvailable, maxUnavailable} */}}
{{- define "common.podDisruptionBudget" -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ .name | include "common.scalar" }}
  namespace: {{ .root.Release.Namespace | include "common.scalar" }}
  labels: {{- include "common.labels" . | nindent 4 }}
spec:
  {{- include "common.budget" .config | fromJson | toYaml | nindent 2 }}
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

{{/* The StorageClass of a claim: none said where the value is empty, and with - none at all, so that only a volume that
     is there already is bound. Params: the value */}}
{{- define "common.storageClass" -}}
{{- with . }}
storageClassName: {{ ternary "" . (eq . "-") | include "common.scalar" }}
{{- end }}
{{- end }}
