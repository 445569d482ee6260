#!/usr/bin/env bash
# Install Debian's or Ubuntu's Prometheus where there is none: as root, or with sudo.
set -euo pipefail
if command -v prometheus >/dev/null 2>&1 && command -v promtool >/dev/null 2>&1; then exit 0; fi
as_root=""
if [ "$(id -u)" -ne 0 ]; then as_root="sudo -n"; fi
if ! command -v apt-get >/dev/null 2>&1 || { [ -n "$as_root" ] && ! $as_root true 2>/dev/null; }; then
  echo "no prometheus here, and no way to install it: its tests are skipped (apt-get install prometheus)" >&2
  exit 0
fi
$as_root apt-get -o DPkg::Lock::Timeout=600 -qq update
DEBIAN_FRONTEND=noninteractive $as_root apt-get -o DPkg::Lock::Timeout=600 -qq -y --no-install-recommends install prometheus
