{{/* Who talks to whom. NetworkPolicies, both sides of each connection, are made of what stands here, and of nothing
     else. What is more than a name is JSON. */}}

{{/* The parts of the platform that have pods: name -> {namespace, selector (of its pods), ports (that it listens on)}.
     Params: the root context */}}
{{- define "trainyard.networkComponents" -}}
{{- $components := dict }}
{{- $_ := merge $components (include "trainyard.airflowNetworkComponents" . | fromJson) }}
{{- if include "trainyard.wantedSecrets" . | fromJson }}
{{- $_ := set $components "bootstrap-secrets" (include "trainyard.networkComponent" (dict "root" . "component" "trainyard-bootstrap-secrets") | fromJson) }}
{{- end }}
{{- if .Values.mlflow.enabled }}
{{- $mlflow := .Subcharts.mlflow }}
{{- $_ := set $components "mlflow" (include "trainyard.networkComponent" (dict "root" $mlflow "component" "tracking-server" "port" $mlflow.Values.service.port) | fromJson) }}
{{- if $mlflow.Values.garbageCollection.enabled }}
{{- $_ := set $components "mlflow-garbage-collection" (include "trainyard.networkComponent" (dict "root" $mlflow "component" "garbage-collection") | fromJson) }}
{{- end }}
{{- end }}
{{- if .Values.postgresql.enabled }}
{{- $_ := set $components "postgresql" (include "trainyard.networkComponent" (dict "root" .Subcharts.postgresql "component" "database" "port" 5432) | fromJson) }}
{{- end }}
{{- if .Values.backup.enabled }}
{{- range $name := list "backup" "restore" }}
{{- $_ := set $components $name (include "trainyard.networkComponent" (dict "root" $ "component" $name) | fromJson) }}
{{- end }}
{{- end }}
{{- /* Whatever runs in the training namespace is training, but for the object store. */}}
{{- $training := dict }}
{{- if .Values.versitygw.enabled }}
{{- $versitygw := .Subcharts.versitygw }}
{{- $store := include "trainyard.networkComponent" (dict "root" $versitygw "component" "object-store" "port" $versitygw.Values.service.port "namespace" (include "trainyard.versitygwNamespace" .)) | fromJson }}
{{- $_ := set $components "versitygw" $store }}
{{- $name := "app.kubernetes.io/name" }}
{{- $training = dict "matchExpressions" (list (dict "key" $name "operator" "NotIn" "values" (list (get $store.selector.matchLabels $name)))) }}
{{- end }}
{{- range include "trainyard.trainingNamespaces" . | fromJsonArray }}
{{- $selector := ternary dict $training (ne .team "") }}
{{- $_ := set $components (include "trainyard.teamName" (dict "name" "training" "team" .team)) (dict "namespace" .values.namespace "selector" $selector "ports" list) }}
{{- end }}
{{- if .Values.serving.enabled }}
{{- $_ := set $components "model-servers" (dict "namespace" .Values.serving.namespace "selector" dict "ports" (list .Values.serving.port)) }}
{{- end }}
{{- if .Values.stockOperators.enabled }}
{{- $_ := set $components "stock-operators" (dict "namespace" .Values.stockOperators.namespace "selector" dict "ports" list) }}
{{- end }}
{{- toJson $components }}
{{- end }}

{{- define "trainyard.airflowNetworkComponents" -}}
{{- $components := dict }}
{{- if .Values.airflow.enabled }}
{{- $airflow := .Subcharts.airflow }}
{{- $values := $airflow.Values }}
{{- $names := list "scheduler" "dag-processor" "triggerer" "worker" }}
{{- if $values.migrateDatabaseJob.enabled }}{{ $names = append $names "migrate-database" }}{{ end }}
{{- if $values.pgbouncer.enabled }}
{{- $_ := set $components "pgbouncer" (include "trainyard.networkComponent" (dict "root" $airflow "component" "pgbouncer" "port" $values.ports.pgbouncer) | fromJson) }}
{{- end }}
{{- if $values.statsd.enabled }}
{{- $statsd := include "trainyard.networkComponent" (dict "root" $airflow "component" "statsd" "port" $values.ports.statsdScrape) | fromJson }}
{{- $_ := set $components "statsd" (merge (dict "clientPorts" $statsd.ports "ports" (list (printf "UDP/%d" (int $values.ports.statsdIngest)))) $statsd) }}
{{- end }}
{{- if $values.databaseCleanup.enabled }}{{ $names = append $names "database-cleanup" }}{{ end }}
{{- if include "trainyard.hasReconciler" . }}{{ $names = append $names "reconciler" }}{{ end }}
{{- range keys (include "airflow.gitBundles" $airflow | fromYaml) }}{{ $names = append $names (printf "dag-publisher-%s" .) }}{{ end }}
{{- range $names }}
{{- $_ := set $components . (include "trainyard.networkComponent" (dict "root" $airflow "component" .) | fromJson) }}
{{- end }}
{{- $_ := set $components "api-server" (include "trainyard.networkComponent" (dict "root" $airflow "component" "api-server" "port" $values.ports.apiServer) | fromJson) }}
{{- if .Values.gpuPools }}
{{- $_ := set $components "airflow-pools" (include "trainyard.networkComponent" (dict "root" . "component" "trainyard-airflow-pools") | fromJson) }}
{{- end }}
{{- end }}
{{- toJson $components }}
{{- end }}

{{/* One of them. Params: root (the chart's context), component, port (optional), namespace (optional) */}}
{{- define "trainyard.networkComponent" -}}
{{- dict "namespace" (.namespace | default .root.Release.Namespace)
    "selector" (dict "matchLabels" (include "common.selectorLabels" . | fromYaml))
    "ports" (ternary (list (int .port)) list (hasKey . "port")) | toJson }}
{{- end }}

{{/* Whom each component calls: name -> {components, kubernetes (the Kubernetes API?), outside (ports of what is no part
     of the release)}. Params: root, components (of trainyard.networkComponents) */}}
{{- define "trainyard.networkCalls" -}}
{{- $known := .components }}
{{- $root := .root }}
{{- $web := $root.Values.networkPolicies.egress.ports }}
{{- $database := ternary (list) $root.Values.networkPolicies.egress.databasePorts (hasKey $known "postgresql") }}
{{- with ($root.Values.airflow.data).metadataConnection }}
{{- if and $root.Values.airflow.enabled .host }}{{ $database = append $database .port }}{{ end }}
{{- end }}
{{- $tracking := list }}
{{- with $root.Values.training.trackingUri }}{{ $tracking = list (include "trainyard.urlPort" . | int) }}{{ end }}
{{- $lineage := list }}
{{- with $root.Values.openlineage.url }}{{ $lineage = list (include "trainyard.urlPort" . | int) }}{{ end }}
{{- $artifacts := list }}
{{- if and $root.Values.mlflow.enabled (contains "://" $root.Values.mlflow.artifacts.destination) }}{{ $artifacts = $web }}{{ end }}
{{- $login := list }}
{{- if and $root.Values.mlflow.enabled (include "mlflow.hasSingleSignOn" $root.Subcharts.mlflow) }}
{{- $login = list (include "trainyard.urlPort" $root.Values.mlflow.auth.oidc.issuer | int) }}
{{- end }}
{{- $store := ternary (list "versitygw") list (eq (include "trainyard.airflowUsesObjectStore" $root) "true") }}
{{- $embedded := ternary (list "versitygw") list (hasKey (include "trainyard.embeddedBuckets" $root | fromJson) "training") }}
{{- $backup := dict "components" (list "postgresql") "outside" $database }}
{{- if hasPrefix "s3://" (include "trainyard.backupArtifacts" $root) }}{{ $_ := set $backup "components" (list "postgresql" "versitygw") }}{{ end }}
{{- if $root.Values.backup.uri }}
{{- $ports := $web }}
{{- range $root.Values.backup.env }}
{{- if and (hasPrefix "AWS_ENDPOINT_URL" .name) .value }}{{ $ports = append $ports (include "trainyard.urlPort" .value | int) }}{{ end }}
{{- end }}
{{- $_ := set $backup "outside" (concat $database $ports) }}
{{- end }}
{{- /* Airflow's way to its database; the migration has one of its own. */}}
{{- $pool := dict "component" "postgresql" "outside" $database }}
{{- if hasKey $known "pgbouncer" }}{{ $pool = dict "component" "pgbouncer" "outside" list }}{{ end }}
{{- /* Alerts, object stores, remote logs and whatever tasks fetch are outside. */}}
{{- $calls := dict
    "api-server" (dict "components" (concat (list $pool.component) $store) "outside" (concat $pool.outside $web))
    "scheduler" (dict "components" (list $pool.component) "outside" $pool.outside)
    "dag-processor" (dict "components" (list $pool.component) "outside" (concat $pool.outside $web))
    "triggerer" (dict "components" (list $pool.component "mlflow" "versitygw" "model-servers") "outside" (concat $pool.outside $tracking $lineage $web))
    "worker" (dict "components" (list "api-server" "mlflow" "versitygw") "outside" (concat $tracking $web))
    "migrate-database" (dict "components" (list "postgresql") "outside" $database)
    "pgbouncer" (dict "components" (list "postgresql") "outside" $database)
    "database-cleanup" (dict "components" (list $pool.component) "outside" (concat $pool.outside $web))
    "reconciler" (dict "components" (list $pool.component) "outside" $pool.outside "kubernetes" true)
    "airflow-pools" (dict "components" (list "api-server"))
    "bootstrap-secrets" (dict "kubernetes" true)
    "mlflow" (dict "components" (list "postgresql" "versitygw") "outside" (concat $database $artifacts $login))
    "mlflow-garbage-collection" (dict "components" (list "postgresql" "mlflow") "outside" $database)
    "stock-operators" (dict "components" (list "stock-operators" "mlflow") "outside" (concat $tracking $web))
    "model-servers" (dict "components" (list "mlflow") "outside" $tracking)
    "backup" $backup
    "restore" $backup
    "postgresql" dict
    "statsd" dict
    "versitygw" dict }}
{{- range include "trainyard.trainingNamespaces" $root | fromJsonArray }}
{{- $name := include "trainyard.teamName" (dict "name" "training" "team" .team) }}
{{- $_ := set $calls $name (dict "components" (concat (list $name "mlflow") $embedded) "outside" (concat $tracking $web)) }}
{{- end }}
{{- if hasKey $known "statsd" }}
{{- range include "trainyard.airflowSenders" . | fromJsonArray }}
{{- $call := get $calls . }}
{{- $_ := set $call "components" (append $call.components "statsd") }}
{{- end }}
{{- end }}
{{- if not $artifacts }}{{ $_ := set $calls.mlflow "components" (list "postgresql") }}{{ end }}
{{- if $root.Values.airflow.enabled }}
{{- $airflow := merge (dict "workers" (include "airflow.workers" $root.Subcharts.airflow | fromJson)) $root.Subcharts.airflow.Values }}
{{- range $name, $key := dict "api-server" "apiServer" "scheduler" "scheduler" "dag-processor" "dagProcessor" "triggerer" "triggerer" "worker" "workers" }}
{{- $_ := set (get $calls $name) "kubernetes" (index $airflow $key).serviceAccount.automountServiceAccountToken }}
{{- end }}
{{- if include "trainyard.podLauncher" $root }}{{ $_ := set $calls.worker "kubernetes" true }}{{ end }}
{{- /* A collector of OpenTelemetry, to which whatever is of Airflow's code sends. */}}
{{- $collectors := list }}
{{- range $airflow.env }}
{{- if and (regexMatch "^OTEL_EXPORTER_OTLP_([A-Z]+_)?ENDPOINT$" .name) (contains "://" (.value | default "")) }}{{ $collectors = append $collectors (include "trainyard.urlPort" .value | int) }}{{ end }}
{{- end }}
{{- range $name := include "trainyard.airflowSenders" . | fromJsonArray }}
{{- $_ := set (get $calls $name) "outside" (concat ((get $calls $name).outside | default list) $collectors) }}
{{- end }}
{{- range $bundle, $values := include "airflow.gitBundles" $root.Subcharts.airflow | fromYaml }}
{{- $_ := set $calls (printf "dag-publisher-%s" $bundle) (dict "outside" (list (include "trainyard.urlPort" $values.repo | int))) }}
{{- end }}
{{- end }}
{{- $result := dict }}
{{- range $name, $_ := $known }}
{{- $call := get $calls $name }}
{{- $there := list }}
{{- range $call.components }}{{ if hasKey $known . }}{{ $there = append $there . }}{{ end }}{{ end }}
{{- $_ := set $result $name (dict "components" $there "kubernetes" ($call.kubernetes | default false) "outside" ($call.outside | default list | uniq)) }}
{{- end }}
{{- toJson $result }}
{{- end }}

{{/* What runs Airflow's code, and so sends its metrics. A JSON list */}}
{{- define "trainyard.airflowSenders" -}}
{{- list "api-server" "scheduler" "dag-processor" "triggerer" "worker" "migrate-database" "database-cleanup" | toJson }}
{{- end }}

{{/* The port that a URL leads to. Params: the URL, or git's host:path */}}
{{- define "trainyard.urlPort" -}}
{{- $authority := regexReplaceAll "^[a-z+]+://([^/@]*@)?([^/]*).*$" . "${2}" }}
{{- $port := regexFind "[0-9]+$" (regexFind ":[0-9]+$" $authority) }}
{{- if not (contains "://" .) }}22
{{- else if $port }}{{ $port }}
{{- else }}{{ get (dict "http" "80" "https" "443" "ssh" "22" "git" "9418") (regexFind "^[a-z]+" .) | default "443" }}
{{- end }}
{{- end }}

{{/* Who may call components from outside of the release: name -> a list of NetworkPolicyPeers, empty for everybody.
     Params: the root context */}}
{{- define "trainyard.networkClients" -}}
{{- $clients := .Values.networkPolicies.clients }}
{{- $allowed := dict "model-servers" $clients.models "versitygw" $clients.objectStore "statsd" $clients.metrics }}
{{- if .Values.airflow.enabled }}
{{- $airflow := .Subcharts.airflow.Values }}
{{- if or $airflow.ingress.apiServer.enabled $airflow.apiServer.httpRoute.enabled (ne $airflow.apiServer.service.type "ClusterIP") }}{{ $_ := set $allowed "api-server" $clients.airflow }}{{ end }}
{{- end }}
{{- if .Values.mlflow.enabled }}
{{- if or .Values.mlflow.ingress.enabled .Values.mlflow.httpRoute.enabled (ne .Values.mlflow.service.type "ClusterIP") }}{{ $_ := set $allowed "mlflow" $clients.mlflow }}{{ end }}
{{- end }}
{{- toJson $allowed }}
{{- end }}

{{/* A NetworkPolicyPeer. Params: namespace, selector (optional: every pod) */}}
{{- define "trainyard.networkPeer" -}}
{{- dict "namespaceSelector" (dict "matchLabels" (dict "kubernetes.io/metadata.name" .namespace)) "podSelector" (.selector | default dict) | toJson }}
{{- end }}

{{/* Addresses as NetworkPolicyPeers, without those of a node's own network, where clouds have their metadata and their
     credentials. Params: a list of CIDRs */}}
{{- define "trainyard.networkBlocks" -}}
{{- $except := dict "0.0.0.0/0" (list "169.254.0.0/16") "::/0" (list "fd00:ec2::/32" "fe80::/10") }}
{{- $blocks := list }}
{{- range . }}
{{- $block := dict "cidr" . }}
{{- with get $except . }}{{ $_ := set $block "except" . }}{{ end }}
{{- $blocks = append $blocks (dict "ipBlock" $block) }}
{{- end }}
{{- toJson $blocks }}
{{- end }}

{{/* Ports of a rule. Params: a list of numbers; one of UDP is UDP/number */}}
{{- define "trainyard.networkPorts" -}}
{{- $ports := list }}
{{- range . }}
{{- $isUdp := hasPrefix "UDP/" (toString .) }}
{{- $ports = append $ports (dict "protocol" (ternary "UDP" "TCP" $isUdp) "port" (int (trimPrefix "UDP/" (toString .)))) }}
{{- end }}
{{- toJson $ports }}
{{- end }}

{{/* Rules for what comes to a component. Params: root, name, components, calls */}}
{{- define "trainyard.networkIngress" -}}
{{- $component := get .components .name }}
{{- $ports := include "trainyard.networkPorts" $component.ports | fromJsonArray }}
{{- $peers := list }}
{{- range $caller, $call := .calls }}
{{- if has $.name $call.components }}
{{- $peers = append $peers (include "trainyard.networkPeer" (get $.components $caller) | fromJson) }}
{{- end }}
{{- end }}
{{- if and .root.Values.externalAirflow.serviceAccounts (has .name (list "mlflow" "versitygw" "model-servers")) }}
{{- $peers = append $peers (include "trainyard.networkPeer" (dict "namespace" (include "trainyard.airflowNamespace" .root)) | fromJson) }}
{{- end }}
{{- $rules := list }}
{{- with $peers }}{{ $rules = append $rules (dict "from" . "ports" $ports) }}{{ end }}
{{- $clients := include "trainyard.networkClients" .root | fromJson }}
{{- if hasKey $clients .name }}
{{- $from := get $clients .name }}
{{- if $component.clientPorts }}{{ $ports = include "trainyard.networkPorts" $component.clientPorts | fromJsonArray }}{{ end }}
{{- $rules = append $rules (merge (ternary (dict "from" $from) dict (not (empty $from))) (dict "ports" $ports)) }}
{{- end }}
{{- toJson $rules }}
{{- end }}

{{/* Rules for what a component calls. Params: as above */}}
{{- define "trainyard.networkEgress" -}}
{{- $call := get .calls .name }}
{{- $policies := .root.Values.networkPolicies }}
{{- $rules := list }}
{{- range $call.components }}
{{- $callee := get $.components . }}
{{- $rules = append $rules (dict "to" (list (include "trainyard.networkPeer" $callee | fromJson)) "ports" (include "trainyard.networkPorts" $callee.ports | fromJsonArray)) }}
{{- end }}
{{- if $call.kubernetes }}
{{- with $policies.kubernetesApi }}
{{- $rules = append $rules (dict "to" (include "trainyard.networkBlocks" .cidrs | fromJsonArray) "ports" (include "trainyard.networkPorts" .ports | fromJsonArray)) }}
{{- end }}
{{- end }}
{{- if and $call.outside $policies.egress.cidrs }}
{{- $rules = append $rules (dict "to" (include "trainyard.networkBlocks" $policies.egress.cidrs | fromJsonArray) "ports" (include "trainyard.networkPorts" $call.outside | fromJsonArray)) }}
{{- end }}
{{- if $rules }}
{{- $ports := list }}
{{- range $port := $policies.dns.ports }}{{ range list "UDP" "TCP" }}{{ $ports = append $ports (dict "protocol" . "port" (int $port)) }}{{ end }}{{ end }}
{{- $rules = append $rules (dict "to" $policies.dns.to "ports" $ports) }}
{{- end }}
{{- toJson $rules }}
{{- end }}

{{/* What is wrong with networkPolicies, one line each. Params: the root context */}}
{{- define "trainyard.networkProblems" -}}
{{- $problems := list }}
{{- with .Values.networkPolicies.extra }}
{{- $known := include "trainyard.networkComponents" $ | fromJson | keys | sortAlpha }}
{{- range $name, $_ := . }}
{{- if not (has $name $known) }}
{{- $problems = append $problems (printf "networkPolicies.extra.%s: there is no such component (there are: %s)" $name (join ", " $known)) }}
{{- end }}
{{- end }}
{{- end }}
{{- range $key, $cidrs := dict "egress" .Values.networkPolicies.egress.cidrs "kubernetesApi" .Values.networkPolicies.kubernetesApi.cidrs }}
{{- range $cidrs }}
{{- if and (not (has . (list "0.0.0.0/0" "::/0"))) (regexMatch "^(169\\.254\\.|fe[89ab][0-9a-f]:|fd00:ec2:)|/[0-7]$|^169\\..*/([89]|1[0-5])$|:.*/([89]|[12][0-9]|3[01])$" .) }}
{{- $problems = append $problems (printf "networkPolicies.%s.cidrs: %s holds the addresses of cloud metadata; give 0.0.0.0/0 or ::/0, which leave them out, or smaller ranges" $key .) }}
{{- end }}
{{- end }}
{{- end }}
{{- $problems | join "\n" }}
{{- end }}
