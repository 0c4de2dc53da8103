{{/* The name of everything. At most 50 characters, so that a node's (with -0 and the like) stays a name for cluster.yml. */}}
{{- define "holdfast.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}{{ .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else -}}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" }}{{- end -}}
{{- end -}}

{{- define "holdfast.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "holdfast.labels" -}}
{{ include "holdfast.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{/* The full name of a node's machine: its own /etc/hosts has it too, so that a node can listen before DNS knows it. */}}
{{- define "holdfast.host" -}}
{{- $name := include "holdfast.fullname" .root -}}
{{ printf "%s-%d.%s-nodes.%s.svc.%s" $name .number $name .root.Release.Namespace .root.Values.clusterDomain }}
{{- end -}}

{{- define "holdfast.config" -}}
{{- if not (or .Values.settings.access .Values.settings.insecure) -}}
{{- fail "settings.access is missing: say who may call (docs/security.md)" -}}
{{- end -}}
{{- $nodes := list -}}
{{- range $number := until (int .Values.replicas) -}}
{{- $host := include "holdfast.host" (dict "root" $ "number" $number) -}}
{{- $name := printf "%s-%d" (include "holdfast.fullname" $) $number -}}
{{- $nodes = append $nodes (dict "name" $name "http" (printf "%s:7601" $host) "raft" (printf "%s:7701" $host)) -}}
{{- end -}}
{{- $own := dict "cluster" (.Values.clusterName | default .Release.Name) "data_dir" "/var/lib/holdfast" "nodes" $nodes -}}
{{ toYaml (merge $own .Values.settings) }}
{{- end -}}

{{- define "holdfast.probe" -}}
{{- if .root.Values.probes.tcp -}}
tcpSocket: {port: http}
{{- else -}}
httpGet: {path: {{ .path }}, port: http, scheme: {{ .root.Values.probes.scheme }}}
{{- end -}}
{{- end -}}
