#!/usr/bin/env bash
# The vendors' SDKs, two frameworks and CompatCanary, installed from npm now: against the real server with the bundled
# model, and, for errors and what that model is too small for, with a script in its place.
set -euo pipefail
. "$(dirname "$0")/../npm_and_server.sh"
begin clients
npm_packages checks.mjs clients.mjs frameworks.mjs errors.mjs script.json
script=$work/script.json
failed=0
(
  serve
  node "$work/clients.mjs" "$url" && node "$work/frameworks.mjs" "$url"
) || failed=1
(
  serve --script "$script" --api-key local-key --parallel 1 --max-queue 1
  node "$work/errors.mjs" "$url"
) || failed=1
# All of it but strict JSON schema, which is refused with a clear 400.
(
  serve --script "$script"
  report=$work/canary.json
  node "$work/node_modules/compatcanary/src/cli.js" scan --base-url "$url/v1" --model ds4-nano --fail-on never --format json --output "$report"
  node -e '
    const { results } = JSON.parse(require("node:fs").readFileSync(process.argv[1]));
    for (const r of results) console.log(`clients: CompatCanary, ${r.name}: ${r.status}`);
    const failed = results.filter((r) => r.status !== "pass").map((r) => r.id);
    process.exit(results.length === 7 && failed.join() === "chat.structured_output" ? 0 : 1);' "$report"
) || failed=1
exit "$failed"
