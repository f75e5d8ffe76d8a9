#!/usr/bin/env bash
# Static programs for this machine's processor, what an image is made of, a bill of materials, checksums; and the proof
# that the programs need nothing else: they run in a root directory that holds nothing else.
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

# In a directory of their own: nothing of this machine is in sight.
proof="$(mktemp -d)"
trap 'rm -rf "$proof"' EXIT
mkdir "$proof/root" "$proof/root/tmp" "$proof/root/etc" "$proof/root/data"
cp "$out/strongroom" "$proof/root/"
ln -s strongroom "$proof/root/datasafed"
head -c 3000000 /dev/urandom > "$proof/root/plain"
head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' > "$proof/root/passphrase"
chmod 600 "$proof/root/passphrase"
# By its path: without an environment there is nothing to look for it in.
chroot="$(command -v chroot)"
inside() { env -i "$chroot" "$proof/root" "$@"; }
# The C library's own resolver would have to be loaded from files; names are found by /etc/hosts and DNS.
printf '127.0.0.1 store.test\n' > "$proof/root/etc/hosts"
inside /strongroom --version
inside /strongroom init file:///data --kdf raw --passphrase-file /passphrase
inside /strongroom push /plain file:///data//file --passphrase-file /passphrase
inside /strongroom pull file:///data//file /pulled --passphrase-file /passphrase
cmp "$proof/root/plain" "$proof/root/pulled"
mkdir "$proof/root/local"
env -i DATASAFED_LOCAL_BACKEND_PATH=/local DATASAFED_ENCRYPTION_ALGORITHM=AES-256-CFB \
    DATASAFED_ENCRYPTION_PASS_PHRASE=of-a-test "$chroot" "$proof/root" /datasafed push /plain dir/file
env -i DATASAFED_LOCAL_BACKEND_PATH=/local DATASAFED_ENCRYPTION_ALGORITHM=AES-256-CFB \
    DATASAFED_ENCRYPTION_PASS_PHRASE=of-a-test "$chroot" "$proof/root" /datasafed pull dir/file - | cmp - "$proof/root/plain"
# A bucket by name: found in /etc/hosts, refused by whoever does not listen there. A name that could not be looked up
# would be another error.
# Once with a name server that is not there, once without any.
for servers in 'nameserver 127.0.0.1' ''; do
    if [ -n "$servers" ]; then echo "$servers" > "$proof/root/etc/resolv.conf"; else rm "$proof/root/etc/resolv.conf"; fi
    said="$(env -i AWS_ACCESS_KEY_ID=of-a-test AWS_SECRET_ACCESS_KEY=of-a-test "$chroot" "$proof/root" /strongroom ls s3://bucket/volume --path-style --endpoint http://store.test:9 --io-timeout 2s \
        --passphrase-file /passphrase 2>&1 || true)"
    case "$said" in
        *efused*) ;;
        *) echo "store.test was not found by name: $said" >&2; exit 1 ;;
    esac
done
# KubeBlocks' init container: a copy of the program and of the authorities.
env -i PATH=/bin "$chroot" "$root" /bin/sh -c "/scripts/install-datasafed.sh /tmp/bin" 2>&1
cmp "$root/tmp/bin/datasafed" "$out/strongroom"
cmp "$root/tmp/bin/certs/ca-certificates.crt" "$root/etc/ssl/certs/ca-certificates.crt"
rm -r "$root/tmp/bin"

"$cache/cargo-cyclonedx-0.5.9/bin/cargo-cyclonedx" cyclonedx --format json --target "$target" --override-filename bom --quiet
mv bom.json "$out/strongroom.cdx.json"
mv csi/bom.json "$out/strongroom-csi.cdx.json"
(cd "$out" && sha256sum strongroom strongroom-csi ./*.cdx.json > SHA256SUMS)
ls -l "$out"
