#!/bin/sh
# The product at work, on the embedded store: plain files go in through a mount, only ciphertext and
# opaque names are in the store, and the tool reads the same bytes back.
set -eu
strongroom="${1:?usage: demo.sh BINARY}"
work="$(mktemp -d "${TMPDIR:-/tmp}/strongroom-demo.XXXXXX")"
mounted=no
finish() {
    if [ "$mounted" = yes ]; then umount "$work/mnt" || umount -l "$work/mnt"; fi
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 1' INT TERM
# umount(8) returns before the server has ended its session.
unmount() {
    umount "$work/mnt"
    mounted=no
    while pgrep -f "mount $url" > /dev/null; do sleep 0.1; done
}
say() { printf '\n== %s\n' "$*"; }
fail() { echo "DEMO FAILED: $*" >&2; exit 1; }

mkdir "$work/mnt" "$work/source" "$work/source/nightly"
head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' > "$work/passphrase"
chmod 600 "$work/passphrase"
export STRONGROOM_PASSPHRASE_FILE="$work/passphrase"
url="file://$work/store"

say "A volume in an empty directory, encrypted"
"$strongroom" init "$url" --encryption AES-256-CFB

say "Mounted; a tree and 64 MiB are written with ordinary programs"
"$strongroom" mount "$url" "$work/mnt" --background
mounted=yes
echo "customer list: alice, bob" > "$work/source/nightly/customers.csv"
ln -s customers.csv "$work/source/nightly/latest"
seq 1 100000 > "$work/source/nightly/numbers.txt"
chmod 640 "$work/source/nightly/numbers.txt"
cp -a "$work/source/nightly" "$work/mnt/"
dd if=/dev/urandom of="$work/mnt/base.tar" bs=1M count=64 conv=fsync 2> /dev/null
mv "$work/mnt/base.tar" "$work/mnt/nightly/base.tar"
cp "$work/mnt/nightly/base.tar" "$work/source/nightly/base.tar"
ls -l "$work/mnt/nightly"
unmount

say "What the store holds"
find "$work/store" -type f -not -path '*/.strongroom-store/*' | sed "s|$work/store/||" | sort | cut -c1-100
if grep -rqa -e 'customer list' -e '99998' "$work/store"; then fail "plaintext is in the store"; fi
if find "$work/store" | grep -q -e customers -e nightly -e 'base.tar'; then fail "names are in the store"; fi
echo "no plaintext and no name found in it"

say "The tool reads the same bytes, without a mount"
"$strongroom" ls -lR "$url"
for name in customers.csv numbers.txt base.tar; do
    "$strongroom" pull "$url/nightly/$name" "$work/back"
    cmp "$work/back" "$work/source/nightly/$name" || fail "$name differs"
done
"$strongroom" cat "$url/nightly/numbers.txt" | cmp - "$work/source/nightly/numbers.txt" || fail "pipe differs"

say "Mounted again: bytes, modes, times and symlinks are as they were"
"$strongroom" mount "$url" "$work/mnt" --background
mounted=yes
diff -r --no-dereference "$work/source/nightly" "$work/mnt/nightly" || fail "the trees differ"
for name in numbers.txt latest; do
    [ "$(stat -c '%a %Y %N' "$work/source/nightly/$name" | sed 's|/.*/||')" = \
      "$(stat -c '%a %Y %N' "$work/mnt/nightly/$name" | sed 's|/.*/||')" ] || fail "$name: attributes differ"
done
unmount

say "A wrong passphrase opens nothing"
echo wrong > "$work/wrong"
chmod 600 "$work/wrong"
if "$strongroom" ls "$url" --passphrase-file "$work/wrong"; then fail "a wrong passphrase was taken"; fi
printf '\nDemo passed.\n'
