#!/usr/bin/env bash
# pgBackRest: full, differential and incremental backups with the archive; recovery to a point in time.
# VARIANT bundled: small files in bundles, zst, encrypted; linked: a file each, hard links between backups.
. "${BASH_SOURCE%/*}/common.sh"
. "${BASH_SOURCE%/*}/cluster.sh"
export PGBACKREST_CONFIG="$local/pgbackrest.conf" PGBACKREST_STANZA=db
pgbackrest_does() { as_postgres pgbackrest "$@" || fail "pgbackrest $*: $(tail -5 "$PGHOST/log")"; }

settings() {
    case $variant in
        bundled) printf '%s\n' repo1-bundle=y compress-type=zst compress-level=1 \
            repo1-cipher-type=aes-256-cbc repo1-cipher-pass=of-this-test;;
        linked) printf '%s\n' repo1-hardlink=y compress-type=none;;
        *) fail "no such variant: $variant";;
    esac
    printf '%s\n' repo1-type=posix "repo1-path=$repository/repo1" repo1-retention-full=2 process-max=2 \
        start-fast=y archive-async=y archive-timeout=60 "spool-path=$local/spool" "lock-path=$local/lock" \
        "log-path=$repository/repo1/log" log-level-file=detail log-level-console=warn
}

backup() {
    chown postgres "$repository"
    install -d -o postgres "$local/spool" "$local/lock" "$repository/repo1" "$repository/repo1/log"
    { echo '[global]'; settings; echo '[db]'; echo "pg1-path=$local/data"
      echo "pg1-socket-path=$PGHOST"; echo "pg1-port=$PGPORT"; } > "$PGBACKREST_CONFIG"
    make_cluster "$local/data" <<< "archive_mode = on
archive_command = 'pgbackrest --config=$PGBACKREST_CONFIG --stanza=db archive-push %p'"
    start_cluster "$local/data"
    pgbackrest_does stanza-create; pgbackrest_does check
    fill; pgbackrest_does --type=full backup
    work 1; pgbackrest_does --type=diff backup
    work 2; pgbackrest_does --type=incr backup
    work 3; content > "$local/content"
    sql "select pg_create_restore_point('before_the_accident')"
    sql "drop table small; truncate big; select pg_switch_wal()"
    pgbackrest_does check
    stop_cluster "$local/data"
}

restore() {
    pgbackrest_does verify
    pgbackrest_does --delta --type=name --target=before_the_accident --target-action=promote restore
    start_cluster "$local/data"
    [ "$(content)" = "$(cat "$local/content")" ] || fail "recovered something else"
    pgbackrest_does --type=full backup; work 4; pgbackrest_does --type=full backup
    pgbackrest_does --repo1-retention-full=1 expire
    content > "$local/content"
    sql "select pg_switch_wal()"; pgbackrest_does check
    stop_cluster "$local/data"
    rm -r "$local/data"; install -d -m 700 -o postgres "$local/data"
    pgbackrest_does restore
    start_cluster "$local/data"
    [ "$(content)" = "$(cat "$local/content")" ] || fail "restored something else"
    stop_cluster "$local/data"
    [ -z "$(find "$repository" -name '*.pgbackrest.tmp')" ] || fail "temporary files are left"
    pgbackrest_does stop; pgbackrest_does stanza-delete --force
    [ ! -e "$repository/repo1/backup/db" ] || fail "the stanza was not deleted"
}
"$phase"
