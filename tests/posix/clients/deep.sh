#!/usr/bin/env bash
# A tree as deep as paths may be, one directory of many files, and names of every byte that a name may have.
. "${BASH_SOURCE%/*}/common.sh"
wide=1200
part="$(printf 'd%.0s' $(seq 1 200))"

fill() { # DIRECTORY: made step by step, as no path may be longer than 4,095 bytes
    mkdir "$1"
    (cd "$1" && for i in $(seq 1 18); do mkdir "$part" && cd "$part" && echo "$i" > file; done)
    mkdir "$1/wide"
    (cd "$1/wide" && seq -f %g.wal.0000000000 1 "$wide" | xargs touch && echo last > "$wide.wal.0000000000")
    mkdir "$1/bytes"
    local octal; for octal in $(seq 1 255); do
        [ "$octal" = 47 ] && continue
        local name; name="$(printf "x\\$(printf %03o "$octal")x")"
        [ "$octal" = 10 ] && name=$'x\nx'
        printf '%s' "$octal" > "$1/bytes/$name"
    done
    printf 'e\314\201' > "$1/bytes/"$'e\314\201'; printf '\303\251' > "$1/bytes/"$'\303\251'
    : > "$1/bytes/$(printf 'n%.0s' $(seq 1 255))"
}

backup() {
    fill "$local/now"
    tar -C "$local/now" -cf - . | { mkdir "$repository/tree" && tar -C "$repository/tree" -xf -; }
    diff -r "$local/now" "$repository/tree"
    if : 2> /dev/null > "$repository/$(printf 'n%.0s' $(seq 1 256))"; then fail "a name of 256 bytes"; fi
}

restore() {
    diff -r "$local/now" "$repository/tree"
    cp -a "$repository/tree" "$local/back"; diff -r "$local/now" "$local/back"
    [ "$(find "$repository/tree/wide" -type f | wc -l)" = "$wide" ] || fail "files are missing"
    (cd "$repository/tree/wide" && seq -f %g.wal.0000000000 1 2 "$wide" | xargs rm)
    [ "$(ls "$repository/tree/wide" | wc -l)" = $((wide / 2)) ] || fail "other files than those removed are gone"
    mv "$repository/tree/$part" "$repository/tree/moved"
    [ "$(find "$repository/tree/moved" -name file | wc -l)" = 18 ] || fail "the deep tree lost files"
    rm -r "$repository/tree"
}
"$phase"
