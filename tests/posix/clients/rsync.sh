#!/usr/bin/env bash
# rsync: whole, in place and by difference, sparse, with generations that share unchanged files by links.
. "${BASH_SOURCE%/*}/common.sh"

backup() {
    sample "$local/now"; cp -a "$local/now" "$local/before"
    rsync -aHAX --numeric-ids --fsync "$local/now/" "$repository/mirror/"
    rsync -aHX "$local/now/" "$repository/first/"
    change "$local/now"
    rsync -aHAX --numeric-ids --delete --inplace --no-whole-file "$local/now/" "$repository/mirror/"
    rsync -aHX --delete --link-dest=../first "$local/now/" "$repository/second/"
    rsync -aS --partial-dir=.partial "$local/now/holes" "$repository/sparse"
    [ -z "$(rsync -aHAXnic --delete "$local/now/" "$repository/mirror/")" ] || fail "the mirror differs"
    [ "$repository/first/many/20" -ef "$repository/second/many/20" ] || fail "nothing is shared"
}

restore() {
    same "$local/now" "$repository/mirror"
    rsync -aHX "$repository/first/" "$local/first/"; same "$local/before" "$local/first"
    rsync -aHX "$repository/second/" "$local/second/"; same "$local/now" "$local/second"
    cmp "$local/now/holes" "$repository/sparse"
    [ -z "$(rsync -aHAXnic --delete "$local/now/" "$repository/mirror/")" ] || fail "the mirror differs"
    rm -r "$repository/first"
    same "$local/now" "$repository/second"
}
"$phase"
