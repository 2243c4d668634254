{{- define "qanat.controlMounts" -}}
- {name: config, mountPath: /etc/qanat/config, readOnly: true}
- {name: tls, mountPath: /etc/qanat/tls, readOnly: true}
- {name: database, mountPath: /etc/qanat/database, readOnly: true}
- {name: master-key, mountPath: /etc/qanat/master-key, readOnly: true}
- {name: bootstrap, mountPath: /etc/qanat/bootstrap, readOnly: true}
- {name: service-keys, mountPath: /etc/qanat/service-keys, readOnly: true}
- {name: data, mountPath: /var/lib/qanat}
{{- end -}}

{{- define "qanat.controlVolumes" -}}
{{- $secrets := .root.Values.secrets -}}
- name: config
  configMap: {name: {{ .config }}}
- name: data
  emptyDir: {sizeLimit: 64Mi}
{{ include "qanat.secretVolume" (dict "name" "tls" "secret" $secrets.tls "keys" (list "tls.crt" "tls.key")) }}
{{ include "qanat.secretVolume" (dict "name" "database" "secret" $secrets.database "keys" (list "database-url")) }}
{{ include "qanat.secretVolume" (dict "name" "master-key" "secret" $secrets.masterKey "keys" (list "master.key")) }}
{{ include "qanat.secretVolume" (dict "name" "bootstrap" "secret" $secrets.bootstrap "keys" (list "token")) }}
{{ include "qanat.secretVolume" (dict "name" "service-keys" "secret" $secrets.serviceKeys "keys" (list "edge" "gateway")) }}
{{- end -}}
