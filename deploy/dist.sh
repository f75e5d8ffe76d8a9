#!/usr/bin/env bash
# Static programs for this machine's processor, what an image is made of, a bill of materials, checksums; and the proof
# that the programs need nothing else (prove.sh).
set -euo pipefail
cd "$(dirname "$0")/.."
cache="${STRONGROOM_CACHE:-$HOME/.cache/strongroom}"
: "${CARGO_TARGET_DIR:=$cache/target-$(rustc --version | cut -d' ' -f2)}"
export CARGO_TARGET_DIR
version="$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)"
machine="$(uname -m)"
target="$machine-unknown-linux-gnu"
out="${OUT:-$CARGO_TARGET_DIR/dist/strongroom-$version-linux-$machine}"

echo "building for $target, static"
# With the target said, the flags are not those of build scripts and macros, which are loaded by the compiler.
# Randomness by the kernel's call itself: what looks for the C library's finds none in a static program, and would read
# /dev/urandom, which need not be there.
RUSTFLAGS='-C target-feature=+crt-static --cfg getrandom_backend="linux_getrandom"' \
    cargo build --release --locked --workspace --bins --target "$target"
rm -rf "$out"
mkdir -p "$out"
cp "$CARGO_TARGET_DIR/$target/release/strongroom" "$CARGO_TARGET_DIR/$target/release/strongroom-csi" "$out/"
strip "$out/strongroom" "$out/strongroom-csi"
for program in "$out/strongroom" "$out/strongroom-csi"; do
    if readelf --program-headers "$program" | grep -q INTERP; then
        echo "$program is not static" >&2
        exit 1
    fi
done

# What the image holds: the programs, a shell for KubeBlocks' init container, and certificate authorities.
root="$out/rootfs"
mkdir -p "$root"/{bin,usr/bin,scripts,tmp,etc/ssl/certs}
chmod 1777 "$root/tmp"
cp "$out/strongroom" "$out/strongroom-csi" "$root/usr/bin/"
ln "$root/usr/bin/strongroom" "$root/datasafed"
cp /bin/busybox "$root/bin/busybox"
for applet in sh cp ls cat mkdir; do ln -s busybox "$root/bin/$applet"; done
cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
install -m 755 deploy/image/install-datasafed.sh "$root/scripts/"
printf 'root:x:0:0:root:/:/bin/sh\nstrongroom:x:65532:65532::/:/bin/sh\n' > "$root/etc/passwd"
cp deploy/image/Dockerfile "$out/Dockerfile"

# Not where it may not be tried, in the building of an image.
if [ "${PROVE:-yes}" = yes ]; then deploy/prove.sh "$out"; fi

"$cache/cargo-cyclonedx-0.5.9/bin/cargo-cyclonedx" cyclonedx --format json --target "$target" --override-filename bom --quiet
mv bom.json "$out/strongroom.cdx.json"
mv csi/bom.json "$out/strongroom-csi.cdx.json"
(cd "$out" && sha256sum strongroom strongroom-csi ./*.cdx.json > SHA256SUMS)
ls -l "$out"
