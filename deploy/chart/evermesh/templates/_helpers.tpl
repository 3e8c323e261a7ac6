{{- define "evermesh.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- /* The name of all objects. Limited to 50 characters, so that suffixes fit into 63. */}}
{{- define "evermesh.fullname" -}}
{{- $name := include "evermesh.name" . }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "evermesh.selector" -}}
app.kubernetes.io/name: {{ include "evermesh.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "evermesh.labels" -}}
{{ include "evermesh.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- /* The label of Evermesh's own pods, for which its webhook is not called. */}}
{{- define "evermesh.exemption" -}}
evermesh.dev/control-plane
{{- end }}

{{- define "evermesh.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "evermesh.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- /* Not empty if image.repository is that of appmesh-controller, from its values file. */}}
{{- define "evermesh.foreignImage" -}}
{{- if regexMatch "(^|/)appmesh-controller$" .Values.image.repository }}true{{ end }}
{{- end }}

{{- define "evermesh.image" -}}
{{- if include "evermesh.foreignImage" . -}}
evermesh:{{ .Chart.AppVersion }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}{{ include "evermesh.digest" .Values.image }}
{{- end }}
{{- end }}

{{- /* The end of a reference to an image: its digest, if there is one. */}}
{{- define "evermesh.digest" -}}
{{- with .digest }}@{{ . }}{{ end }}
{{- end }}

{{- /* Not empty if sidecar.image.repository is AWS's Envoy, whose image does not have the program `envoy` in its PATH. */}}
{{- define "evermesh.foreignSidecar" -}}
{{- if regexMatch "(^|/)aws-appmesh-envoy$" .Values.sidecar.image.repository }}true{{ end }}
{{- end }}

{{- /* Not empty if init.image.repository is AWS's init container. */}}
{{- define "evermesh.foreignInit" -}}
{{- if regexMatch "(^|/)aws-appmesh-proxy-route-manager$" .Values.init.image.repository }}true{{ end }}
{{- end }}

{{- /* The address that stands for all addresses of the pod. [::] accepts IPv4 as well, but cannot be bound without IPv6. */}}
{{- define "evermesh.anyAddress" -}}
{{- eq .Values.ipFamily "ipv6" | ternary "[::]" "0.0.0.0" }}
{{- end }}

{{- define "evermesh.injection" -}}
{{- if and .Values.injection.enabled (not .Values.beside) }}true{{ end }}
{{- end }}

{{- /* The source of the certificate of xDS: secret, certManager, own, or nothing for plaintext. */}}
{{- define "evermesh.xdsCertificate" -}}
{{- if .Values.xds.tls.secretName }}secret
{{- else if not .Values.xds.tls.enabled }}
{{- else if include "evermesh.certManager" . }}certManager
{{- else if include "evermesh.ownCertificate" . }}own
{{- end }}
{{- end }}

{{- /* Fails for values with which no proxy, or no injected sidecar, could connect. */}}
{{- define "evermesh.validate" -}}
{{- $xds := .Values.xds }}
{{- if and (has $xds.authentication (list "none" "kubernetes-permissive")) (not .Values.migration) }}
{{- fail (printf "xds.authentication=%s serves a proxy without credentials as any proxy that it claims to be, and needs migration=true, for a mesh with proxies of App Mesh; otherwise set xds.authentication=kubernetes" $xds.authentication) }}
{{- end }}
{{- if and $xds.tls.secretName (not $xds.tls.enabled) }}
{{- fail "xds.tls.enabled=false serves xDS in plaintext, so the certificate in xds.tls.secretName would have no effect; remove one of the two values" }}
{{- end }}
{{- if and .Values.beside $xds.tls.enabled (not $xds.tls.secretName) }}
{{- fail "beside=true writes nothing, so Evermesh cannot create a certificate; set xds.tls.secretName to the Secret of one, or xds.tls.enabled=false for plaintext, which proxies of App Mesh's image do not speak" }}
{{- end }}
{{- $certificates := or $xds.tls.clientCertificates (eq $xds.authentication "certificate") }}
{{- if and $certificates (not $xds.tls.secretName) }}
{{- fail "xds.authentication=certificate and xds.tls.clientCertificates=true require xds.tls.secretName, because client certificates need TLS" }}
{{- end }}
{{- if include "evermesh.injection" . }}
{{- $audience := .Values.sidecar.tokenAudience }}
{{- if $certificates }}
{{- fail "injected sidecars have no client certificate, so xds.authentication=certificate or xds.tls.clientCertificates=true would reject each of them; set injection.enabled=false or xds.authentication=kubernetes" }}
{{- end }}
{{- if and (kindIs "string" $audience) (ne $xds.authentication "none") (ne $audience $xds.tokenAudience) (or $audience (eq $xds.authentication "kubernetes")) }}
{{- fail (printf "sidecar.tokenAudience=%q with xds.authentication=%s and xds.tokenAudience=%q would reject each injected sidecar; remove sidecar.tokenAudience" $audience $xds.authentication $xds.tokenAudience) }}
{{- end }}
{{- end }}
{{- end }}

{{- /* The arguments for the settings of sidecars. */}}
{{- define "evermesh.sidecarArguments" -}}
{{- $sidecar := .Values.sidecar }}
{{- $resources := $sidecar.resources }}
{{- $arguments := list
    (printf "--sidecar-xds=%s-xds.%s.svc:18000" (include "evermesh.fullname" .) .Release.Namespace)
    (printf "--injection-without-member=%s" .Values.injection.withoutMember)
    (printf "--injection-malformed-annotation=%s" .Values.injection.malformedAnnotation)
    (printf "--sidecar-order=%s" $sidecar.order)
    (printf "--sidecar-log-level=%s" $sidecar.logLevel)
    (printf "--sidecar-concurrency=%v" $sidecar.concurrency)
    (printf "--envoy-admin-access-port=%v" $sidecar.envoyAdminAccessPort)
    (printf "--envoy-admin-access-log-file=%s" $sidecar.envoyAdminAccessLogFile)
    (printf "--sidecar-cpu-requests=%v" (dig "requests" "cpu" "" $resources))
    (printf "--sidecar-memory-requests=%v" (dig "requests" "memory" "" $resources))
    (printf "--sidecar-cpu-limits=%v" (dig "limits" "cpu" "" $resources))
    (printf "--sidecar-memory-limits=%v" (dig "limits" "memory" "" $resources))
    (printf "--prestop-delay=%v" $sidecar.lifecycleHooks.preStopDelay)
    (printf "--poststart-interval=%v" $sidecar.lifecycleHooks.postStartInterval)
    (printf "--poststart-timeout=%v" $sidecar.lifecycleHooks.postStartTimeout)
    (printf "--readiness-probe-initial-delay=%v" $sidecar.probes.readinessProbeInitialDelay)
    (printf "--readiness-probe-period=%v" $sidecar.probes.readinessProbePeriod)
    (printf "--ignored-ips=%s" $sidecar.ignoredIPs) }}
{{- if not (include "evermesh.foreignSidecar" .) }}
{{- $arguments = concat $arguments (list
    (printf "--sidecar-image-repository=%s" $sidecar.image.repository)
    (printf "--sidecar-image-tag=%s%s" $sidecar.image.tag (include "evermesh.digest" $sidecar.image))) }}
{{- end }}
{{- if include "evermesh.foreignInit" . }}
{{- $arguments = append $arguments (printf "--init-image=evermesh-proxy-init:%s" .Chart.AppVersion) }}
{{- else }}
{{- $tag := default .Chart.AppVersion .Values.init.image.tag }}
{{- $digest := include "evermesh.digest" .Values.init.image }}
{{- $arguments = append $arguments (printf "--init-image=%s:%s%s" .Values.init.image.repository $tag $digest) }}
{{- end }}
{{- if kindIs "string" $sidecar.tokenAudience }}
{{- $arguments = append $arguments (printf "--sidecar-token-audience=%s" $sidecar.tokenAudience) }}
{{- end }}
{{- range $flag, $isSet := dict
    "--envoy-admin-access-enable-ipv6" $sidecar.envoyAdminAccessEnableIPv6
    "--wait-until-proxy-ready" $sidecar.waitUntilProxyReady
    "--enable-iam-for-service-accounts" $sidecar.iamForServiceAccounts
    "--enable-stats-tags" .Values.stats.tagsEnabled }}
{{- if $isSet }}{{ $arguments = append $arguments $flag }}{{ end }}
{{- end }}
{{- $certificate := include "evermesh.xdsCertificate" . }}
{{- if eq $certificate "secret" }}
{{- $arguments = append $arguments (printf "--sidecar-xds-ca=/etc/evermesh/xds/%s" $sidecar.xdsCA) }}
{{- else if eq $certificate "certManager" }}
{{- $arguments = append $arguments "--sidecar-xds-ca=/etc/evermesh/webhook/ca.crt" }}
{{- end }}
{{- if .Values.sds.enabled }}
{{- $arguments = concat $arguments (list "--enable-sds" (printf "--sds-uds-path=%s" .Values.sds.udsPath)) }}
{{- end }}
{{- with .Values.stats }}
{{- if .statsdEnabled }}
{{- $arguments = append $arguments "--enable-statsd" }}
{{- if .statsdSocketPath }}
{{- $arguments = append $arguments (printf "--statsd-socket-path=%s" .statsdSocketPath) }}
{{- else }}
{{- $arguments = concat $arguments (list
    (printf "--statsd-address=%s" .statsdAddress)
    (printf "--statsd-port=%v" .statsdPort)) }}
{{- end }}
{{- end }}
{{- end }}
{{- with .Values.tracing }}
{{- if and .enabled (eq .provider "x-ray") }}
{{- $image := $.Values.xray.image }}
{{- $arguments = concat $arguments (list "--enable-xray-tracing"
    (printf "--xray-sampling-rate=%v" .samplingRate)
    (printf "--xray-log-level=%s" .logLevel)
    (printf "--xray-config-roleArn=%s" .role)
    (printf "--xray-image=%s:%s%s" $image.repository $image.tag (include "evermesh.digest" $image))) }}
{{- else if .enabled }}
{{- $arguments = concat $arguments (list (printf "--enable-%s-tracing" .provider)
    (printf "--%s-address=%s" .provider .address)) }}
{{- end }}
{{- if and .enabled .port }}
{{- $flag := eq .provider "x-ray" | ternary "xray-daemon" .provider }}
{{- $arguments = append $arguments (printf "--%s-port=%v" $flag .port) }}
{{- end }}
{{- end }}
{{- range $arguments }}
- {{ . | quote }}
{{- end }}
{{- end }}

{{- define "evermesh.certManager" -}}
{{- if and (not .Values.beside) (or .Values.certManager.enabled .Values.enableCertManager) }}true{{ end }}
{{- end }}

{{- /* Not empty if Evermesh creates the certificate of the webhooks. */}}
{{- define "evermesh.ownCertificate" -}}
{{- if not (or .Values.beside (include "evermesh.certManager" .)) }}true{{ end }}
{{- end }}

{{- /* The arguments of `evermesh serve`. */}}
{{- define "evermesh.arguments" -}}
{{- include "evermesh.validate" . }}
{{- $anyAddress := include "evermesh.anyAddress" . -}}
- serve
- --kubernetes
- "--xds-address={{ $anyAddress }}:18000"
- --xds-authentication={{ .Values.xds.authentication }}
- --xds-token-audience={{ .Values.xds.tokenAudience }}
- --max-stream-age={{ .Values.xds.maxStreamAge }}
{{- $certificate := include "evermesh.xdsCertificate" . }}
{{- if eq $certificate "own" }}
- --xds-tls-service={{ .Release.Namespace }}/{{ include "evermesh.fullname" . }}-xds
{{- else if eq $certificate "certManager" }}
- --xds-tls-cert=/etc/evermesh/webhook/tls.crt
- --xds-tls-key=/etc/evermesh/webhook/tls.key
{{- else if eq $certificate "secret" }}
- --xds-tls-cert=/etc/evermesh/xds/tls.crt
- --xds-tls-key=/etc/evermesh/xds/tls.key
{{- if or .Values.xds.tls.clientCertificates (eq .Values.xds.authentication "certificate") }}
- --xds-client-ca=/etc/evermesh/xds/ca.crt
{{- end }}
{{- end }}
- --admin-address=127.0.0.1:18081
- "--metrics-address={{ $anyAddress }}:18080"
- --advertise-address=$(POD_IP)
- --log={{ .Values.log.level }}
- --ip-family={{ .Values.ipFamily }}
{{- if not .Values.beside }}
- "--webhook-address={{ $anyAddress }}:9443"
- --webhook-service={{ .Release.Namespace }}/{{ include "evermesh.fullname" . }}-webhook
{{- if include "evermesh.certManager" . }}
- --webhook-certificates=/etc/evermesh/webhook
{{- else }}
- --webhook-secret={{ .Release.Namespace }}/{{ include "evermesh.fullname" . }}-webhook
{{- end }}
- --leader-election-namespace={{ .Release.Namespace }}
{{- end }}
{{- range .Values.watchNamespaces }}
- --watch-namespace={{ . }}
{{- end }}
{{- range .Values.secretNamespaces }}
- --secret-namespace={{ . }}
{{- end }}
{{- if and .Values.cloudMap.registration (not .Values.beside) }}
- --cloud-map-registration
- --cloud-map-dns-ttl={{ .Values.cloudMapDNS.ttl }}
{{- if .Values.cloudMapCustomHealthCheck.enabled }}
- --cloud-map-custom-health-check
{{- end }}
{{- end }}
{{- with .Values.region }}
- --aws-region={{ . }}
{{- end }}
{{- with .Values.accountId }}
- {{ printf "--aws-account-id=%s" (include "evermesh.digits" .) | quote }}
{{- end }}
{{- if include "evermesh.injection" . }}
{{- include "evermesh.sidecarArguments" . }}
{{- else if not .Values.beside }}
- --without-injection
{{- end }}
{{- range .Values.extraArgs }}
- {{ . | quote }}
{{- end }}
{{- end }}

{{- /* The 12 digits of an account ID, which YAML reads as a number if it is not quoted. */}}
{{- define "evermesh.digits" -}}
{{- if kindIs "string" . }}{{ . }}{{ else }}{{ printf "%012d" (int64 .) }}{{ end }}
{{- end }}

{{- /* The kinds of App Mesh, from singular to plural. */}}
{{- define "evermesh.kinds" -}}
mesh: meshes
virtualnode: virtualnodes
virtualservice: virtualservices
virtualrouter: virtualrouters
virtualgateway: virtualgateways
gatewayroute: gatewayroutes
backendgroup: backendgroups
{{- end }}
