#!/usr/bin/env bash
# Runs one program as root, saying so. The lab of the demo and the tests is made of network namespaces, which only root
# can make; everything else runs as the calling user.
set -euo pipefail
if [ "$(id -u)" != 0 ]; then
  printf '==> needs root for network namespaces and eBPF: sudo %s\n' "$*"
  exec sudo --preserve-env=KUBECONFIG,EVENKEEL_LOG,EVENKEEL_BIN,KILLS,ROUNDS,OUTAGE,SERVICES,CHANGES,CI,SOAK,UPDATE_PACKETS "$@"
fi
exec "$@"
