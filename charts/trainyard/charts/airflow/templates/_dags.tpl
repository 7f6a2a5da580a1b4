{{/* Where DAGs come from: an image (dags.image), git (dags.git, dags.gitSync), or whatever the Airflow image and
     dagProcessor.dagBundleConfigList say. Only the dag-processor and worker pods mount any of it. */}}

{{/* The bundle of the DAG image has the name of Airflow's own default: its DAGs and their runs stay known. */}}
{{- define "airflow.imageBundleName" -}}
dags-folder
{{- end }}

{{/* The bundle that dags.gitSync describes. */}}
{{- define "airflow.gitSyncBundleName" -}}
git-sync
{{- end }}

{{/* The directory below which DAG files are mounted. Params: the chart's root context */}}
{{- define "airflow.dagsMountPath" -}}
{{ .Values.dags.mountPath | default (printf "%s/dags" .Values.airflowHome) }}
{{- end }}

{{/* The DAG image's reference, which is also the version of its bundle. Params: the chart's root context */}}
{{- define "airflow.dagsImage" -}}
{{- include "common.image" (dict "root" . "key" "airflow.dags.image" "image" .Values.dags.image) -}}
{{- end }}

{{/* git bundles by name: those of dags.git.bundles, and that of dags.gitSync. Params: the chart's root context */}}
{{- define "airflow.gitBundles" -}}
{{- $bundles := deepCopy .Values.dags.git.bundles }}
{{- with .Values.dags.gitSync }}
{{- if .enabled }}
{{- $rev := ternary "" .rev (has .rev (list nil "" "HEAD")) }}
{{- $bundle := dict "repo" .repo "ref" (coalesce .ref $rev .branch "HEAD") "subPath" .subPath "depth" .depth }}
{{- range $key := list "credentialsSecret" "sshKeySecret" "knownHosts" "resources" }}
{{- with index $.Values.dags.gitSync $key }}{{ $_ := set $bundle $key . }}{{ end }}
{{- end }}
{{- with .period | default .wait }}{{ $_ := set $bundle "period" (toString . | trimSuffix "s" | float64) }}{{ end }}
{{- $_ := set $bundles (include "airflow.gitSyncBundleName" $) $bundle }}
{{- end }}
{{- end }}
{{- toYaml $bundles }}
{{- end }}

{{/* Airflow's [dag_processor] dag_bundle_config_list, as JSON; nothing where Airflow's own default holds.
     Params: the chart's root context */}}
{{- define "airflow.dagBundleConfigList" -}}
{{- $list := list }}
{{- $mountPath := include "airflow.dagsMountPath" . }}
{{- with .Values.dags.image }}
{{- if .enabled }}
{{- $path := printf "%s/image%s" $mountPath (ternary (printf "/%s" (trimAll "/" .path)) "" (eq .mount "imageVolume")) }}
{{- $list = append $list (dict "name" (include "airflow.imageBundleName" $) "classpath" "trainyard.bundles.image.ImageDagBundle" "kwargs" (dict "path" $path)) }}
{{- end }}
{{- end }}
{{- range $name, $bundle := include "airflow.gitBundles" . | fromYaml }}
{{- $kwargs := dict "published" (printf "%s/git/%s" $mountPath $name) "subdir" (trimAll "/" ($bundle.subPath | default ""))
      "alert_after" (mul 60 (int $.Values.dags.git.alertAfterMinutes)) "refresh_interval" 1 }}
{{- with $bundle.viewUrlTemplate }}{{ $_ := set $kwargs "view_url_template" . }}{{ end }}
{{- $list = append $list (dict "name" $name "classpath" "trainyard.bundles.git.PublishedGitBundle" "kwargs" $kwargs) }}
{{- end }}
{{- $list = concat $list .Values.dagProcessor.dagBundleConfigList }}
{{- with $list }}{{ toJson . }}{{ end }}
{{- end }}

{{/* Volumes with DAG files. Params: root */}}
{{- define "airflow.dagVolumes" -}}
{{- $dags := .root.Values.dags }}
{{- if $dags.image.enabled }}
- name: dags
  {{- if eq $dags.image.mount "imageVolume" }}
  image: {reference: {{ include "airflow.dagsImage" .root | quote }}, pullPolicy: {{ $dags.image.pullPolicy | include "common.scalar" }}}
  {{- else }}
  emptyDir: {sizeLimit: 1Gi}
  {{- end }}
{{- end }}
{{- if include "airflow.gitBundles" .root | fromYaml }}
- name: git-dags
  persistentVolumeClaim: {claimName: {{ include "airflow.dagsClaimName" .root | include "common.scalar" }}}
{{- end }}
{{- end }}

{{- define "airflow.dagVolumeMounts" -}}
{{- $mountPath := include "airflow.dagsMountPath" .root }}
{{- if .root.Values.dags.image.enabled }}
- {name: dags, mountPath: {{ $mountPath }}/image, readOnly: true}
{{- end }}
{{- if include "airflow.gitBundles" .root | fromYaml }}
- {name: git-dags, mountPath: {{ $mountPath }}/git, readOnly: true}
{{- end }}
{{- end }}

{{/* The init container that copies the DAG image's files, where the cluster has no image volumes. Params: root */}}
{{- define "airflow.dagInitContainers" -}}
{{- with .root.Values.dags.image }}
{{- if and .enabled (eq .mount "initContainer") }}
- name: dags
  image: {{ include "airflow.dagsImage" $.root | include "common.scalar" }}
  imagePullPolicy: {{ .pullPolicy | include "common.scalar" }}
  command: [cp, -R, {{ trimAll "/" .path | printf "/%s/." | include "common.scalar" }}, /to/]
  securityContext: {{- include "airflow.containerSecurityContext" (dict "root" $.root) | nindent 4 }}
  resources: {{- toYaml .resources | nindent 4 }}
  volumeMounts:
    - {name: dags, mountPath: /to}
{{- end }}
{{- end }}
{{- end }}

{{/* The claim that the DAG publishers write to. Params: the chart's root context */}}
{{- define "airflow.dagsClaimName" -}}
{{ .Values.dags.persistence.existingClaim | default (printf "%s-dags" (include "airflow.fullname" .)) }}
{{- end }}

{{/* The worker pod's template. KubernetesExecutor reads the file anew for each pod, so a change restarts nothing.
     Params: the chart's root context */}}
{{- define "airflow.podTemplate" -}}
{{ tpl (.Values.podTemplate | default (.Files.Get "files/pod_template_file.yaml")) . }}
{{- end }}

{{/* What is wrong with where DAGs come from, one line each. Params: the chart's root context */}}
{{- define "airflow.dagProblems" -}}
{{- $root := . }}
{{- $dags := .Values.dags }}
{{- $problems := list }}
{{- if and $dags.image.enabled (not $dags.image.repository) }}
{{- $problems = append $problems "airflow.dags.image.repository: is empty; name the image, or set airflow.dags.image.enabled to false" }}
{{- else if and $dags.image.enabled (gt (len (include "airflow.dagsImage" .)) 200) }}
{{- $problems = append $problems "airflow.dags.image: the reference has over 200 characters, and Airflow stores no longer version; leave out the tag where there is a digest" }}
{{- end }}
{{- $names := include "common.nameProblems" (dict "key" "airflow.dags.git.bundles" "values" $dags.git.bundles "max" 30 "separator" "-") }}
{{- $problems = concat $problems (splitList "\n" $names | compact) }}
{{- $git := include "airflow.gitBundles" . | fromYaml }}
{{- range $name, $bundle := $git }}
{{- $key := ternary "airflow.dags.gitSync" (printf "airflow.dags.git.bundles.%s" $name) (and $dags.gitSync.enabled (eq $name (include "airflow.gitSyncBundleName" $root))) }}
{{- $repo := $bundle.repo | default "" }}
{{- $isSsh := or (hasPrefix "ssh://" $repo) (regexMatch "^[^/:]+@[^/:]+:" $repo) }}
{{- if not $repo }}
{{- $problems = append $problems (printf "%s.repo: is empty; give the repository's URL" $key) }}
{{- else if regexMatch "^https?://[^/]*@" $repo }}
{{- $problems = append $problems (printf "%s.repo: holds a name or a token; put them into a Secret, and name it in credentialsSecret" $key) }}
{{- else if $isSsh }}
{{- range $need := list "sshKeySecret" "knownHosts" }}
{{- if not (index $bundle $need) }}
{{- $problems = append $problems (printf "%s.%s: needed for %s" $key $need $repo) }}
{{- end }}
{{- end }}
{{- end }}
{{- if has ".." (splitList "/" ($bundle.subPath | default "")) }}
{{- $problems = append $problems (printf "%s.subPath: leaves the repository; give a directory in it" $key) }}
{{- end }}
{{- end }}
{{- if and $dags.gitSync.enabled (hasKey $dags.git.bundles (include "airflow.gitSyncBundleName" .)) }}
{{- $problems = append $problems (printf "airflow.dags.git.bundles.%s: is what airflow.dags.gitSync makes; choose another name" (include "airflow.gitSyncBundleName" .)) }}
{{- end }}
{{- if and $dags.persistence.enabled (not $git) }}
{{- $problems = append $problems "airflow.dags.persistence.enabled: nothing here writes DAGs to the volume, and a run could not keep its version; use airflow.dags.git or airflow.dags.image" }}
{{- end }}
{{- $names := dict }}
{{- range include "airflow.dagBundleConfigList" . | default "[]" | fromJsonArray }}
{{- if hasKey $names .name }}
{{- $problems = append $problems (printf "airflow.dagProcessor.dagBundleConfigList: the bundle %s is there already, from airflow.dags; choose another name, or turn that off" .name) }}
{{- end }}
{{- $_ := set $names .name true }}
{{- end }}
{{- if and $names (hasKey (.Values.config.dag_processor | default dict) "dag_bundle_config_list") }}
{{- $problems = append $problems "airflow.config.dag_processor.dag_bundle_config_list: airflow.dags makes it; add bundles in airflow.dagProcessor.dagBundleConfigList, or set airflow.dags.image.enabled to false" }}
{{- end }}
{{- $problems | join "\n" }}
{{- end }}
