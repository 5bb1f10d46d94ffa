#!/usr/bin/env bash
# Prints the base image for compose/Dockerfile: the public Python image where a registry can be reached, else Debian 12
# with Python 3.11 by debootstrap (as root; about a minute). What the engine has already is taken.
#
#   docker build --build-arg BASE="$(compose/base-image.sh)" …
#
# MIRROR: where debootstrap finds Debian, if not at Debian's own.
set -euo pipefail

public=python:3.11-slim-bookworm own=terway-base:bookworm

for image in "$public" "$own"; do
    if docker image inspect "$image" >/dev/null 2>&1; then
        echo "$image"
        exit
    fi
done
if timeout 120 docker pull --quiet "$public" >/dev/null 2>&1; then
    echo "$public"
    exit
fi
root=$(mktemp -d "${TMPDIR:-/var/tmp}/terway-base.XXXXXX")
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"  # it becomes the image's `/`, and the services are not root
debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv bookworm "$root" ${MIRROR:+"$MIRROR"} >&2
tar --exclude='./var/cache/apt/archives/*.deb' --exclude='./var/lib/apt/lists/*' -C "$root" -c . | docker import - "$own" >&2
echo "$own"
