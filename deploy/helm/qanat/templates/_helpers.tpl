{{- define "qanat.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 48 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 48 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 48 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Call with (dict "root" . "part" "edge"). */}}
{{- define "qanat.selectorLabels" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .part }}
{{- end -}}

{{- define "qanat.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{ include "qanat.selectorLabels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{- end -}}

{{- define "qanat.image" -}}
{{- if not (hasPrefix "sha256:" .Values.image.digest) -}}
{{- fail (printf "image.digest is required: sha256:… of %s" .Values.image.repository) -}}
{{- end -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- end -}}

{{- define "qanat.validate" -}}
{{- if not .Values.baseDomain }}{{ fail "baseDomain is required: tunnels get <label>.<baseDomain>" }}{{ end -}}
{{- if not .Values.control.publicUrl }}{{ fail "control.publicUrl is required: the API's address as clients write it" }}{{ end -}}
{{- range $part := list "control" "gateway" -}}
{{- $ingress := (index $.Values $part).ingress -}}
{{- if and $ingress.enabled (not (and $ingress.host $ingress.tlsSecretName)) -}}
{{- fail (printf "%s.ingress.host and %s.ingress.tlsSecretName are required when %s.ingress.enabled" $part $part $part) -}}
{{- end -}}
{{- end -}}
{{- range $name, $model := .Values.gateway.config.models -}}
{{- if (default dict $model).api_key -}}
{{- fail (printf "gateway.config.models.%s.api_key would lie open in a ConfigMap: hand the key over with gateway.extraEnv, from a Secret" $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "qanat.controlUrl" -}}
https://{{ include "qanat.fullname" . }}-control.{{ .Release.Namespace }}.svc:8787
{{- end -}}

{{- define "qanat.controlConfig" -}}
{{- $fixed := dict
  "listen_addr" "0.0.0.0:8787"
  "public_url" .Values.control.publicUrl
  "tls" (dict "cert_file" "/etc/qanat/tls/tls.crt" "key_file" "/etc/qanat/tls/tls.key")
  "data_dir" "/var/lib/qanat"
  "database_url_file" "/etc/qanat/database/database-url"
  "master_key_file" "/etc/qanat/master-key/master.key"
  "domain_base" .Values.baseDomain
  "bootstrap" (dict "credential_file" "/etc/qanat/bootstrap/token")
  "service_keys" (list
    (dict "name" "edge" "role" "edge" "key_file" "/etc/qanat/service-keys/edge")
    (dict "name" "gateway" "role" "gateway" "key_file" "/etc/qanat/service-keys/gateway")) -}}
{{- if .Values.secrets.nextMasterKey -}}
{{- $_ := set $fixed "next_master_key_file" "/etc/qanat/next-master-key/master.key" -}}
{{- end -}}
{{- $console := dict "playground" (dict
  "gateway_url" (printf "https://%s-gateway.%s.svc:8788" (include "qanat.fullname" .) .Release.Namespace)
  "ca_file" "/etc/qanat/tls/ca.crt") -}}
{{- if .Values.secrets.consoleClient -}}
{{- if not (dig "console" "single_sign_on" false .Values.control.config) -}}
{{- fail "secrets.consoleClient is the secret of control.config.console.single_sign_on, which is not set" -}}
{{- end -}}
{{- $_ := set $console "single_sign_on" (dict "client_secret_file" "/etc/qanat/console-client/client-secret") -}}
{{- end -}}
{{- $_ := set $fixed "console" $console -}}
{{- toYaml (mergeOverwrite (deepCopy .Values.control.config) $fixed) -}}
{{- end -}}

{{/* $POD_NAME, $POD_IP and $REDIS_URL are filled in for each pod by its init container. */}}
{{- define "qanat.edgeConfig" -}}
{{- $fixed := dict
  "name" "$POD_NAME"
  "connectors" (dict "listen_addr" ":7844" "tls" (dict
    "certificate_file" "/etc/qanat/pki/connector-listener.pem" "key_file" "/etc/qanat/pki/connector-listener-key.pem"))
  "clients" (dict
    "listen_addr" ":8443"
    "tls" (dict "certificate_file" "/etc/qanat/pki/client-listener.pem" "key_file" "/etc/qanat/pki/client-listener-key.pem")
    "client_ca_file" "/etc/qanat/pki/client-ca.pem"
    "allowed_addresses" .Values.edge.allowedAddresses)
  "control" (dict
    "url" (include "qanat.controlUrl" .)
    "service_key_file" "/etc/qanat/service-keys/edge"
    "ca_file" "/etc/qanat/tls/ca.crt")
  "cluster" (dict
    "redis_url" "$REDIS_URL"
    "listen_addr" ":7845"
    "advertise_host" "$POD_IP"
    "tls" (dict "certificate_file" "/etc/qanat/pki/node.pem" "key_file" "/etc/qanat/pki/node-key.pem")
    "ca_file" "/etc/qanat/pki/node-ca.pem")
  "metrics_addr" ":9090"
  "drain_timeout" (printf "%ds" (int .Values.edge.drainSeconds)) -}}
{{- $defaults := dict "client_organizations" (list (dict "san" "gateway" "organizations" "*")) -}}
{{- toYaml (mergeOverwrite $defaults (deepCopy .Values.edge.config) $fixed) -}}
{{- end -}}

{{- define "qanat.gatewayConfig" -}}
{{- $fixed := dict
  "listen" "0.0.0.0:8788"
  "tls" (dict "cert_file" "/etc/qanat/tls/tls.crt" "key_file" "/etc/qanat/tls/tls.key")
  "metrics" "0.0.0.0:9091"
  "control" (dict
    "url" (include "qanat.controlUrl" .)
    "service_key_file" "/etc/qanat/service-keys/gateway"
    "ca_file" "/etc/qanat/tls/ca.crt")
  "edge" (dict
    "address" (printf "%s-edge-clients.%s.svc:443" (include "qanat.fullname" .) .Release.Namespace)
    "cert_file" "/etc/qanat/pki/gateway.pem"
    "key_file" "/etc/qanat/pki/gateway-key.pem"
    "ca_file" "/etc/qanat/pki/client-listener-ca.pem"
    "base_domain" .Values.baseDomain) -}}
{{- toYaml (mergeOverwrite (deepCopy .Values.gateway.config) $fixed) -}}
{{- end -}}

{{/* Seconds of gateway.config.shutdown_timeout, and some for the end; never less than a minute. */}}
{{- define "qanat.gatewayGraceSeconds" -}}
{{- $text := default "30s" .Values.gateway.config.shutdown_timeout | toString -}}
{{- if regexMatch "^[0-9]+s$" $text -}}
{{- max 60 (add (trimSuffix "s" $text | int) 10) -}}
{{- else if regexMatch "^[0-9]+m$" $text -}}
{{- max 60 (add (mul (trimSuffix "m" $text | int) 60) 10) -}}
{{- else -}}
{{- fail (printf "gateway.config.shutdown_timeout: write it in whole seconds or minutes, like 30s, not %q" $text) -}}
{{- end -}}
{{- end -}}

{{- define "qanat.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "qanat.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- define "qanat.podSettings" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext: {{- include "qanat.podSecurity" . | nindent 2 }}
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Nodes of one part on different machines, where there are enough. */}}
{{- define "qanat.spread" -}}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "qanat.selectorLabels" . | nindent 8 }}
{{- end -}}

{{/* Call with (dict "name" "pki" "secret" …  "keys" (list …)). */}}
{{- define "qanat.secretVolume" -}}
- name: {{ .name }}
  secret:
    secretName: {{ .secret }}
    defaultMode: 0440
    items:
      {{- range .keys }}
      - {key: {{ . }}, path: {{ . }}}
      {{- end }}
{{- end -}}
