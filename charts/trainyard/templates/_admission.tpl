{{/* Rights by RBAC end at the kind: who may create pods in a namespace may run them as any ServiceAccount of it, and mount
     any of its Secrets. A ValidatingAdmissionPolicy and its binding say which.
     Params: root, component, users (ServiceAccounts as NAMESPACE:NAME; none stands for everybody), namespaces, group,
     resource, operations, conditions (more of them; optional), variables, validations (a list of each; those of pods are
     made by trainyard.podRules) */}}
{{- define "trainyard.admissionPolicy" -}}
{{- $labels := include "common.labels" (dict "root" .root "component" .component) }}
{{- $name := include "trainyard.clusterScopedName" . }}
{{- $conditions := .conditions | default list }}
{{- with .users }}
{{- $users := list }}
{{- range . }}{{ $users = append $users (printf "system:serviceaccount:%s" .) }}{{ end }}
{{- $conditions = append $conditions (dict "name" "of-this-release" "expression" (printf "request.userInfo.username in %s" (toJson $users))) }}
{{- end }}
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata:
  name: {{ $name | include "common.scalar" }}
  labels: {{- $labels | nindent 4 }}
spec:
  failurePolicy: Fail
  matchConstraints:
    matchPolicy: Equivalent
    objectSelector: {}
    namespaceSelector:
      matchExpressions:
        - {key: kubernetes.io/metadata.name, operator: In, values: {{ toJson .namespaces }}}
    resourceRules:
      - apiGroups: [{{ .group | quote }}]
        apiVersions: [v1]
        operations: {{ toJson .operations }}
        resources: [{{ .resource }}]
        scope: "*"
  matchConditions: {{- toYaml $conditions | nindent 4 }}
  {{- with .variables }}
  variables: {{- toYaml . | nindent 4 }}
  {{- end }}
  validations: {{- toYaml .validations | nindent 4 }}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata:
  name: {{ $name | include "common.scalar" }}
  labels: {{- $labels | nindent 4 }}
spec:
  policyName: {{ $name | include "common.scalar" }}
  validationActions: [Deny]
{{- end }}

{{/* Releases of one name may be in several namespaces, and such an object is in none. Params: root, component */}}
{{- define "trainyard.clusterScopedName" -}}
{{ include "common.cut" (dict "name" (printf "%s-%s-%s" (include "trainyard.fullname" .root) .root.Release.Namespace .component) "max" 63) }}
{{- end }}

{{/* What pods may be like: those of the chart's own templates, and what the values allow beside. JSON
     {variables, validations}.
     Params: path (of the pod's spec in CEL), what (the word for it in messages), pods (specs of the templates),
     serviceAccounts, secrets (further names), cure (what helps) */}}
{{- define "trainyard.podRules" -}}
{{- $accounts := .serviceAccounts }}
{{- $secrets := .secrets }}
{{- $volumes := list "configMap" "csi" "downwardAPI" "emptyDir" "ephemeral" "image" "persistentVolumeClaim" "projected" "secret" }}
{{- $hostPaths := list }}
{{- $isPrivileged := false }}
{{- range .pods }}
{{- $accounts = append $accounts .serviceAccountName }}
{{- $secrets = concat $secrets (include "common.references" . | fromJson).Secret }}
{{- range .volumes }}
{{- $volumes = concat $volumes (keys (omit . "name") | sortAlpha) }}
{{- $hostPaths = append $hostPaths (.hostPath).path }}
{{- end }}
{{- range concat (.initContainers | default list) .containers }}
{{- $isPrivileged = or $isPrivileged (.securityContext).privileged }}
{{- end }}
{{- $isPrivileged = or $isPrivileged .hostNetwork .hostPID .hostIPC }}
{{- end }}
{{- $accounts = uniq $accounts }}
{{- $secrets = uniq $secrets }}
{{- $volumes = uniq $volumes }}
{{- $hostPaths = compact $hostPaths | uniq }}
{{- /* In CEL, an empty name stands for what is not there. */}}
{{- $variables := list
    (dict "name" "pod" "expression" .path)
    (dict "name" "containers" "expression" "variables.pod.containers + variables.pod.?initContainers.orValue([])")
    (dict "name" "volumes" "expression" "variables.pod.?volumes.orValue([])")
    (dict "name" "secrets" "expression" (prepend $secrets "" | toJson))
    (dict "name" "strangers" "expression" (include "trainyard.celStrangers" . | trim)) }}
{{- $validations := list
    (dict "expression" (printf "variables.pod.?serviceAccountName.orValue('default') in %s" (toJson $accounts))
      "message" (printf "%s runs as the ServiceAccount %s; %s" .what (join " or " $accounts) .cure))
    (dict "expression" "variables.strangers.size() == 0"
      "messageExpression" (printf "%s + variables.strangers.join(', ')" (printf "%s may use %s; %s. Another one is in: " .what (ternary (join ", " $secrets | printf "the Secrets %s") "no Secret" (gt (len $secrets) 0)) .cure | toJson)))
    (dict "expression" (printf "variables.volumes.all(v, dyn(v).all(k, k in %s) && v.?hostPath.?path.orValue('') in %s)" (prepend $volumes "name" | toJson) (prepend $hostPaths "" | toJson))
      "message" (printf "%s may have volumes of the kinds %s%s" .what (join ", " $volumes) (ternary (printf ", with hostPath of %s" (join ", " $hostPaths)) "" (gt (len $hostPaths) 0)))) }}
{{- if not $isPrivileged }}
{{- $validations = append $validations (dict
    "expression" "!variables.pod.?hostNetwork.orValue(false) && !variables.pod.?hostPID.orValue(false) && !variables.pod.?hostIPC.orValue(false) && variables.containers.all(c, !c.?securityContext.?privileged.orValue(false))"
    "message" (printf "%s is not privileged, and has no namespaces of its host" .what)) }}
{{- end }}
{{- dict "variables" $variables "validations" $validations | toJson }}
{{- end }}

{{/* CEL: the containers and volumes with a Secret that is not among variables.secrets. */}}
{{- define "trainyard.celStrangers" -}}
variables.containers.filter(c,
  c.?env.orValue([]).exists(e, !(e.?valueFrom.?secretKeyRef.?name.orValue('') in variables.secrets)) ||
  c.?envFrom.orValue([]).exists(e, !(e.?secretRef.?name.orValue('') in variables.secrets))
).map(c, 'container ' + c.name) +
variables.volumes.filter(v,
  !(v.?secret.?secretName.orValue('') in variables.secrets) ||
  !(v.?csi.?nodePublishSecretRef.?name.orValue('') in variables.secrets) ||
  v.?projected.?sources.orValue([]).exists(s, !(s.?secret.?name.orValue('') in variables.secrets))
).map(v, 'volume ' + v.name)
{{- end }}

{{/* Programs of pods as lists of image, command and arguments. JSON. Params: a list of specs */}}
{{- define "trainyard.programs" -}}
{{- $programs := list }}
{{- range . }}
{{- range concat (.initContainers | default list) .containers }}
{{- $programs = append $programs (concat (list .image) (.command | default list) (.args | default list)) }}
{{- end }}
{{- end }}
{{- toJson $programs }}
{{- end }}

{{/* CEL: whether a pod asks for a GPU of a pool. Params: path (of the pod's spec), pools */}}
{{- define "trainyard.celAsksForGpus" -}}
{{- $resources := list }}
{{- range .pools }}{{ $resources = append $resources .resourceName }}{{ end -}}
({{ .path }}.containers + {{ .path }}.?initContainers.orValue([])).exists(c,
  {{ uniq $resources | sortAlpha | toJson }}.exists(r, r in c.?resources.?limits.orValue({})))
{{- end }}

{{/* CEL: whether a Job with GPUs has a queue when it is made, and later. One that had none stays as it is: it is older
     than the queues. Params: pools, triggerers (names of users) */}}
{{- define "trainyard.celStaysQueued" -}}
'kueue.x-k8s.io/queue-name' in object.metadata.?labels.orValue({}) || (oldObject == null ?
  request.userInfo.username in {{ toJson .triggerers }} :
  !('kueue.x-k8s.io/queue-name' in oldObject.metadata.?labels.orValue({})) &&
  {{ include "trainyard.celAsksForGpus" (dict "path" "oldObject.spec.template.spec" "pools" .pools) }})
{{- end }}

{{/* CEL: whether a Job has one of these priority classes. One that is there keeps what it has: its class cannot change, and
     who refuses its changes would keep it from ending. Params: a list of classes */}}
{{- define "trainyard.celKeepsPriority" -}}
{{- $label := "object.metadata.?labels[?'kueue.x-k8s.io/priority-class'].orValue('')" -}}
oldObject == null ?
  object.spec.template.spec.?priorityClassName.orValue('') in {{ toJson . }} && {{ $label }} == '' :
  {{ $label }} == {{ replace "object." "oldObject." $label }}
{{- end }}
