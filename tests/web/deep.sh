#!/usr/bin/env bash
# The page of ds4-server in Chromium, with a script in place of the model. Pictures of it are left in build/web.
set -euo pipefail
. "$(dirname "$0")/../npm_and_server.sh"
begin web
scripts/install_packages.sh browser || true
chromium=$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)
[[ -n $chromium ]] || leave_out "there is no Chromium and it cannot be installed"
npm_packages page.mjs
serve --script tests/web/script.json
(cd "$work" && node page.mjs "$url" "$chromium" "$work")
