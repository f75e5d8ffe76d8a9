#!/usr/bin/env bash
# cp, mv, ln, dd and install: a tree with hard links, attributes and holes goes in, is moved and comes back.
. "${BASH_SOURCE%/*}/common.sh"

backup() {
    sample "$local/now"
    setfattr -n user.origin -v here "$local/now/random"
    cp -a "$local/now" "$repository/first"
    same "$local/now" "$repository/first"
    mv "$repository/first" "$repository/moved"
    change "$local/now"; change "$repository/moved"
    cp -a --sparse=always "$local/now/random" "$local/now/deep/new" "$repository"
    cp --reflink=auto "$repository/random" "$repository/within"
    dd if="$local/now/numbers" of="$repository/numbers" bs=70001 conv=fsync status=none
    install -m 640 -o daemon "$local/now/many/7" "$repository/installed"
    cp -a "$repository/moved" "$repository/copy of the copy"
}

restore() {
    [ "$(stat -c %h "$repository/moved/many/1")" = 2 ] || fail "the hard link is gone"
    [ "$(getfattr --only-values -n user.origin "$repository/moved/random")" = here ] || fail "attribute"
    cp -a "$repository/moved" "$local/back"
    # Both trees changed at their own time and with their own random bytes.
    diff <(cd "$local/now" && find . | sort) <(cd "$local/back" && find . | sort)
    same "$repository/moved" "$repository/copy of the copy"
    same "$repository/copy of the copy" "$local/back"
    cmp "$local/now/random" "$repository/random"
    cmp "$local/now/random" "$repository/within"
    cmp "$local/now/numbers" "$repository/numbers"
    [ "$(stat -c '%a %U' "$repository/installed")" = "640 daemon" ] || fail "mode and owner of install"
    rm -r "$repository/moved" "$repository/copy of the copy"
    [ ! -e "$repository/moved" ] || fail "rm left the tree"
}
"$phase"
