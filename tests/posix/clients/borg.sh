#!/usr/bin/env bash
# borg: an encrypted repository, two archives, all data verified; both extracted, one deleted, compacted.
. "${BASH_SOURCE%/*}/common.sh"
export BORG_REPO="$repository/borg" BORG_PASSPHRASE=of-this-test BORG_BASE_DIR="$local"

backup() {
    borg init --encryption repokey-blake2
    sample "$local/now"; cp -a "$local/now" "$local/before"
    (cd "$local/now" && borg create ::first .)
    change "$local/now"
    (cd "$local/now" && borg create ::second .)
    borg check --verify-data
}

restore() {
    mkdir "$local/first" "$local/second"
    (cd "$local/first" && borg extract --sparse ::first)
    same "$local/before" "$local/first"
    borg delete ::first
    borg compact
    borg check --verify-data
    (cd "$local/second" && borg extract ::second)
    same "$local/now" "$local/second"
}
"$phase"
