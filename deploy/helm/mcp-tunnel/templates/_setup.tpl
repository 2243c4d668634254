{{- define "mcp-tunnel.setupEnv" -}}
{{- if include "mcp-tunnel.usesKey" . -}}
- name: API_TOKEN
  valueFrom:
    secretKeyRef: {name: {{ include "mcp-tunnel.apiTokenSecret" . }}, key: api-token}
{{- else -}}
- {name: ANTHROPIC_FEDERATION_RULE_ID, value: {{ .Values.api.wif.federationRuleId | quote }}}
- {name: ANTHROPIC_ORGANIZATION_ID, value: {{ .Values.api.wif.organizationId | quote }}}
{{- with .Values.api.wif.workspaceId }}
- {name: ANTHROPIC_WORKSPACE_ID, value: {{ . | quote }}}
{{- end }}
- {name: ANTHROPIC_IDENTITY_TOKEN_FILE, value: {{ default "/var/run/secrets/mcp-tunnel/token" .Values.api.wif.tokenFile | quote }}}
{{- end }}
{{- if .Values.api.caConfigMap }}
- {name: API_CA_FILE, value: /etc/mcp-tunnel/api/ca.crt}
{{- end }}
{{- end -}}

{{- define "mcp-tunnel.projectsIdentity" -}}
{{- if not (or (include "mcp-tunnel.usesKey" .) .Values.api.wif.tokenFile) }}true{{ end -}}
{{- end -}}

{{- define "mcp-tunnel.setupMounts" -}}
{{- if include "mcp-tunnel.projectsIdentity" . }}
- {name: identity, mountPath: /var/run/secrets/mcp-tunnel, readOnly: true}
{{- end }}
{{- if .Values.api.caConfigMap }}
- {name: api-ca, mountPath: /etc/mcp-tunnel/api, readOnly: true}
{{- end }}
{{- with .Values.setup.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "mcp-tunnel.setupVolumes" -}}
{{- if include "mcp-tunnel.projectsIdentity" . }}
- name: identity
  projected:
    defaultMode: 0440
    sources:
      - serviceAccountToken:
          path: token
          audience: {{ .Values.api.wif.audience | quote }}
          expirationSeconds: {{ .Values.api.wif.tokenExpirationSeconds }}
{{- end }}
{{- with .Values.api.caConfigMap }}
- name: api-ca
  configMap: {name: {{ . }}}
{{- end }}
{{- with .Values.setup.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}
