#!/usr/bin/env bash
# rclone on a directory: copied, mirrored with what went kept aside, moved, enciphered by its own; compared byte by byte.
. "${BASH_SOURCE%/*}/common.sh"
export RCLONE_CONFIG="$local/rclone.conf" RCLONE_LOCAL_NO_CHECK_UPDATED=false
export RCLONE_CONFIG_SEALED_TYPE=crypt RCLONE_CONFIG_SEALED_REMOTE="$repository/sealed"
RCLONE_CONFIG_SEALED_PASSWORD="$(rclone obscure of-this-test)"; export RCLONE_CONFIG_SEALED_PASSWORD
: > "$RCLONE_CONFIG"
# Modes and empty directories are none of its business.
files() { (cd "$1" && find . -type f -printf '%P %s %T@\n' | sort && find . -type f -print0 | sort -z | xargs -0 sha256sum); }
like() { diff <(files "$1") <(files "$2") | head -20 || fail "$1 and $2 differ"; }

backup() {
    sample "$local/now"; cp -a "$local/now" "$local/before"
    rclone copy --links "$local/now" "$repository/copy"
    rclone sync --skip-links "$local/now" "$repository/mirror"
    rclone sync --skip-links "$local/now" sealed:
    change "$local/now"
    rclone sync --skip-links --backup-dir "$repository/aside" "$local/now" "$repository/mirror"
    rclone sync --skip-links --inplace "$local/now" sealed: 2> /dev/null || rclone sync --skip-links "$local/now" sealed:
    rclone copyto "$local/now/random" "$repository/one/file"
    rclone moveto "$repository/one/file" "$repository/two/file"
    rclone check --skip-links --download "$local/now" "$repository/mirror"
    rclone cryptcheck --skip-links "$local/now" sealed:
}

restore() {
    like "$local/now" "$repository/mirror"
    rclone copy --links "$repository/copy" "$local/first"; like "$local/before" "$local/first"
    [ "$(readlink "$local/first/deep/symlink")" = ../random ] || fail "the link is another one"
    rclone copy sealed: "$local/second"; like "$local/now" "$local/second"
    cmp "$repository/aside/random" "$local/before/random"
    cmp "$repository/two/file" "$local/now/random"
    [ ! -e "$repository/one/file" ] || fail "what was moved is still there"
    rclone dedupe --dedupe-mode skip "$repository/mirror"
    rclone purge "$repository/mirror"
    [ ! -e "$repository/mirror" ] || fail "what was purged is still there"
    [[ "$(rclone size --json sealed:)" == *"\"count\":$(find "$local/now" -type f | wc -l),"* ]] || fail "another count"
}
"$phase"
