{{- define "mcp-tunnel.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "mcp-tunnel.selectorLabels" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "mcp-tunnel.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{ include "mcp-tunnel.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{/* Call with (dict "image" .Values.x.image "key" "x.image"). */}}
{{- define "mcp-tunnel.image" -}}
{{- if not (hasPrefix "sha256:" .image.digest) -}}
{{- fail (printf "%s.digest is required: sha256:… of %s (see the release notes, or docker buildx imagetools inspect)" .key .image.repository) -}}
{{- end -}}
{{- printf "%s@%s" .image.repository .image.digest -}}
{{- end -}}

{{- define "mcp-tunnel.replicas" -}}
{{- if kindIs "invalid" .Values.replicaCount }}{{ .Values.replicas }}{{ else }}{{ .Values.replicaCount }}{{ end -}}
{{- end -}}

{{/* Seconds of gateway.config.shutdown_timeout, plus five. */}}
{{- define "mcp-tunnel.graceSeconds" -}}
{{- $text := default "30s" .Values.gateway.config.shutdown_timeout | toString -}}
{{- if regexMatch "^[0-9]+s$" $text -}}
{{- add (trimSuffix "s" $text | int) 5 -}}
{{- else if regexMatch "^[0-9]+m$" $text -}}
{{- add (mul (trimSuffix "m" $text | int) 60) 5 -}}
{{- else -}}
{{- fail (printf "gateway.config.shutdown_timeout: write it in whole seconds or minutes, like 30s, not %q" $text) -}}
{{- end -}}
{{- end -}}

{{- define "mcp-tunnel.tokenSecret" -}}
{{- if .Values.setup.enabled }}{{ include "mcp-tunnel.fullname" . }}{{ else }}{{ .Values.external.tunnelTokenSecretName }}{{ end -}}
{{- end -}}

{{- define "mcp-tunnel.certSecret" -}}
{{- if .Values.setup.enabled }}{{ include "mcp-tunnel.fullname" . }}{{ else }}{{ .Values.external.serverCertSecretName }}{{ end -}}
{{- end -}}

{{- define "mcp-tunnel.apiTokenSecret" -}}
{{- if .Values.api.existingSecret }}{{ .Values.api.existingSecret }}{{ else }}{{ include "mcp-tunnel.fullname" . }}-api-token{{ end -}}
{{- end -}}

{{- define "mcp-tunnel.usesKey" -}}
{{- if or .Values.api.token .Values.api.existingSecret }}true{{ end -}}
{{- end -}}

{{- define "mcp-tunnel.egressEnabled" -}}
{{- if or .Values.networkPolicy.egress.enabled .Values.networkPolicy.enabled }}true{{ end -}}
{{- end -}}

{{/* The proxy's file: the user's settings under those that belong to the chart. */}}
{{- define "mcp-tunnel.config" -}}
{{- $config := omit (deepCopy .Values.gateway.config) "listen_addr" "tls" -}}
{{- if not $config.tunnel_domain }}{{ $config = omit $config "tunnel_domain" }}{{ end -}}
{{- $_ := set $config "listen_addr" ":8080" -}}
{{- $_ := set $config "tls" (dict "cert_file" "/etc/mcp-tunnel/tls/tls.crt" "key_file" "/etc/mcp-tunnel/tls/tls.key") -}}
{{- if .Values.serviceMonitor.enabled }}{{ $_ := set $config "admin" (dict "listen_addr" ":9090") }}{{ end -}}
{{- toYaml $config -}}
{{- end -}}

{{- define "mcp-tunnel.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "mcp-tunnel.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- define "mcp-tunnel.dnsEgress" -}}
- to:
    - {{- toYaml .Values.networkPolicy.egress.dns | nindent 6 }}
  ports:
    - {port: 53, protocol: UDP}
    - {port: 53, protocol: TCP}
{{- end -}}

{{/* A rule that names nobody lets everybody be reached: of an empty list there is none. */}}
{{- define "mcp-tunnel.kubernetesEgress" -}}
{{- with .Values.networkPolicy.egress.kubernetesCIDRs }}
- to:
    {{- range . }}
    - ipBlock: {cidr: {{ . | quote }}}
    {{- end }}
  ports:
    {{- range $.Values.networkPolicy.egress.kubernetesPorts }}
    - {port: {{ . }}, protocol: TCP}
    {{- end }}
{{- end }}
{{- end -}}

{{- define "mcp-tunnel.apiEgress" -}}
{{- with .Values.networkPolicy.egress.apiCIDRs }}
- to:
    {{- range . }}
    - ipBlock: {cidr: {{ . | quote }}}
    {{- end }}
  ports:
    - {port: {{ regexFind ":[0-9]+/?$" $.Values.api.url | trimPrefix ":" | trimSuffix "/" | default "443" }}, protocol: TCP}
{{- end }}
{{- end -}}

{{- define "mcp-tunnel.edgeEgress" -}}
{{- $ports := list -}}
{{- range .Values.edge.addresses }}{{ $ports = append $ports (regexFind ":[0-9]+$" . | trimPrefix ":" | default "7844") }}{{ end -}}
{{- with .Values.networkPolicy.egress.cloudflaredEgressCIDRs }}
- to:
    {{- range . }}
    - ipBlock: {cidr: {{ . | quote }}}
    {{- end }}
  ports:
    {{- range uniq $ports | default (list "7844") }}
    - {port: {{ . }}, protocol: TCP}
    - {port: {{ . }}, protocol: UDP}
    {{- end }}
{{- end }}
{{- end -}}

{{/* Refuse what cannot work, before anything is installed. */}}
{{- define "mcp-tunnel.validate" -}}
{{- if hasKey .Values.api.wif "tunnelId" -}}
{{- fail "api.wif.tunnelId is of chart 1.x: move its value to tunnel.id" -}}
{{- end -}}
{{- if not .Values.gateway.config.routes -}}
{{- fail "gateway.config.routes is required: a subdomain and its upstream, such as tickets: http://tickets.default.svc:8080" -}}
{{- end -}}
{{- if .Values.setup.enabled -}}
{{- $wif := or .Values.api.wif.federationRuleId .Values.api.wif.organizationId -}}
{{- if and $wif (include "mcp-tunnel.usesKey" .) -}}
{{- fail "set either api.token (or api.existingSecret) or api.wif, not both" -}}
{{- end -}}
{{- if not (or $wif (include "mcp-tunnel.usesKey" .)) -}}
{{- fail "setup needs credentials: set api.wif.federationRuleId and api.wif.organizationId, or api.token, or api.existingSecret; without programmatic access set setup.enabled=false" -}}
{{- end -}}
{{- if and $wif (not (and .Values.api.wif.federationRuleId .Values.api.wif.organizationId)) -}}
{{- fail "api.wif.federationRuleId and api.wif.organizationId are both required" -}}
{{- end -}}
{{- else -}}
{{- if not .Values.gateway.config.tunnel_domain -}}
{{- fail "gateway.config.tunnel_domain is required when setup.enabled is false: the tunnel's domain" -}}
{{- end -}}
{{- if not (and .Values.external.tunnelTokenSecretName .Values.external.serverCertSecretName) -}}
{{- fail "external.tunnelTokenSecretName and external.serverCertSecretName are required when setup.enabled is false" -}}
{{- end -}}
{{- end -}}
{{- end -}}
