{{/* Security contexts of training pods that their namespace, of the level restricted, refuses; one line each.
     Params: the root context */}}
{{- define "trainyard.restrictedProblems" -}}
{{- $training := .Values.training }}
{{- $problems := list }}
{{- $pod := $training.podSecurityContext | default dict }}
{{- $container := $training.containerSecurityContext | default dict }}
{{- $capabilities := $container.capabilities | default dict }}
{{- $wanted := dict
    "podSecurityContext.runAsNonRoot: set it to true" $pod.runAsNonRoot
    "podSecurityContext.seccompProfile.type: set it to RuntimeDefault or Localhost" (has ($pod.seccompProfile | default dict).type (list "RuntimeDefault" "Localhost"))
    "containerSecurityContext.privileged: set it to false" (not $container.privileged)
    "containerSecurityContext.allowPrivilegeEscalation: set it to false" (and (hasKey $container "allowPrivilegeEscalation") (not $container.allowPrivilegeEscalation))
    "containerSecurityContext.capabilities.drop: name ALL" (has "ALL" ($capabilities.drop | default list))
    "containerSecurityContext.capabilities.add: only NET_BIND_SERVICE may be there" (not (without ($capabilities.add | default list) "NET_BIND_SERVICE")) }}
{{- if $training.createNamespace }}
{{- range $problem, $isFine := $wanted }}
{{- if not $isFine }}
{{- $problems = append $problems (printf "training.%s, as the namespace is of the level restricted" $problem) }}
{{- end }}
{{- end }}
{{- end }}
{{- $problems | join "\n" }}
{{- end }}

{{/* Names under secrets.external that no key has: the Job would make the Secret that was meant. One line each.
     Params: the root context */}}
{{- define "trainyard.externalSecretProblems" -}}
{{- $airflow := .Values.airflow }}
{{- $connection := include "trainyard.s3ConnectionSecretName" . }}
{{- $names := list (include "trainyard.adminSecretName" .)
    $connection (printf "%s/%s" (include "trainyard.airflowNamespace" .) $connection)
    $airflow.fernetKeySecretName $airflow.jwtSecretName $airflow.apiSecretKeySecretName
    ($airflow.data).metadataSecretName (.Values.mlflow.backendStore).secretName }}
{{- if .Values.airflow.enabled }}{{ $names = append $names (include "airflow.metadataSecretName" .Subcharts.airflow) }}{{ end }}
{{- if .Values.mlflow.enabled }}{{ $names = append $names (include "mlflow.backendSecretName" .Subcharts.mlflow) }}{{ end }}
{{- range include "trainyard.ownKeys" . | fromJsonArray }}{{ $names = append $names .secret }}{{ end }}
{{- $names = compact $names | uniq | sortAlpha }}
{{- $problems := list }}
{{- if .Values.secrets.bootstrap.enabled }}
{{- range .Values.secrets.external }}
{{- if not (has . $names) }}
{{- $problems = append $problems (printf "secrets.external: %s is no Secret of the platform's; correct or remove it (there are: %s)" . (join ", " $names)) }}
{{- end }}
{{- end }}
{{- end }}
{{- $problems | join "\n" }}
{{- end }}

{{/* Queues that nobody would serve. One line each. Params: the root context */}}
{{- define "trainyard.queueProblems" -}}
{{- if .Values.queues.kueue.enabled }}
{{- /* Without a cluster, as in helm template, there is nothing to look into. */}}
{{- if and (lookup "v1" "Namespace" "" "kube-system") (not (.Capabilities.APIVersions.Has "kueue.x-k8s.io/v1beta2")) }}
queues.kueue.enabled: the cluster does not serve kueue.x-k8s.io/v1beta2; install Kueue 0.15 or later first, or set it to false
{{- end }}
{{- end }}
{{- end }}

{{/* TLS of the databases: what does not go together, or leaves nobody who could connect. One line each.
     Params: the root context */}}
{{- define "trainyard.databaseTlsProblems" -}}
{{- include "common.databaseTlsProblems" . }}
{{- $mode := .Values.global.databaseTls.mode }}
{{- $certificate := .Values.postgresql.tlsSecretName }}
{{- if and $certificate (not .Values.postgresql.enabled) }}
postgresql.tlsSecretName: postgresql.enabled is false, so that there is no server to take it; remove it, and set global.databaseTls for your own server
{{- else if and $certificate (eq $mode "disable") }}
global.databaseTls.mode: disable, and the embedded database takes TLS alone (postgresql.tlsSecretName); set verify-full
{{- else if and .Values.postgresql.enabled (not $certificate) (has $mode (list "require" "verify-ca" "verify-full")) }}
postgresql.tlsSecretName: needed where global.databaseTls.mode is {{ $mode }}, as the embedded database has no TLS without; name a Secret with tls.crt and tls.key
{{- end }}
{{- end }}

{{/* Names that objects of two charts would have in one namespace, because of a name in the values: one line for each two
     charts. Params: the root context */}}
{{- define "trainyard.nameProblems" -}}
{{- $starts := include "trainyard.nameStarts" . | fromJson }}
{{- $known := dict }}
{{- $told := dict }}
{{- range $chart, $start := $starts }}
{{- range $place := include "trainyard.namePlaces" (dict "root" $ "chart" $chart "start" $start) | fromJsonArray }}
{{- $other := get $known $place }}
{{- if and $other (not (hasKey $told (print $chart $other))) }}
{{- $_ := set $told (print $chart $other) true }}
{{- $overrides := list }}
{{- range $name := list $other $chart }}
{{- range $key := list "nameOverride" "fullnameOverride" }}
{{- with (index $.Values $name | default dict) }}{{ if get . $key }}{{ $overrides = append $overrides (list $name $key) }}{{ end }}{{ end }}
{{- end }}
{{- end }}
{{- $blamed := last ($overrides | default (list (list $chart "nameOverride"))) }}
{{- $theirs := ternary $other $chart (eq (first $blamed) $chart) }}
{{- if eq $start (get $starts $other) }}
{{ first $blamed }}.{{ last $blamed }}: names of {{ first $blamed }} would start with {{ $start }}, as those of {{ $theirs }} do; choose another one
{{- else }}
{{ first $blamed }}.{{ last $blamed }}: {{ base $place }} would be a name of {{ first $blamed }}, and is one of {{ ternary "the platform" $theirs (eq $theirs $.Chart.Name) }} already; choose another one
{{- end }}
{{- end }}
{{- $_ := set $known $place $chart }}
{{- end }}
{{- end }}
{{- end }}
