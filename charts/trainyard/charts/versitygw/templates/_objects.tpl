{{/* Everything that this chart makes. An umbrella that knows better where the claim lies renders it itself.
     Params: root, namespace, claim (the name of the claim to serve), accounts (a list, optional: name, secret (with
     AWS's own keys), and the buckets that are its own; it sees no other ones) */}}
{{- define "versitygw.objects" -}}
{{- $labels := dict "root" .root "component" "object-store" }}
{{- $values := .root.Values }}
{{- $name := include "versitygw.fullname" .root }}
{{- $image := include "common.image" (dict "root" .root "key" "versitygw.image" "image" $values.image "version" .root.Chart.AppVersion) }}
{{- $isSidecar := eq $values.metadata "sidecar" }}
{{- $directories := $values.buckets }}
{{- if $isSidecar }}{{ $directories = append $directories ".versitygw" }}{{ end }}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ $name | include "common.scalar" }}
  namespace: {{ .namespace | include "common.scalar" }}
  labels: {{- include "common.labels" $labels | nindent 4 }}
spec:
  {{- /* One process at a time: it needs no lock files between processes, for which the root would be writable. */}}
  replicas: 1
  strategy: {type: Recreate}
  revisionHistoryLimit: 3
  selector:
    matchLabels: {{- include "common.selectorLabels" $labels | nindent 6 }}
  template:
    metadata:
      labels: {{- include "common.podLabels" $labels | nindent 8 }}
      {{- with $values.podAnnotations }}
      annotations: {{- toYaml . | nindent 8 }}
      {{- end }}
    spec:
      serviceAccountName: {{ $name | include "common.scalar" }}
      automountServiceAccountToken: false
      enableServiceLinks: false
      securityContext: {{- toYaml $values.podSecurityContext | nindent 8 }}
      {{- with include "common.imagePullSecrets" (dict "root" .root "secrets" $values.imagePullSecrets) | trim }}{{ . | nindent 6 }}{{ end }}
      {{- with include "common.scheduling" $values | trim }}{{ . | nindent 6 }}{{ end }}
      initContainers:
        {{- /* The kubelet would make them as root. */}}
        - name: make-buckets
          image: {{ $image | include "common.scalar" }}
          imagePullPolicy: {{ $values.image.pullPolicy | include "common.scalar" }}
          command: [mkdir, -p{{ range $directories }}, /volume/{{ . }}{{ end }}]
          securityContext: {{- toYaml $values.securityContext | nindent 12 }}
          resources: {{- toYaml $values.resources | nindent 12 }}
          volumeMounts:
            - {name: volume, mountPath: /volume}
      containers:
        - name: versitygw
          image: {{ $image | include "common.scalar" }}
          imagePullPolicy: {{ $values.image.pullPolicy | include "common.scalar" }}
          args:
            - --port=:{{ $values.service.port }}
            - --health=/health
            - --quiet
            {{- if .accounts }}
            - --iam-dir=/accounts
            {{- end }}
            - posix
            - --disable-object-lock-file
            {{- if $isSidecar }}
            - --sidecar=/metadata
            {{- end }}
            - /buckets
          securityContext: {{- toYaml $values.securityContext | nindent 12 }}
          resources: {{- toYaml $values.resources | nindent 12 }}
          env:
            - name: ROOT_ACCESS_KEY_ID
              valueFrom:
                secretKeyRef: {name: {{ include "versitygw.secretName" .root | include "common.scalar" }}, key: access-key}
            - name: ROOT_SECRET_ACCESS_KEY
              valueFrom:
                secretKeyRef: {name: {{ include "versitygw.secretName" .root | include "common.scalar" }}, key: secret-key}
            {{- range $number, $account := .accounts }}
            {{- range $variable, $key := dict "ACCESS" "AWS_ACCESS_KEY_ID" "SECRET" "AWS_SECRET_ACCESS_KEY" }}
            - name: ACCOUNT_{{ $number }}_{{ $variable }}
              valueFrom:
                secretKeyRef: {name: {{ $account.secret | include "common.scalar" }}, key: {{ $key }}}
            {{- end }}
            {{- end }}
          {{- with .accounts }}
          lifecycle:
            postStart:
              exec:
                command:
                  - sh
                  - -euc
                  - |-
                    {{- include "versitygw.makeAccounts" (dict "accounts" . "port" $values.service.port) | nindent 20 }}
          {{- end }}
          ports:
            - {name: s3, containerPort: {{ $values.service.port | include "common.scalar" }}}
          startupProbe:
            httpGet: {path: /health, port: s3}
            periodSeconds: 1
            failureThreshold: 60
          livenessProbe:
            httpGet: {path: /health, port: s3}
            periodSeconds: 30
            timeoutSeconds: 10
            failureThreshold: 5
          readinessProbe:
            httpGet: {path: /health, port: s3}
            periodSeconds: 10
            timeoutSeconds: 5
          volumeMounts:
            {{- /* The root itself is the image's, read-only: a bucket made there would be gone with the pod. */}}
            {{- range $values.buckets }}
            - {name: volume, mountPath: /buckets/{{ . }}, subPath: {{ . | include "common.scalar" }}}
            {{- end }}
            {{- if $isSidecar }}
            - {name: volume, mountPath: /metadata, subPath: .versitygw}
            {{- end }}
            {{- if .accounts }}
            - {name: accounts, mountPath: /accounts}
            {{- end }}
      volumes:
        {{- if .accounts }}
        - name: accounts
          emptyDir: {sizeLimit: 1Mi}
        {{- end }}
        - name: volume
          persistentVolumeClaim: {claimName: {{ .claim | include "common.scalar" }}}
---
apiVersion: v1
kind: Service
metadata:
  name: {{ $name | include "common.scalar" }}
  namespace: {{ .namespace | include "common.scalar" }}
  labels: {{- include "common.labels" $labels | nindent 4 }}
  {{- with $values.service.annotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  type: {{ $values.service.type | include "common.scalar" }}
  selector: {{- include "common.selectorLabels" $labels | nindent 4 }}
  ports:
    - name: s3
      port: {{ $values.service.port | include "common.scalar" }}
      targetPort: s3
      {{- with $values.service.nodePort }}
      nodePort: {{ . | include "common.scalar" }}
      {{- end }}
---
{{- if $values.ingress.enabled }}
{{ include "common.ingress" (dict "root" .root "component" "object-store" "name" $name "namespace" .namespace "port" "s3"
    "ingress" $values.ingress) }}
---
{{- end }}
{{- if $values.httpRoute.enabled }}
{{ include "common.httpRoute" (dict "root" .root "component" "object-store" "name" $name "namespace" .namespace
    "port" $values.service.port "route" $values.httpRoute) }}
---
{{- end }}
{{ include "common.serviceAccount" (dict "root" .root "component" "object-store" "name" $name "namespace" .namespace) }}
{{- end }}

{{/* Makes the accounts and gives them their buckets, each time that the server starts: accounts are not kept.
     Params: accounts, port */}}
{{- define "versitygw.makeAccounts" -}}
export ADMIN_ENDPOINT_URL=http://127.0.0.1:{{ .port }} ADMIN_ACCESS_KEY_ID="$ROOT_ACCESS_KEY_ID" ADMIN_SECRET_ACCESS_KEY="$ROOT_SECRET_ACCESS_KEY"
admin() { versitygw admin "$@"; }
make() { admin create-user --access "$1" --secret "$2" --role user || admin update-user --access "$1" --secret "$2"; }
until admin list-users > /dev/null; do sleep 1; done
{{- range $number, $account := .accounts }}
make "$ACCOUNT_{{ $number }}_ACCESS" "$ACCOUNT_{{ $number }}_SECRET"
{{- range $account.buckets }}
admin change-bucket-owner --bucket {{ . }} --owner "$ACCOUNT_{{ $number }}_ACCESS"
{{- end }}
{{- end }}
{{- end }}
