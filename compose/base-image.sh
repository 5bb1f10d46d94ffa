#!/usr/bin/env bash
# Makes a base image for compose/Dockerfile where no registry can be reached: Debian 12 by debootstrap, with Python 3.11.
#
#   compose/base-image.sh [TAG]      prints the tag; does nothing when the engine has the image already
#
# MIRROR: another Debian mirror. As root, for debootstrap needs it.
set -euo pipefail

tag=${1:-terway-base:bookworm}
if ! docker image inspect "$tag" >/dev/null 2>&1; then
    root=$(mktemp -d "${TMPDIR:-/var/tmp}/terway-base.XXXXXX")
    trap 'rm -rf "$root"' EXIT
    chmod 755 "$root"  # it becomes the image's `/`, where the services are not root
    debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv bookworm "$root" ${MIRROR:+"$MIRROR"} >&2
    tar --exclude='./var/cache/apt/archives/*.deb' --exclude='./var/lib/apt/lists/*' -C "$root" -c . |
        docker import - "$tag" >&2
fi
echo "$tag"
