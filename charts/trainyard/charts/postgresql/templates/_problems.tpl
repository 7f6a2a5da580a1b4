{{/* PostgreSQL's major version as the tag tells it, e.g. 17 of postgres:17.2-bookworm; nothing where it does not.
     Params: an image */}}
{{- define "postgresql.major" -}}
{{ regexFind ":[0-9]{2}([.@-]|$)" . | trimAll ":.@-" }}
{{- end }}

{{/* Why the server will refuse its data, which another major version made. Params: a dict with `image` and `there`, the
     image that runs */}}
{{- define "postgresql.majorChanges" -}}
{{- $new := include "postgresql.major" .image }}
{{- $old := include "postgresql.major" .there }}
{{- if and $new $old (ne $new $old) }}
postgresql.image: {{ .image }} does not read the data of PostgreSQL {{ $old }}; set postgresql.image.tag to "{{ $old }}", or move the data as docs/operations.md#another-postgresql says
{{- end }}
{{- end }}

{{/* What of the database's volume and its data cannot change, one line each. Params: the chart's root context */}}
{{- define "postgresql.problems" -}}
{{- $name := include "postgresql.fullname" . }}
{{- with lookup "apps/v1" "StatefulSet" .Release.Namespace $name }}
{{- $spec := (first .spec.volumeClaimTemplates).spec }}
{{- $claim := merge (dict "key" "postgresql.persistence" "name" $name "accessMode" "ReadWriteOnce") $.Values.persistence }}
{{- include "common.claimTemplateChanges" (dict "claim" $claim "there" $spec) }}
{{- /* A server that is not ready may be one that refuses the data: then its image says nothing of them. */}}
{{- if (.status | default dict).readyReplicas }}
{{- $server := first .spec.template.spec.containers }}
{{- include "postgresql.majorChanges" (dict "image" (include "postgresql.image" $) "there" $server.image) }}
{{- end }}
{{- end }}
{{- end }}
