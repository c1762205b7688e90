#!/usr/bin/env bash
# Checks the page of a running `jacobi serve` in a browser. Exit code 0 if it works.
#
#   scripts/check-serve-page.sh URL [DIR]      for instance http://127.0.0.1:8080; screenshots go to DIR
#
# Headless Chromium types a prompt and sends it. Both decoders finish, one after the other and both at once; their texts
# are equal and not empty; Esc stops; the console has no errors and nothing is fetched from other hosts. The screenshots
# are light.png, dark.png and narrow.png. Prints each check and PASS or FAIL.
#
# Needs python3 and Chromium (CHROMIUM, or one on the path: apt install chromium); installs nothing. PROMPT and
# MAX_TOKENS change the request, JACOBI_API_KEY is typed into the page's field, SECONDS_MAX (300) limits each wait.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/script-env.sh"

[[ $# -ge 1 && $# -le 2 && $1 == http*://* ]] || usage
for name in "${CHROMIUM-}" chromium chromium-browser google-chrome; do
  [[ -n $name ]] && browser=$(command -v "$name") && break
done
[[ -n ${browser-} ]] || fail "no Chromium found: apt install chromium, or set CHROMIUM to its path"
exec python3 "$root/scripts/check_serve_page.py" "$browser" "$@"
