#!/usr/bin/env bash
# Runs every fuzz target, or those named, for SECONDS each: fuzz.sh SECONDS [TARGET...]
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=$1
shift
# What the golden tests read is what manifests look like.
mkdir -p fuzz/corpus/manifest
for file in tests/golden/*/manifests/*; do
  [ -f "$file" ] && cp "$file" "fuzz/corpus/manifest/$(tr / - <<<"$file")"
done
mkdir -p fuzz/corpus/lint
for file in tests/golden-lint/*/*.yaml; do
  cp "$file" "fuzz/corpus/lint/$(tr / - <<<"$file")"
done
mkdir -p fuzz/corpus/import
for file in tests/golden-import/*/config.yaml; do
  cp "$file" "fuzz/corpus/import/$(tr / - <<<"$file")"
done
mkdir -p fuzz/corpus/of_api
cp crates/lint/tests/objects/*.json fuzz/corpus/of_api/
for target in ${*:-$(cargo +nightly fuzz list)}; do
  printf '==> fuzzing %s for %s s\n' "$target" "$seconds"
  cargo +nightly fuzz run "$target" -- -max_total_time="$seconds"
done
