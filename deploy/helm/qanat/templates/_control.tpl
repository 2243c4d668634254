{{- define "qanat.controlMounts" -}}
- {name: config, mountPath: /etc/qanat/config, readOnly: true}
- {name: tls, mountPath: /etc/qanat/tls, readOnly: true}
- {name: database, mountPath: /etc/qanat/database, readOnly: true}
- {name: master-key, mountPath: /etc/qanat/master-key, readOnly: true}
{{- if .Values.secrets.nextMasterKey }}
- {name: next-master-key, mountPath: /etc/qanat/next-master-key, readOnly: true}
{{- end }}
- {name: bootstrap, mountPath: /etc/qanat/bootstrap, readOnly: true}
- {name: service-keys, mountPath: /etc/qanat/service-keys, readOnly: true}
{{- if .Values.secrets.consoleClient }}
- {name: console-client, mountPath: /etc/qanat/console-client, readOnly: true}
{{- end }}
- {name: data, mountPath: /var/lib/qanat}
{{- end -}}

{{- define "qanat.controlVolumes" -}}
{{- $secrets := .root.Values.secrets -}}
- name: config
  configMap: {name: {{ .config }}}
- name: data
  emptyDir: {sizeLimit: 64Mi}
{{ include "qanat.secretVolume" (dict "name" "tls" "secret" $secrets.tls "keys" (list "tls.crt" "tls.key" "ca.crt")) }}
{{ include "qanat.secretVolume" (dict "name" "database" "secret" $secrets.database "keys" (list "database-url")) }}
{{ include "qanat.secretVolume" (dict "name" "master-key" "secret" $secrets.masterKey "keys" (list "master.key")) }}
{{- if $secrets.nextMasterKey }}
{{ include "qanat.secretVolume" (dict "name" "next-master-key" "secret" $secrets.nextMasterKey "keys" (list "master.key")) }}
{{- end }}
{{ include "qanat.secretVolume" (dict "name" "bootstrap" "secret" $secrets.bootstrap "keys" (list "token")) }}
{{- if $secrets.consoleClient }}
{{ include "qanat.secretVolume" (dict "name" "console-client" "secret" $secrets.consoleClient "keys" (list "client-secret")) }}
{{- end }}
{{ include "qanat.secretVolume" (dict "name" "service-keys" "secret" $secrets.serviceKeys "keys" (list "edge" "gateway")) }}
{{- end -}}
