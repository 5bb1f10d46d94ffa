#!/usr/bin/env bash
# What compose/ needs beyond debian-setup.sh: Debian's Docker engine, and debootstrap where no registry can be reached.
# No engine is started: the tests run one of their own, and whoever installs Docker knows how to start the machine's.
set -euo pipefail

missing=()
for package in docker.io debootstrap; do
    state=$(dpkg-query -W -f='${Status}' "$package" 2>/dev/null || true)
    [[ $state == "install ok installed" ]] || missing+=("$package")
done
((${#missing[@]})) || exit 0

echo "setup: installing ${missing[*]}" >&2
policy=/usr/sbin/policy-rc.d  # where there is none, installing a service starts it
if [[ ! -e $policy ]]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
fi
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
