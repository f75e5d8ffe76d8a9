#!/usr/bin/env bash
# tar: compressed, appended to, incremental and sparse archives; a tree that is unpacked on the mount.
. "${BASH_SOURCE%/*}/common.sh"
export TAR_OPTIONS=--format=posix # times to the nanosecond

backup() {
    sample "$local/now"; cp -a "$local/now" "$local/before"
    tar -C "$local/now" --xattrs -cf - . | zstd -q -T2 -o "$repository/whole.tar.zst"
    tar -C "$local/now" -cf "$repository/appended.tar" many
    tar -C "$local/now" -Sczf "$repository/sparse.tar.gz" holes
    tar -C "$local/now" -g "$local/snapshot" -cf "$repository/level0.tar" .
    sleep 1.1; change "$local/now"
    tar -C "$local/now" -g "$local/snapshot" -cf "$repository/level1.tar" .
    tar -C "$local/now" -rf "$repository/appended.tar" deep
    tar -C "$local/now" -uf "$repository/appended.tar" numbers
    mkdir "$repository/unpacked"
    tar -C "$local/now" -cf - . | tar -C "$repository/unpacked" --same-owner -xpf -
    split -b 1000003 "$repository/whole.tar.zst" "$repository/part."
}

restore() {
    mkdir "$local/whole" "$local/levels" "$local/appended"
    cat "$repository"/part.* | cmp - "$repository/whole.tar.zst"
    zstd -q -t "$repository/whole.tar.zst"
    zstd -q -dc "$repository/whole.tar.zst" | tar -C "$local/whole" --xattrs -xpf -
    same "$local/before" "$local/whole"
    for level in 0 1; do tar -C "$local/levels" -g /dev/null -xpf "$repository/level$level.tar"; done
    same "$local/now" "$local/levels"
    tar -C "$local/appended" -xpf "$repository/appended.tar"
    cmp "$local/now/numbers" "$local/appended/numbers"
    diff -r --no-dereference "$local/now/deep" "$local/appended/deep"
    tar -C "$repository/unpacked" -Sxzf "$repository/sparse.tar.gz"
    cmp "$local/before/holes" "$repository/unpacked/holes"
    touch -r "$local/now/holes" "$repository/unpacked/holes"
    same "$local/now" "$repository/unpacked"
    tar -C "$repository/unpacked" -df <(tar -C "$local/now" -cf - many)
}
"$phase"
