#!/usr/bin/env bash
# That static programs need nothing else: they run in a root directory that holds nothing else.
#     deploy/prove.sh DIRECTORY      (one that deploy/dist.sh has made)
set -euo pipefail
cd "$(dirname "$0")/.."
out="$1"
root="$out/rootfs"
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
touch "$proof/root/etc/resolv.conf"
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
# A bucket by name: refused by whoever does not listen there. A name that could not be looked up would be another error.
refused() { # NAME
    local said
    said="$(env -i AWS_ACCESS_KEY_ID=of-a-test AWS_SECRET_ACCESS_KEY=of-a-test "$chroot" "$proof/root" /strongroom \
        ls s3://bucket/volume --path-style --endpoint "http://$1:9" --io-timeout 2s --passphrase-file /passphrase 2>&1 || true)"
    case "$said" in
        *efused*) ;;
        *) echo "$1 was not found by name: $said" >&2; exit 1 ;;
    esac
}
# By /etc/hosts, without any name server, and with one that is not there.
rm "$proof/root/etc/resolv.conf"
refused store.test
printf 'nameserver 127.0.0.1\n' > "$proof/root/etc/resolv.conf"
refused store.test
# By DNS, as the names of a cluster are found: in a network of its own, so that port 53 is nobody's.
printf 'nameserver 127.0.0.1\nsearch ns.svc.cluster.test svc.cluster.test\noptions ndots:5\n' > "$proof/root/etc/resolv.conf"
export -f refused
export proof chroot
unshare --net bash -euc '
    ip link set lo up
    python3 deploy/name-server.py minio.ns.svc.cluster.test & server=$!
    trap "kill $server" EXIT
    sleep 1
    refused minio
    refused minio.ns
    refused minio.ns.svc.cluster.test
'
# KubeBlocks' init container: a copy of the program and of the authorities.
env -i PATH=/bin "$chroot" "$root" /bin/sh -c "/scripts/install-datasafed.sh /tmp/bin" 2>&1
cmp "$root/tmp/bin/datasafed" "$out/strongroom"
cmp "$root/tmp/bin/certs/ca-certificates.crt" "$root/etc/ssl/certs/ca-certificates.crt"
rm -r "$root/tmp/bin"
