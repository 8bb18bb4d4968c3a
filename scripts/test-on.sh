#!/usr/bin/env bash
# The tests on another Node: test-on.sh VERSION [VITEST ARGUMENTS].
set -euo pipefail
cd "$(dirname "$0")/.."

folder=$PWD/.nodes/$1
shift
if [ ! -x "$folder/node_modules/.bin/node" ]; then
  mkdir -p "$folder"
  # A package of its own, so that it may allow the install script that brings the binary.
  printf '{ "private": true, "dependencies": { "node": "%s" }, "allowScripts": { "node": true } }\n' \
    "$(basename "$folder")" > "$folder/package.json"
  npm install --prefix "$folder" --no-package-lock --no-audit --no-fund
fi
export PATH="$folder/node_modules/.bin:$PATH"
echo "Node $(node --version)"
node node_modules/vitest/vitest.mjs run "$@"
