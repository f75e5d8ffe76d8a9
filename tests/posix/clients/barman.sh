#!/usr/bin/env bash
# Barman: two base backups by pg_basebackup, the log received and archived, recovery to a name and to the end; the
# older backup deleted. All of it as the user of PostgreSQL, with Barman's home in the repository.
. "${BASH_SOURCE%/*}/common.sh"
. "${BASH_SOURCE%/*}/cluster.sh"
barman() { as_postgres barman -c "$local/barman.conf" "$@"; }
# The programs of the cluster's version before those that are wrappers.
export PATH="$programs:$PATH"

configure() {
    install -d -o postgres "$local/log"; chown postgres "$repository"
    cat > "$local/barman.conf" <<CONF
[barman]
barman_user = postgres
barman_home = $repository
barman_lock_directory = $repository
log_file = $local/log/barman.log
log_level = INFO
compression = gzip
[main]
description = the cluster of this test
conninfo = host=$PGHOST port=$PGPORT user=postgres dbname=postgres
streaming_conninfo = host=$PGHOST port=$PGPORT user=postgres
backup_method = postgres
streaming_archiver = on
slot_name = barman
create_slot = auto
archiver = on
immediate_checkpoint = true
minimum_redundancy = 1
retention_policy = REDUNDANCY 2
path_prefix = $programs
CONF
}

# Whether the log up to a file of it is in the archive.
archived() { barman archive-wal main > /dev/null && [ -n "$(find "$repository/main/wals" -name "$1*")" ]; }

backup() {
    configure
    make_cluster "$local/data" <<CONF
archive_mode = on
archive_command = 'cp %p $repository/main/incoming/%f.part && mv $repository/main/incoming/%f.part $repository/main/incoming/%f'
CONF
    as_postgres mkdir -p "$repository/main/incoming"
    start_cluster "$local/data"
    barman receive-wal --create-slot main || true
    barman receive-wal main > "$local/log/receiver" 2>&1 &
    servers+=($!)
    fill
    barman switch-wal --force --archive --archive-timeout 60 main
    barman backup --wait --wait-timeout 60 main
    barman check main
    work 1
    content > "$local/content.named"
    sql "select pg_create_restore_point('named')" > /dev/null
    work 2
    barman backup --wait --wait-timeout 60 main
    work 3
    content > "$local/content"
    last=$(sql "select pg_walfile_name(pg_switch_wal())")
    await archived "$last"
    barman list-backup --minimal main > "$local/backups"
    [ "$(wc -l < "$local/backups")" = 2 ] || fail "not two backups: $(cat "$local/backups")"
    barman receive-wal --stop main
    stop_cluster "$local/data"
}

# Recovers a backup and compares what the cluster then holds.
recovered() { # BACKUP CONTENT OPTION...
    rm -rf "$local/recovered"
    barman recover "${@:3}" main "$1" "$local/recovered"
    # Barman makes the log's archive of the target no archive.
    start_cluster "$local/recovered"
    [ "$(content)" = "$(cat "$2")" ] || fail "the cluster recovered from $1 has other content"
    stop_cluster "$local/recovered"
}

restore() {
    chmod 777 "$local"
    newest=$(head -1 "$local/backups"); oldest=$(tail -1 "$local/backups")
    for one in "$newest" "$oldest"; do
        barman check-backup main "$one"
        barman show-backup main "$one" > "$local/shown"
        grep -q 'Status *: DONE' "$local/shown" || fail "$one is not done"
    done
    recovered "$oldest" "$local/content.named" --target-name named --target-action promote
    recovered "$newest" "$local/content"
    barman keep --target full main "$newest"
    barman delete main "$oldest"
    [ "$(barman list-backup --minimal main)" = "$newest" ] || fail "the older backup is still listed"
    [ ! -e "$repository/main/base/$oldest" ] || fail "the older backup's files are still there"
    recovered "$newest" "$local/content"
}
"$phase"
