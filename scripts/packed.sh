#!/usr/bin/env bash
# The packages as users get them: packed, installed outside the workspace, and put to the first program of the README,
# which must type-check and print what the README says.
set -euo pipefail
cd "$(dirname "$0")/.."

app=$(mktemp -d)
trap 'rm -rf "$app"' EXIT
# Outputs of sources that are gone would be packed too.
rm -rf packages/{core,platform,testing}/dist
npm run -s build
npm pack --silent --pack-destination "$app" \
  --workspace packages/core --workspace packages/platform --workspace packages/testing

echo '{ "private": true, "type": "module" }' > "$app/package.json"
peers=$(node -p 'const { devDependencies: d } = require("./package.json")
  Object.keys(d).filter((name) => /^(effect$|@effect\/platform|@types\/)/.test(name)).map((name) => `${name}@${d[name]}`).join(" ")')
# shellcheck disable=SC2086
npm install --prefix "$app" --no-audit --no-fund "$app"/*.tgz $peers

fence() {
  awk -v open="$1" '!inside && index($0, "```" open) == 1 { inside = 1; next } inside && /^```/ { exit } inside' README.md
}
fence ts > "$app/program.ts"
fence text > "$app/expected.txt"
tsc=$PWD/node_modules/.bin/tsc
cd "$app"
"$tsc" --noEmit --strict --skipLibCheck --target es2024 --module nodenext --types node program.ts
for package in core platform testing; do
  node --input-type=module --eval "await import('@cut-through/$package')"
done
node program.ts > actual.txt
diff expected.txt actual.txt
echo "The README's program ran from the packed packages."
