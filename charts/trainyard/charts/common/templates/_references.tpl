{{/* The Secrets and ConfigMaps that the containers of a pod get, as variables and in volumes: {Secret: [names], ConfigMap:
     [names]}. No container gets a pull secret. JSON. Params: the pod's spec */}}
{{- define "common.references" -}}
{{- $secrets := list }}
{{- $configMaps := list }}
{{- range concat (.initContainers | default list) (.containers | default list) }}
{{- range .env }}
{{- $secrets = append $secrets ((.valueFrom).secretKeyRef).name }}
{{- $configMaps = append $configMaps ((.valueFrom).configMapKeyRef).name }}
{{- end }}
{{- range .envFrom }}
{{- $secrets = append $secrets (.secretRef).name }}
{{- $configMaps = append $configMaps (.configMapRef).name }}
{{- end }}
{{- end }}
{{- range .volumes }}
{{- $secrets = concat $secrets (list (.secret).secretName ((.csi).nodePublishSecretRef).name) }}
{{- $configMaps = append $configMaps (.configMap).name }}
{{- range (.projected).sources }}
{{- $secrets = append $secrets (.secret).name }}
{{- $configMaps = append $configMaps (.configMap).name }}
{{- end }}
{{- end }}
{{- dict "Secret" (compact $secrets | uniq) "ConfigMap" (compact $configMaps | uniq) | toJson }}
{{- end }}
