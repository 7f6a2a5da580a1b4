{{/* The Ingress of a Service at one host. Params: root, component, name (of both), namespace, port (the Service's, by
     name), ingress (values: annotations, ingressClassName, host, tlsSecretName) */}}
{{- define "common.ingress" -}}
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: {{ .name | include "common.scalar" }}
  namespace: {{ .namespace | include "common.scalar" }}
  labels: {{- include "common.labels" . | nindent 4 }}
  {{- with .ingress.annotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  {{- with .ingress.ingressClassName }}
  ingressClassName: {{ . | include "common.scalar" }}
  {{- end }}
  rules:
    - host: {{ .ingress.host | include "common.scalar" }}
      http:
        paths:
          - path: /
            pathType: Prefix
            backend:
              service:
                name: {{ .name | include "common.scalar" }}
                port: {name: {{ .port }}}
  {{- with .ingress.tlsSecretName }}
  tls:
    - hosts: [{{ $.ingress.host | include "common.scalar" }}]
      secretName: {{ . | include "common.scalar" }}
  {{- end }}
{{- end }}

{{/* An Ingress without a host. Params: key (ingress, with the chart's name), ingress (values) */}}
{{- define "common.ingressProblem" -}}
{{- if and .ingress.enabled (not .ingress.host) }}{{ printf "%[1]s.host: needed where %[1]s.enabled is true" .key }}{{ end }}
{{- end }}
