#!/usr/bin/env bash
# restic: two backups, all data checked; both restored, the older one forgotten and pruned.
. "${BASH_SOURCE%/*}/common.sh"
export RESTIC_REPOSITORY="$repository" RESTIC_PASSWORD=of-this-test RESTIC_CACHE_DIR="$local/cache"

backup() {
    restic init
    sample "$local/now"; cp -a "$local/now" "$local/before"
    (cd "$local/now" && restic backup --host here --tag first .)
    change "$local/now"
    (cd "$local/now" && restic backup --host here --tag second .)
    restic check --read-data
}

restore() {
    restic restore latest --tag first --target "$local/first"
    same "$local/before" "$local/first"
    restic forget --keep-last 1 --group-by host --prune
    [ "$(restic list snapshots | wc -l)" = 1 ] || fail "the first snapshot is still there"
    restic check --read-data
    restic restore latest --verify --target "$local/second"
    same "$local/now" "$local/second"
    [ -z "$(find "$repository/locks" -type f)" ] || fail "locks are left"
}
"$phase"
