{{- define "mcp-tunnel.connector" -}}
{{- $own := eq .Values.connector "qanat" -}}
- name: {{ $own | ternary "connector" "cloudflared" }}
  {{- if $own }}
  image: {{ include "mcp-tunnel.image" (dict "image" .Values.gateway.image "key" "gateway.image") }}
  imagePullPolicy: {{ .Values.gateway.image.pullPolicy }}
  command: [/qanat]
  args:
    - connector
    - --url=http://localhost:8080
    - --metrics=0.0.0.0:20241
  {{- else }}
  image: {{ include "mcp-tunnel.image" (dict "image" .Values.cloudflared.image "key" "cloudflared.image") }}
  imagePullPolicy: {{ .Values.cloudflared.image.pullPolicy }}
  args:
    - tunnel
    - --no-autoupdate
    - --metrics=0.0.0.0:20241
    - run
    - --url=http://localhost:8080
  {{- end }}
    {{- with .Values.cloudflared.extraArgs }}{{- toYaml . | nindent 4 }}{{- end }}
  env:
    - name: TUNNEL_TOKEN
      valueFrom:
        secretKeyRef: {name: {{ include "mcp-tunnel.tokenSecret" . }}, key: tunnel-token}
    {{- with .Values.edge.addresses }}
    - {name: TUNNEL_EDGE, value: {{ join "," . | quote }}}
    {{- end }}
    {{- if .Values.edge.caConfigMap }}
    - {name: TUNNEL_CACERT, value: /etc/mcp-tunnel/edge/ca.crt}
    {{- end }}
  ports:
    - {name: connector, containerPort: 20241}
  readinessProbe:
    httpGet: {path: /ready, port: connector}
    periodSeconds: 5
    timeoutSeconds: 3
  resources: {{- toYaml .Values.cloudflared.resources | nindent 4 }}
  securityContext: {{- include "mcp-tunnel.containerSecurity" . | nindent 4 }}
  {{- if .Values.edge.caConfigMap }}
  volumeMounts:
    - {name: edge-ca, mountPath: /etc/mcp-tunnel/edge, readOnly: true}
  {{- end }}
{{- end -}}
