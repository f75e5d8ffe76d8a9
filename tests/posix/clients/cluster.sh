# Sourced after common.sh: a PostgreSQL cluster in LOCAL, run by the user postgres, as servers refuse root.
programs="$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -1)"
export PGHOST="$local/socket" PGPORT=5499 PGUSER=postgres PGDATABASE=postgres
cd "$local"
chmod 755 "$local"
as_postgres() { runuser -u postgres -- "$@"; }
sql() { "$programs/psql" -X -q -At -v ON_ERROR_STOP=1 -c "$1"; }

make_cluster() { # DATA, then settings on standard input
    install -d -o postgres "$local/socket" "$1"; chmod 700 "$1"
    as_postgres "$programs/initdb" -D "$1" -A trust -U postgres --no-sync --data-checksums > /dev/null
    { cat; printf "fsync = off\nlisten_addresses = ''\nport = %s\n" "$PGPORT"
      printf "unix_socket_directories = '%s'\nshared_buffers = 32MB\n" "$PGHOST"; } >> "$1/postgresql.conf"
}
start_cluster() { # DATA
    as_postgres "$programs/pg_ctl" -D "$1" -w -t 60 -l "$PGHOST/log" start > /dev/null \
        || fail "the cluster does not start: $(tail -20 "$PGHOST/log")"
    servers+=("$(head -1 "$1/postmaster.pid")")
    await writable
}
writable() { [ "$(sql 'select pg_is_in_recovery()')" = f ]; }
stop_cluster() { as_postgres "$programs/pg_ctl" -D "$1" -w -t 60 -m fast stop > /dev/null; servers=(); }

fill() {
    sql "create table big as select i, repeat(md5(i::text), 8) t from generate_series(1, 40000) i;
         create index on big(i); create table small(id int primary key, v bigint);
         insert into small select i, 0 from generate_series(1, 2000) i; checkpoint"
}
work() { # NUMBER
    sql "update small set v = v + $1 where id % 3 = 0; delete from big where i % 50 = $1;
         insert into big select 900000 + i, 'work $1' from generate_series(1, 500) i; checkpoint"
}
content() {
    sql "select count(*), sum(v), md5(string_agg(id || ':' || v, ',' order by id)) from small
         union all select count(*), sum(i), md5(string_agg(t, ',' order by i, t)) from big"
}
