#!/usr/bin/env bash
# Prints the path of a test binary that has been built: PACKAGE TEST [OPTION OF CARGO...].
set -euo pipefail
cargo test --no-run --locked --quiet --package "$1" --test "$2" "${@:3}" --message-format=json |
  sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | tail -n 1
