{{- define "evermesh.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- /* The name of everything; short enough for what is appended to it. */}}
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

{{- define "evermesh.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "evermesh.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- /* Whether image.repository is that of the controller whose values these were. */}}
{{- define "evermesh.foreignImage" -}}
{{- if regexMatch "(^|/)appmesh-controller$" .Values.image.repository }}true{{ end }}
{{- end }}

{{- define "evermesh.image" -}}
{{- if include "evermesh.foreignImage" . -}}
evermesh:{{ .Chart.AppVersion }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end }}
{{- end }}

{{- define "evermesh.certManager" -}}
{{- if or .Values.certManager.enabled .Values.enableCertManager }}true{{ end }}
{{- end }}

{{- /* The one place where values become the arguments of the program. */}}
{{- define "evermesh.arguments" -}}
- serve
- --kubernetes
- --xds-address=0.0.0.0:18000
- --xds-authentication={{ .Values.xds.authentication }}
- --xds-token-audience={{ .Values.xds.tokenAudience }}
{{- if .Values.xds.tls.secretName }}
- --xds-tls-cert=/etc/evermesh/xds/tls.crt
- --xds-tls-key=/etc/evermesh/xds/tls.key
{{- if or .Values.xds.tls.clientCertificates (eq .Values.xds.authentication "certificate") }}
- --xds-client-ca=/etc/evermesh/xds/ca.crt
{{- end }}
{{- end }}
- --admin-address=0.0.0.0:18080
- --webhook-address=0.0.0.0:9443
- --webhook-service={{ .Release.Namespace }}/{{ include "evermesh.fullname" . }}-webhook
{{- if include "evermesh.certManager" . }}
- --webhook-certificates=/etc/evermesh/webhook
{{- else }}
- --webhook-secret={{ .Release.Namespace }}/{{ include "evermesh.fullname" . }}-webhook
{{- end }}
- --leader-election-namespace={{ .Release.Namespace }}
- --advertise-address=$(POD_IP)
- --log={{ .Values.log.level }}
{{- range .Values.watchNamespaces }}
- --watch-namespace={{ . }}
{{- end }}
{{- if .Values.cloudMap.registration }}
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
{{- range .Values.extraArgs }}
- {{ . | quote }}
{{- end }}
{{- end }}

{{- /* An account id: without quotes YAML reads it as a number. */}}
{{- define "evermesh.digits" -}}
{{- if kindIs "string" . }}{{ . }}{{ else }}{{ printf "%012d" (int64 .) }}{{ end }}
{{- end }}

{{- /* The kinds of App Mesh: singular, plural. */}}
{{- define "evermesh.kinds" -}}
mesh: meshes
virtualnode: virtualnodes
virtualservice: virtualservices
virtualrouter: virtualrouters
virtualgateway: virtualgateways
gatewayroute: gatewayroutes
backendgroup: backendgroups
{{- end }}
