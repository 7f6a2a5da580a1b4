{{/* How clients of the databases use TLS, by global.databaseTls: libpq (psycopg2) and asyncpg read the same two
     variables, so that no URL has to say it, which the two would want in different words. Whoever has a database's URL
     includes all three. Each is a YAML list, or nothing. Params: a root context, of any chart here */}}
{{- define "common.databaseTlsEnv" -}}
{{- with (.Values.global).databaseTls }}
{{- with .mode }}
- {name: PGSSLMODE, value: {{ . | include "common.scalar" }}}
{{- end }}
{{- if .caSecretName }}
- {name: PGSSLROOTCERT, value: /etc/database-ca/ca.crt}
{{- end }}
{{- end }}
{{- end }}

{{/* The CA alone: where the Secret is the server's, as one of cert-manager's, it has the key as well. */}}
{{- define "common.databaseTlsVolumes" -}}
{{- with ((.Values.global).databaseTls).caSecretName }}
- name: database-ca
  secret: {secretName: {{ . | include "common.scalar" }}, items: [{key: ca.crt, path: ca.crt}]}
{{- end }}
{{- end }}

{{- define "common.databaseTlsMounts" -}}
{{- if ((.Values.global).databaseTls).caSecretName }}
- {name: database-ca, mountPath: /etc/database-ca, readOnly: true}
{{- end }}
{{- end }}

{{/* Settings of it that do not go together, one line each. */}}
{{- define "common.databaseTlsProblems" -}}
{{- $tls := (.Values.global).databaseTls | default dict }}
{{- if and (hasPrefix "verify-" ($tls.mode | default "")) (not $tls.caSecretName) }}
global.databaseTls.caSecretName: needed where mode is {{ $tls.mode }}; name a Secret whose key ca.crt is the certificate of the database's CA
{{- else if and $tls.caSecretName (not (hasPrefix "verify-" ($tls.mode | default ""))) }}
global.databaseTls.mode: {{ $tls.mode | default "without one, the driver" }} does not check the certificate against caSecretName; set verify-full
{{- end }}
{{- end }}
