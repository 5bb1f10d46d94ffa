#!/usr/bin/env bash
# Makes a fresh Debian 12 machine ready: Debian packages that are missing, uv, and the locked virtual environment.
# Safe to run again; quick when nothing is missing.
set -euo pipefail
cd "$(dirname "$0")/.."

UV_VERSION=0.13.9
PACKAGES=(
    python3 python3-venv ca-certificates   # the interpreter that runs everything
    iproute2 nftables libnftables1         # links, routes, rules; the fabric's and the policies' tables
    containerd runc busybox-static         # the lab's container runtime and what its pods run
    containernetworking-plugins            # loopback for containerd; ptp and host-local to measure against
    iputils-ping tcpdump curl              # the demo's probes and captures, the tests' plain HTTP client
    iperf3 iptables                        # bandwidth under test; what the standard portmap plugin needs
)
command -v kubectl >/dev/null || PACKAGES+=(kubernetes-client)  # an ordinary client judges the lab's API

missing=()
for package in "${PACKAGES[@]}"; do
    state=$(dpkg-query -W -f='${Status}' "$package" 2>/dev/null || true)
    [[ $state == "install ok installed" ]] || missing+=("$package")
done
if ((${#missing[@]})); then
    echo "setup: installing ${missing[*]}" >&2
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

uv=build/uv/bin/uv
if [[ $("$uv" --version 2>/dev/null) != "uv $UV_VERSION"* ]]; then
    echo "setup: installing uv $UV_VERSION" >&2
    /usr/bin/python3 -m venv --clear build/uv
    build/uv/bin/pip install --quiet --disable-pip-version-check "uv==$UV_VERSION"
fi
"$uv" sync --frozen --quiet --python /usr/bin/python3
