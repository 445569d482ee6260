#!/usr/bin/env bash
# Install Debian's Chromium and, by npm, axe-core into build/browser, where they are missing: as root, or with sudo.
set -euo pipefail
cd "$(dirname "$0")/../.."
as_root=""
if [ "$(id -u)" -ne 0 ]; then as_root="sudo -n"; fi
wanted=()
command -v chromium >/dev/null 2>&1 || wanted+=(chromium)
command -v npm >/dev/null 2>&1 || [ -f build/browser/node_modules/axe-core/axe.min.js ] || wanted+=(npm)
if [ ${#wanted[@]} -gt 0 ]; then
  if ! command -v apt-get >/dev/null 2>&1 || { [ -n "$as_root" ] && ! $as_root true 2>/dev/null; }; then
    echo "no ${wanted[*]} here, and no way to install it: reports are not opened in a browser" >&2
    exit 0
  fi
  $as_root apt-get -o DPkg::Lock::Timeout=600 -qq update
  DEBIAN_FRONTEND=noninteractive $as_root apt-get -o DPkg::Lock::Timeout=600 -qq -y --no-install-recommends install "${wanted[@]}"
fi
if [ ! -f build/browser/node_modules/axe-core/axe.min.js ]; then
  mkdir -p build/browser
  npm install --prefix build/browser --silent --no-audit --no-fund axe-core@4
fi
