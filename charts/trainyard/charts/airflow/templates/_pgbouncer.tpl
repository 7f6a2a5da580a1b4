{{/* PgBouncer: its objects, and how Airflow finds it. Where the database is, the umbrella knows where it is its own. */}}
{{- define "airflow.pgbouncerName" -}}
{{ include "airflow.fullname" . }}-pgbouncer
{{- end }}

{{/* What clients call the database: as in the official chart, whatever its own name is. */}}
{{- define "airflow.pgbouncerDatabase" -}}
{{ .Release.Name }}-metadata
{{- end }}

{{/* Whether a component connects through it. The migration does not: its lock is the session's, and PgBouncer gives each
     transaction another session. Params: root, name (optional) */}}
{{- define "airflow.usesPgbouncer" -}}
{{- if and .root.Values.pgbouncer.enabled (not (has .name (list "worker" "migrate-database"))) }}true{{ end }}
{{- end }}

{{/* Whether the chart makes the Secret of the database's parts, or else the bootstrap Job. Params: the chart's root context */}}
{{- define "airflow.pgbouncerSecretIsMade" -}}
{{- if and .Values.pgbouncer.enabled (not .Values.data.metadataConnection.host) (not .Values.pgbouncer.configSecretName) }}true{{ end }}
{{- end }}

{{/* The Secret with the key `login`, by which Airflow logs in. Params: the chart's root context */}}
{{- define "airflow.pgbouncerLoginSecretName" -}}
{{- if .Values.data.metadataConnection.host }}{{ include "airflow.pgbouncerName" . }}{{ else }}{{ .Values.pgbouncer.configSecretName | default (include "airflow.pgbouncerName" .) }}{{ end }}
{{- end }}

{{/* What a component needs to connect through it, as a list of variables. asyncpg takes the same URL.
     Params: the chart's root context */}}
{{- define "airflow.pgbouncerEnv" -}}
{{- $url := printf "postgresql+psycopg2://$(PGBOUNCER_LOGIN)@%s.%s.svc:%d/%s" (include "airflow.pgbouncerName" .) .Release.Namespace (int .Values.ports.pgbouncer) (include "airflow.pgbouncerDatabase" .) }}
{{- $env := list
    (include "airflow.secretEnv" (dict "name" "PGBOUNCER_LOGIN" "secret" (include "airflow.pgbouncerLoginSecretName" .) "key" "login") | fromYamlArray | first)
    (dict "name" "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN" "value" $url) }}
{{- if not (.Values.config.database | default dict).sql_alchemy_connect_args_async }}
{{- $env = append $env (dict "name" "AIRFLOW__DATABASE__SQL_ALCHEMY_CONNECT_ARGS_ASYNC" "value" "pgbouncer_connections.ASYNC") }}
{{- end }}
{{- toYaml $env }}
{{- end }}

{{/* users.txt. Params: user, password */}}
{{- define "airflow.pgbouncerUsers" -}}
"{{ replace `"` `""` .user }}" "{{ replace `"` `""` .password }}"
{{ end }}

{{/* TLS between it and the database, as JSON {mode, ca (a path)}. Params: the chart's root context */}}
{{- define "airflow.pgbouncerTls" -}}
{{- $tls := (.Values.global).databaseTls | default dict }}
{{- $connection := .Values.data.metadataConnection }}
{{- $own := ternary $connection.sslmode "" (not (empty $connection.host)) }}
{{- $ca := "" }}
{{- if .Values.pgbouncer.ssl.ca }}{{ $ca = "/etc/pgbouncer/root.crt" }}{{ else if $tls.caSecretName }}{{ $ca = "/etc/database-ca/ca.crt" }}{{ end }}
{{- dict "mode" (coalesce .Values.pgbouncer.sslmode $tls.mode $own "prefer") "ca" $ca | toJson }}
{{- end }}

{{/* A value of a parameter in the section [databases]. Params: the text */}}
{{- define "airflow.pgbouncerQuoted" -}}
'{{ replace "'" "''" . }}'
{{- end }}

{{/* pgbouncer.ini. It serves no Unix socket, as the file system is read-only.
     Params: root, database {host, port, db} */}}
{{- define "airflow.pgbouncerIni" -}}
{{- $root := .root -}}
{{- $values := $root.Values.pgbouncer -}}
{{- $tls := include "airflow.pgbouncerTls" $root | fromJson -}}
{{- $database := .database -}}
[databases]
{{ include "airflow.pgbouncerDatabase" $root }} = host={{ $database.host }} port={{ int $database.port }} dbname={{ include "airflow.pgbouncerQuoted" $database.db }} pool_size={{ int $values.metadataPoolSize }} {{- with $values.extraIniMetadata }} {{ include "common.made" (dict "root" $root "text" .) }}{{ end }}

[pgbouncer]
pool_mode = transaction
listen_addr = *
listen_port = {{ int $root.Values.ports.pgbouncer }}
unix_socket_dir =
auth_type = {{ $values.auth_type }}
auth_file = {{ $values.auth_file }}
ignore_startup_parameters = extra_float_digits
max_client_conn = {{ int $values.maxClientConn }}
verbose = {{ int $values.verbose }}
log_connections = {{ int $values.logConnections }}
log_disconnections = {{ int $values.logDisconnections }}
server_tls_sslmode = {{ $tls.mode }}
server_tls_ciphers = {{ $values.ciphers }}
{{- with $tls.ca }}
server_tls_ca_file = {{ . }}
{{- end }}
{{- if $values.ssl.cert }}
server_tls_cert_file = /etc/pgbouncer/server.crt
server_tls_key_file = /etc/pgbouncer/server.key
{{- end }}
{{- with $values.extraIni }}
{{ include "common.made" (dict "root" $root "text" .) | trim }}
{{- end }}
{{ end }}

{{/* The files of ssl, name -> PEM. JSON. Params: the chart's root context */}}
{{- define "airflow.pgbouncerCertificates" -}}
{{- $files := dict }}
{{- range $key, $file := dict "ca" "root.crt" "cert" "server.crt" "key" "server.key" }}
{{- with index $.Values.pgbouncer.ssl $key }}{{ $_ := set $files $file . }}{{ end }}
{{- end }}
{{- toJson $files }}
{{- end }}

{{/* Its volumes, the chart's and the user's: {items, problems}. Params: the chart's root context */}}
{{- define "airflow.pgbouncerVolumes" -}}
{{- $name := include "airflow.pgbouncerName" . }}
{{- $values := .Values.pgbouncer }}
{{- $config := dict "name" "config" "configMap" (dict "name" $name) }}
{{- with $values.configSecretName }}
{{- $items := list (dict "key" "pgbouncer.ini" "path" "pgbouncer.ini") }}
{{- $config = dict "name" "config" "secret" (dict "secretName" . "items" $items "defaultMode" 0440) }}
{{- end }}
{{- $users := dict "secretName" ($values.configSecretName | default $name) "items" (list (dict "key" "users.txt" "path" "users.txt")) "defaultMode" 0440 }}
{{- $own := list $config (dict "name" "users" "secret" $users) }}
{{- if include "airflow.pgbouncerCertificates" . | fromJson }}
{{- $own = append $own (dict "name" "certificates" "secret" (dict "secretName" (printf "%s-certificates" $name) "defaultMode" 0440)) }}
{{- end }}
{{- $own = concat $own (include "common.databaseTlsVolumes" . | fromYamlArray) }}
{{- include "airflow.mergeLists" (dict "identity" "name" "what" "volume" "lists" (list
    (dict "items" $own) (dict "key" "airflow.pgbouncer.extraVolumes" "items" $values.extraVolumes))) }}
{{- end }}

{{/* Its mounts, in the same way. Each is a file, as the image may have others in /etc/pgbouncer. */}}
{{- define "airflow.pgbouncerVolumeMounts" -}}
{{- $files := list (list "config" "pgbouncer.ini") (list "users" "users.txt") }}
{{- range $file, $_ := include "airflow.pgbouncerCertificates" . | fromJson }}{{ $files = append $files (list "certificates" $file) }}{{ end }}
{{- $own := list }}
{{- range $files }}
{{- $own = append $own (dict "name" (first .) "mountPath" (printf "/etc/pgbouncer/%s" (last .)) "subPath" (last .) "readOnly" true) }}
{{- end }}
{{- $own = concat $own (include "common.databaseTlsMounts" . | fromYamlArray) }}
{{- include "airflow.mergeLists" (dict "identity" "mountPath" "what" "mountPath" "lists" (list
    (dict "items" $own) (dict "key" "airflow.pgbouncer.extraVolumeMounts" "items" .Values.pgbouncer.extraVolumeMounts))) }}
{{- end }}

{{/* A list of arguments that may be templates, made. Params: root, list */}}
{{- define "airflow.pgbouncerArguments" -}}
{{- $made := list }}
{{- range .list }}{{ $made = append $made (include "common.made" (dict "root" $.root "text" .)) }}{{ end }}
{{- toYaml $made }}
{{- end }}

{{/* All of its objects. Params: root, database {host, port, db}, unused where pgbouncer.ini is the user's */}}
{{- define "airflow.pgbouncer" -}}
{{- $root := .root }}
{{- $values := $root.Values.pgbouncer }}
{{- $name := include "airflow.pgbouncerName" $root }}
{{- $labels := dict "root" $root "component" "pgbouncer" "labels" $values.labels }}
{{- $params := dict "root" $root "name" "pgbouncer" "component" $values "uid" $values.uid "gid" $values.uid }}
{{- $ini := "" }}
{{- if not $values.configSecretName }}{{ $ini = include "airflow.pgbouncerIni" . }}{{ end }}
{{- $certificates := include "airflow.pgbouncerCertificates" $root | fromJson }}
{{- $connection := $root.Values.data.metadataConnection }}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ $name | include "common.scalar" }}
  namespace: {{ $root.Release.Namespace | include "common.scalar" }}
  labels: {{- include "common.labels" $labels | nindent 4 }}
  {{- with $values.annotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  replicas: {{ $values.replicas | include "common.scalar" }}
  revisionHistoryLimit: {{ $values.revisionHistoryLimit | include "common.scalar" }}
  strategy:
    type: RollingUpdate
    rollingUpdate: {maxSurge: 1, maxUnavailable: 0}
  selector:
    matchLabels: {{- include "common.selectorLabels" $labels | nindent 6 }}
  template:
    metadata:
      labels: {{- include "airflow.podLabels" $labels | nindent 8 }}
      annotations:
        {{- /* It reads its files when it starts, and mounts of single files never follow what they are of. */}}
        checksum/config: {{ list $ini $certificates (pick $connection "host" "user" "pass") | toJson | sha256sum }}
        {{- with include "airflow.podAnnotations" $params }}{{ . | nindent 8 }}{{ end }}
    spec:
      serviceAccountName: {{ include "airflow.serviceAccountName" (dict "root" $root "name" "pgbouncer" "serviceAccount" $values.serviceAccount) | include "common.scalar" }}
      automountServiceAccountToken: {{ $values.serviceAccount.automountServiceAccountToken | include "common.scalar" }}
      enableServiceLinks: false
      terminationGracePeriodSeconds: 30
      securityContext: {{- include "airflow.podSecurityContext" $params | nindent 8 }}
      {{- with include "common.imagePullSecrets" (dict "root" $root "secrets" $root.Values.imagePullSecrets) | trim }}{{ . | nindent 6 }}{{ end }}
      {{- with include "airflow.scheduling" $params | trim }}{{ . | nindent 6 }}{{ end }}
      containers:
        - name: pgbouncer
          image: {{ include "common.image" (dict "root" $root "key" "airflow.images.pgbouncer" "image" $root.Values.images.pgbouncer) | include "common.scalar" }}
          imagePullPolicy: {{ $root.Values.images.pgbouncer.pullPolicy | include "common.scalar" }}
          command: {{- include "airflow.pgbouncerArguments" (dict "root" $root "list" $values.command) | nindent 12 }}
          {{- with $values.args }}
          args: {{- include "airflow.pgbouncerArguments" (dict "root" $root "list" .) | nindent 12 }}
          {{- end }}
          securityContext: {{- include "airflow.containerSecurityContext" $params | nindent 12 }}
          resources: {{- toYaml $values.resources | nindent 12 }}
          {{- with $values.env }}
          env: {{- toYaml . | nindent 12 }}
          {{- end }}
          ports:
            - {name: pgbouncer, containerPort: {{ int $root.Values.ports.pgbouncer }}}
          {{- /* It listens whether the database answers or not: a restart would not repair that. */}}
          livenessProbe:
            tcpSocket: {port: pgbouncer}
            periodSeconds: 30
            timeoutSeconds: 10
            failureThreshold: 5
          readinessProbe:
            tcpSocket: {port: pgbouncer}
            periodSeconds: 5
            timeoutSeconds: 5
          {{- with $values.containerLifecycleHooks }}
          lifecycle: {{- toYaml . | nindent 12 }}
          {{- end }}
          volumeMounts: {{- toYaml (include "airflow.pgbouncerVolumeMounts" $root | fromJson).items | nindent 12 }}
        {{- with $values.extraContainers }}{{ toYaml . | nindent 8 }}{{ end }}
      volumes: {{- toYaml (include "airflow.pgbouncerVolumes" $root | fromJson).items | nindent 8 }}
---
apiVersion: v1
kind: Service
metadata:
  name: {{ $name | include "common.scalar" }}
  namespace: {{ $root.Release.Namespace | include "common.scalar" }}
  labels: {{- include "common.labels" $labels | nindent 4 }}
  {{- with $values.service.extraAnnotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  type: ClusterIP
  {{- with $values.service.clusterIp }}
  clusterIP: {{ . | include "common.scalar" }}
  {{- end }}
  selector: {{- include "common.selectorLabels" $labels | nindent 4 }}
  ports:
    - {name: pgbouncer, port: {{ int $root.Values.ports.pgbouncer }}, targetPort: pgbouncer}
{{- if $ini }}
---
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ $name | include "common.scalar" }}
  namespace: {{ $root.Release.Namespace | include "common.scalar" }}
  labels: {{- include "common.labels" $labels | nindent 4 }}
data: {{- dict "pgbouncer.ini" $ini | toYaml | nindent 2 }}
{{- end }}
{{- if $connection.host }}
---
apiVersion: v1
kind: Secret
metadata:
  name: {{ $name | include "common.scalar" }}
  namespace: {{ $root.Release.Namespace | include "common.scalar" }}
  labels: {{- include "common.labels" $labels | nindent 4 }}
stringData:
  {{- dict "login" (include "airflow.metadataLogin" $connection)
      "users.txt" (include "airflow.pgbouncerUsers" (dict "user" $connection.user "password" $connection.pass)) | toYaml | nindent 2 }}
{{- end }}
{{- with $certificates }}
---
apiVersion: v1
kind: Secret
metadata:
  name: {{ $name }}-certificates
  namespace: {{ $root.Release.Namespace | include "common.scalar" }}
  labels: {{- include "common.labels" $labels | nindent 4 }}
  {{- with $values.certificatesSecretAnnotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
stringData: {{- toYaml . | nindent 2 }}
{{- end }}
{{ include "airflow.companions" $params }}
{{- end }}

{{/* What is wrong with its values, one line each. Params: the chart's root context */}}
{{- define "airflow.pgbouncerProblems" -}}
{{- $values := .Values.pgbouncer }}
{{- if $values.enabled }}
{{- $tls := (.Values.global).databaseTls | default dict }}
{{- $used := include "airflow.pgbouncerTls" . | fromJson }}
{{- if and $values.sslmode $tls.mode (ne $values.sslmode $tls.mode) }}
airflow.pgbouncer.sslmode: {{ $values.sslmode }} is not global.databaseTls.mode {{ $tls.mode }}; remove it
{{- else if and (hasPrefix "verify-" $used.mode) (not $used.ca) (not $values.configSecretName) }}
airflow.pgbouncer.sslmode: {{ $used.mode }} needs the CA; remove it, and set global.databaseTls.mode and caSecretName
{{- end }}
{{- if ne (empty $values.ssl.cert) (empty $values.ssl.key) }}
airflow.pgbouncer.ssl.{{ ternary "cert" "key" (empty $values.ssl.cert) }}: is empty, and a certificate is of no use without its key; give both or none
{{- end }}
{{- range list "airflow.pgbouncerVolumes" "airflow.pgbouncerVolumeMounts" }}
{{- range (include . $ | fromJson).problems }}
{{ . }}
{{- end }}
{{- end }}
{{- if .Chart.IsRoot }}
{{ include "airflow.pgbouncerPlaceProblem" . }}
{{- end }}
{{- end }}
{{- end }}

{{/* A database that nobody but its URL knows, which no template can read. Params: the chart's root context */}}
{{- define "airflow.pgbouncerPlaceProblem" -}}
{{- if include "airflow.pgbouncerSecretIsMade" . -}}
airflow.pgbouncer.enabled: where the database is stands in the Secret {{ include "airflow.metadataSecretName" . }} alone; give its parts in airflow.data.metadataConnection, or name a Secret with pgbouncer.ini, users.txt and login in airflow.pgbouncer.configSecretName
{{- end }}
{{- end }}
