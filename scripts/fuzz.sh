#!/usr/bin/env bash
# Runs every fuzz target for SECONDS each.
set -euo pipefail
cd "$(dirname "$0")/.."
for target in $(cargo +nightly fuzz list); do
  printf '==> fuzzing %s for %s s\n' "$target" "$1"
  cargo +nightly fuzz run "$target" -- -max_total_time="$1"
done
