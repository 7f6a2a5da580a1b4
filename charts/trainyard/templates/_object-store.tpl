{{/* What of the platform lies in an object store, and who gets there with which keys. */}}

{{/* The volumes of training pods that are claims, which they mount: name -> volume. JSON. Params: the root context */}}
{{- define "trainyard.claimedVolumes" -}}
{{- $claimed := dict }}
{{- range $name, $volume := .Values.training.volumes }}
{{- if not $volume.uri }}{{ $_ := set $claimed $name $volume }}{{ end }}
{{- end }}
{{- toJson $claimed }}
{{- end }}

{{/* The bucket of an s3:// URI; nothing for another one. Params: the URI */}}
{{- define "trainyard.bucket" -}}
{{- if hasPrefix "s3://" . }}{{ regexReplaceAll "^s3://([^/]*).*$" . "${1}" }}{{ end }}
{{- end }}

{{/* The buckets of volumes and of MLflow's artifacts that the embedded object store has: training -> a list, mlflow ->
     a list, each only where there are some. JSON. Params: the root context */}}
{{- define "trainyard.embeddedBuckets" -}}
{{- $found := dict }}
{{- if .Values.versitygw.enabled }}
{{- $there := .Subcharts.versitygw.Values.buckets }}
{{- range .Values.training.volumes }}
{{- $bucket := include "trainyard.bucket" (.uri | default "") }}
{{- if has $bucket $there }}{{ $_ := set $found "training" (append ($found.training | default list) $bucket | uniq) }}{{ end }}
{{- end }}
{{- if .Values.mlflow.enabled }}
{{- $bucket := include "trainyard.bucket" .Values.mlflow.artifacts.destination }}
{{- if has $bucket $there }}{{ $_ := set $found "mlflow" (list $bucket) }}{{ end }}
{{- end }}
{{- end }}
{{- toJson $found }}
{{- end }}

{{/* The Secret with AWS's own variables, by which the embedded object store knows an account and its pods get there.
     Params: root, name (training or mlflow) */}}
{{- define "trainyard.storeAccountSecretName" -}}
{{ include "trainyard.fullname" .root }}-{{ .name }}-s3
{{- end }}

{{/* The accounts of the embedded object store beside its root: versitygw.objects has their shape. JSON.
     Params: the root context */}}
{{- define "trainyard.storeAccounts" -}}
{{- $accounts := list }}
{{- range $name, $buckets := include "trainyard.embeddedBuckets" . | fromJson }}
{{- $accounts = append $accounts (dict "name" $name "buckets" $buckets "secret" (include "trainyard.storeAccountSecretName" (dict "root" $ "name" $name))) }}
{{- end }}
{{- toJson $accounts }}
{{- end }}

{{/* The keys of these Secrets, as trainyard.ownKeys lists them: one is made beside the object store, and copied to where
     else its pods run. Params: the root context */}}
{{- define "trainyard.wantedAccountKeys" -}}
{{- $keys := list }}
{{- range $account := include "trainyard.storeAccounts" . | fromJsonArray }}
{{- $store := include "trainyard.versitygwNamespace" $ }}
{{- $secret := printf "%s/%s" $store .secret }}
{{- $url := include "versitygw.url" (dict "root" $.Subcharts.versitygw "namespace" $store) }}
{{- $own := dict "AWS_ACCESS_KEY_ID" (dict "value" .name) "AWS_SECRET_ACCESS_KEY" (dict "generate" "password" "credential" "object-store")
    "AWS_ENDPOINT_URL" (dict "value" $url) "AWS_REGION" (dict "value" "us-east-1") }}
{{- $by := ternary "training.volumes" "mlflow.artifacts.destination" (eq .name "training") }}
{{- range $key, $recipe := $own }}
{{- $keys = append $keys (dict "by" $by "secret" $secret "key" $key "recipe" $recipe) }}
{{- end }}
{{- $copies := list .secret }}
{{- if eq .name "training" }}
{{- $copies = list }}
{{- range $namespace := without (include "trainyard.trainingNamespaceNames" $ | fromJsonArray) $store }}{{ $copies = append $copies (printf "%s/%s" $namespace $account.secret) }}{{ end }}
{{- end }}
{{- range $copy := $copies }}
{{- range $key := keys $own | sortAlpha }}
{{- $keys = append $keys (dict "by" $by "secret" $copy "key" $key "recipe" (dict "template" (printf "{%s/%s}" $secret $key))) }}
{{- end }}
{{- end }}
{{- end }}
{{- toJson $keys }}
{{- end }}

{{/* What training pods have beside what the values say: the keys of the embedded object store, before the user's own
     sources. JSON, in the shape of training.pod. Params: the root context */}}
{{- define "trainyard.trainingPod" -}}
{{- $pod := .Values.training.pod | default dict }}
{{- if hasKey (include "trainyard.embeddedBuckets" . | fromJson) "training" }}
{{- $secret := include "trainyard.storeAccountSecretName" (dict "root" . "name" "training") }}
{{- $pod = merge (dict "envFrom" (prepend ($pod.envFrom | default list) (dict "secretRef" (dict "name" $secret)))) $pod }}
{{- end }}
{{- toJson $pod }}
{{- end }}

{{/* Whether the parts of Airflow write to its connection trainyard_s3: logs, or large XComs. Params: the root context */}}
{{- define "trainyard.airflowUsesObjectStore" -}}
{{- $config := .Values.airflow.config | default dict }}
{{- $logs := ternary ($config.logging).remote_base_log_folder "" (eq (($config.logging).remote_logging | toString | lower) "true") | toString }}
{{- $xcoms := (get $config "common.io" | default dict).xcom_objectstorage_path | toString }}
{{- if or (hasPrefix "s3://" $logs) (hasPrefix "s3://" $xcoms) }}true{{ end }}
{{- end }}

{{/* What is wrong with places in an object store, one line each. Params: the root context */}}
{{- define "trainyard.objectStoreProblems" -}}
{{- $problems := list }}
{{- $there := list }}
{{- if .Values.versitygw.enabled }}{{ $there = .Subcharts.versitygw.Values.buckets }}{{ end }}
{{- $embedded := hasKey (include "trainyard.embeddedBuckets" . | fromJson) "training" }}
{{- range $name, $volume := .Values.training.volumes }}
{{- $key := printf "training.volumes.%s.uri" $name }}
{{- with $volume.uri }}
{{- $bucket := include "trainyard.bucket" . }}
{{- if not (has $name (list "datasets" "checkpoints")) }}
{{- $problems = append $problems (printf "%s: only datasets and checkpoints may be in an object store; remove it" $key) }}
{{- else if and $there (not (has $bucket $there)) (or $embedded (eq $name "datasets")) }}
{{- $problems = append $problems (printf "%s: versitygw.buckets has no %s; add it there, or set versitygw.enabled to false where the object store is your own" $key $bucket) }}
{{- end }}
{{- end }}
{{- end }}
{{- with .Values.training.volumes }}
{{- if and .datasets.uri (eq (trimSuffix "/" .datasets.uri) (trimSuffix "/" (.checkpoints.uri | default ""))) }}
{{- $problems = append $problems (printf "training.volumes.checkpoints.uri: %s is that of datasets already; name another prefix, as the maintenance removes what is old there" .checkpoints.uri) }}
{{- end }}
{{- end }}
{{- if hasKey (include "trainyard.embeddedBuckets" . | fromJson) "mlflow" }}
{{- $secret := include "trainyard.storeAccountSecretName" (dict "root" . "name" "mlflow") }}
{{- $given := list }}
{{- range .Values.mlflow.envFrom }}{{ $given = append $given (.secretRef | default dict).name }}{{ end }}
{{- if not (has $secret $given) }}
{{- $problems = append $problems (printf "mlflow.envFrom: add {secretRef: {name: %s}}, MLflow's account of the embedded object store" $secret) }}
{{- end }}
{{- end }}
{{- $problems | join "\n" }}
{{- end }}
