# Sourced by every NAME.sh, which is run as: NAME.sh backup|restore REPOSITORY LOCAL [VARIANT]
# A script defines a function for each half and ends with "$phase". LOCAL is not on the mount and outlives
# both halves. Any command that fails ends it; servers are ended by their process ids.
set -Eeuo pipefail
phase=$1 repository=$2 local=$3 variant=${4:-}
export LC_ALL=C.UTF-8 TZ=UTC HOME="$local"
servers=()

fail() { echo "failed: $*" >&2; exit 1; }
trap 'echo "line $LINENO: $BASH_COMMAND" >&2' ERR
trap 'for server in "${servers[@]}"; do kill "$server" 2> /dev/null || true; done' EXIT

# Waits until a command succeeds, for 30 seconds.
await() { local i; for i in $(seq 300); do "$@" > /dev/null 2>&1 && return; sleep 0.1; done; fail "waited for: $*"; }

# A tree with what trees have: sizes around the block sizes, holes, links, modes, times, odd names.
sample() { # DIRECTORY
    mkdir -p "$1/many" "$1/deep/er/still" "$1/empty"
    head -c 6000000 /dev/urandom > "$1/random"
    seq 1 700000 > "$1/numbers"
    : > "$1/nothing"
    truncate -s 5M "$1/holes"
    printf 'in the middle' | dd of="$1/holes" bs=1 seek=3000000 conv=notrunc status=none
    local i; for i in $(seq 1 150); do head -c $((i * 61)) /dev/urandom > "$1/many/$i"; done
    printf 'x' > "$1/deep/er/still/spaces and ünïcode"
    ln -s ../random "$1/deep/symlink"; ln -s /nowhere "$1/deep/dangling"
    ln "$1/many/1" "$1/deep/hard link"
    chmod 600 "$1/many/2"; chmod 4755 "$1/many/3"; chmod 750 "$1/deep/er"
    touch -h -d '2002-03-04 05:06:07.123456789' "$1/many/4" "$1/deep/dangling"
    touch -d '1999-12-31 23:59:59.5' "$1/empty"
}

# What a day does to it.
change() { # DIRECTORY
    dd if=/dev/urandom of="$1/random" bs=1000 seek=1234 count=300 conv=notrunc status=none
    seq 1 5000 >> "$1/numbers"
    rm "$1/many/10" "$1/many/11"; mv "$1/many/12" "$1/deep/moved"
    head -c 300000 /dev/urandom > "$1/deep/new"
    chmod 640 "$1/many/5"
}

# Every name with kind, mode, size, time and target; content of every file.
describe() { # DIRECTORY
    (cd "$1" && find . -mindepth 1 \( -type d -printf '%P %y %m\n' -o -type l -printf '%P %y %l\n' \
        -o -printf '%P %y %m %s %T@\n' \) | sort && find . -type f -print0 | sort -z | xargs -0 sha256sum)
}

same() { # DIRECTORY DIRECTORY
    diff <(describe "$1") <(describe "$2") | head -20 || fail "$1 and $2 differ"
}
