#!/usr/bin/env bash
# duplicity: full and incremental backups, encrypted and plain; restored as of either time, verified, the old removed.
. "${BASH_SOURCE%/*}/common.sh"
export PASSPHRASE=of-this-test GNUPGHOME="$local/gnupg"
mkdir -p -m 700 "$GNUPGHOME"
keep=(--archive-dir "$local/archive" --no-print-statistics --volsize 3)
trap 'gpgconf --kill gpg-agent || true' EXIT
# It keeps times to the second.
seconds() { describe "$1" | sed -E 's/( [0-9]+)\.[0-9]+$/\1/'; }
like() { diff <(seconds "$1") <(seconds "$2") | head -20 || fail "$1 and $2 differ"; }

backup() {
    sample "$local/now"; cp -a "$local/now" "$local/before"
    duplicity full "${keep[@]}" "$local/now" "file://$repository/sealed"
    duplicity full "${keep[@]}" --no-encryption "$local/now" "file://$repository/plain"
    date +%s > "$local/time"; sleep 1.1
    change "$local/now"
    duplicity incremental "${keep[@]}" "$local/now" "file://$repository/sealed"
    duplicity incremental "${keep[@]}" --no-encryption "$local/now" "file://$repository/plain"
}

restore() {
    # What it knew about them goes, too: it is read from the repository.
    rm -r "$local/archive"
    duplicity verify "${keep[@]}" --compare-data "file://$repository/sealed" "$local/now"
    duplicity restore "${keep[@]}" "file://$repository/sealed" "$local/second"; like "$local/now" "$local/second"
    duplicity restore "${keep[@]}" --time "$(cat "$local/time")" "file://$repository/sealed" "$local/first"
    like "$local/before" "$local/first"
    duplicity restore "${keep[@]}" --no-encryption "file://$repository/plain" "$local/third"; like "$local/now" "$local/third"
    sleep 1.1
    duplicity full "${keep[@]}" "$local/now" "file://$repository/sealed"
    duplicity remove-all-but-n-full 1 --force --archive-dir "$local/archive" "file://$repository/sealed"
    duplicity cleanup --force --archive-dir "$local/archive" "file://$repository/sealed"
    [ "$(find "$repository/sealed" -name '*full*sigtar*' | wc -l)" = 1 ] || fail "the older backup is still there"
    duplicity verify "${keep[@]}" --compare-data "file://$repository/sealed" "$local/now"
}
"$phase"
