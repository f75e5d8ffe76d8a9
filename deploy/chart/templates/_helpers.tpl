{{- define "strongroom.name" -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "strongroom.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{/* What a component's pods are found by: (dict "root" $ "component" "node") */}}
{{- define "strongroom.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "strongroom.image" -}}
image: {{ printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- end -}}

{{/* Flags of controller and node that say how stores are reached. */}}
{{- define "strongroom.storeFlags" -}}
- --driver-name={{ .Values.driverName }}
- --store-timeout={{ .Values.store.timeout }}
{{- if .Values.metricsPort }}
- --metrics=0.0.0.0:{{ .Values.metricsPort }}
{{- end }}
{{- with .Values.store.endpoint }}
- --s3-endpoint={{ . }}
{{- end }}
{{- with .Values.store.region }}
- --s3-region={{ . }}
{{- end }}
{{- if .Values.store.caBundleConfigMap }}
- --ca-bundle=/etc/strongroom/ca/ca.crt
{{- end }}
{{- if .Values.store.clientCertSecret }}
- --client-cert=/etc/strongroom/client/tls.crt
- --client-key=/etc/strongroom/client/tls.key
{{- end }}
{{- end -}}

{{- define "strongroom.logFlags" -}}
- --log={{ .Values.log.level }}
- --log-format={{ .Values.log.format }}
{{- end -}}

{{/* Nothing that a container can do without. */}}
{{- define "strongroom.restricted" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end -}}
