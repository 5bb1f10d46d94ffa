#!/usr/bin/env bash
# What `make test-kernel` needs beyond debian-setup.sh, which runs before: QEMU, which brings virtiofsd. The guest's
# kernel and busybox are fetched by compose/guest and installed nowhere.
set -euo pipefail

if ! command -v qemu-system-x86_64 >/dev/null; then
    echo "setup: installing qemu-system-x86" >&2
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends qemu-system-x86 >/dev/null
fi
