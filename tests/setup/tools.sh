#!/usr/bin/env bash
# Installs what the tests need and the machine lacks: Debian packages, and programs compiled once into
# the cache under a name that holds their version.
set -euo pipefail
cache="${STRONGROOM_CACHE:-$HOME/.cache/strongroom}"
mkdir -p "$cache/bin"

packages=()
need() { command -v "$1" > /dev/null 2>&1 || packages+=("$2"); }
need openssl openssl
need setfattr attr
need fio fio
if [ "${#packages[@]}" -gt 0 ]; then
    echo "installing ${packages[*]}"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" > /dev/null
fi

# One program of a Go module, pinned. Written beside its place and renamed, so that a run that is cut
# short leaves nothing half done.
go_tool() { # NAME VERSION PACKAGE
    local place="$cache/bin/$1-$2"
    if [ ! -x "$place" ]; then
        echo "compiling $1 $2 (once)"
        local work; work="$(mktemp -d "$cache/go.XXXXXX")"
        GOBIN="$work" GOFLAGS=-trimpath go install -ldflags "-s -w" "$3@$2"
        mv "$work"/* "$place"
        rmdir "$work"
    fi
}
go_tool minio v0.0.0-20260212201848-7aac2a2c5b7c github.com/minio/minio

deny="$cache/cargo-deny-0.20.2"
if [ ! -x "$deny/bin/cargo-deny" ]; then
    echo "compiling cargo-deny 0.20.2 (once)"
    CARGO_TARGET_DIR="$cache/cargo-deny-build" cargo install cargo-deny --version 0.20.2 --locked --quiet --root "$deny"
    rm -rf "$cache/cargo-deny-build"
fi
