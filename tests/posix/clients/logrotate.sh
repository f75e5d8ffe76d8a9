#!/usr/bin/env bash
# logrotate: renaming, copying and truncating, with compression, while a program appends.
. "${BASH_SOURCE%/*}/common.sh"

rotate() { logrotate --force --state "$local/state" "$local/settings"; }

backup() {
    chmod 755 "$repository"
    printf '%s {\n rotate 5\n compress\n delaycompress\n %s\n}\n' \
        "$repository/renamed.log" "create 640 root root" "$repository/copied.log" copytruncate \
        > "$local/settings"
    seq 1 3000 > "$repository/renamed.log"
    exec 7>> "$repository/copied.log"
    seq 1 3000 >&7
    rotate
    for name in renamed copied; do
        [ "$(stat -c %s "$repository/$name.log")" = 0 ] || fail "$name.log is not empty after rotation"
    done
    echo second >> "$repository/renamed.log"; echo second >&7
    rotate
    echo third >> "$repository/renamed.log"; echo third >&7
    exec 7>&-
}

restore() {
    for name in renamed copied; do
        [ "$(cat "$repository/$name.log")" = third ] || fail "$name.log"
        [ "$(cat "$repository/$name.log.1")" = second ] || fail "$name.log.1"
        diff <(seq 1 3000) <(zcat "$repository/$name.log.2.gz")
    done
    rotate
    [ "$(zcat "$repository/copied.log.2.gz")" = second ] || fail "rotation after the remount"
    [ "$(stat -c %a "$repository/renamed.log")" = 640 ] || fail "mode of the new log"
}
"$phase"
