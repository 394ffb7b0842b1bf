#!/usr/bin/env bash
# Writes what is made of other files: the definitions in the chart, and the plain manifests. With a file name it only
# renders the manifests, there. EVENKEEL and HELM name the programs.
set -euo pipefail
cd "$(dirname "$0")/.."
evenkeel=${EVENKEEL:-target/debug/evenkeel}
helm=${HELM:-$(command -v helm || echo target/tools/helm)}

[ $# -gt 0 ] || "$evenkeel" crds > charts/evenkeel/crds/metallb.io.yaml
{
  cat <<'HEAD'
# Made by scripts/manifests.sh from charts/evenkeel.
---
apiVersion: v1
kind: Namespace
metadata:
  name: metallb-system
  labels:
    # Agents use the host's network.
    pod-security.kubernetes.io/enforce: privileged
    pod-security.kubernetes.io/audit: privileged
    pod-security.kubernetes.io/warn: privileged
HEAD
  "$helm" template evenkeel charts/evenkeel --namespace metallb-system --include-crds --no-hooks |
    sed 's|^\( *app.kubernetes.io/managed-by: \)Helm$|\1evenkeel|'
} > "${1:-manifests/evenkeel.yaml}"
