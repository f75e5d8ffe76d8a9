#!/usr/bin/env bash
# Runs the fuzz targets, each for some seconds, and fails when one finds something.
#
# libFuzzer by the compiler's own coverage pass, which a stable compiler has too; a C++ compiler is all
# it needs besides (the targets' layout is cargo-fuzz's, for who wants its sanitizers on a nightly one).
# What was learned stays in the cache as the next run's corpus.
#   SECONDS_EACH=60 TARGETS="url descriptor" tests/fuzz/run.sh
set -euo pipefail
cd "$(dirname "$0")"
cache="${STRONGROOM_CACHE:-$HOME/.cache/strongroom}/fuzz"
version="$(rustc --version | cut -d' ' -f2)"
host="$(rustc -vV | sed -n 's/^host: //p')"
read -ra targets <<< "${TARGETS:-$(sed -n 's/^name = "\(.*\)"$/\1/p' Cargo.toml | grep -v '^strongroom-fuzz$' | tr '\n' ' ')}"

# The flags are cargo-fuzz's, less the address sanitizer. With --target they are not for build scripts.
coverage=(-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 -Cdebug-assertions --cfg fuzzing)
binaries=()
for target in "${targets[@]}"; do binaries+=(--bin "$target"); done
CARGO_TARGET_DIR="$cache/target-$version" CARGO_INCREMENTAL=0 RUSTFLAGS="${coverage[*]}" \
    cargo build --release --locked --target "$host" "${binaries[@]}"

failed=()
for target in "${targets[@]}"; do
    export STRONGROOM_FUZZ_CORPUS="$cache/corpus/$target"
    findings="$cache/findings/$target"
    mkdir -p "$STRONGROOM_FUZZ_CORPUS" "$findings"
    log="$cache/$target.log"
    # 2 GiB and 10 s for an input: more is a finding too.
    if "$cache/target-$version/$host/release/$target" "$STRONGROOM_FUZZ_CORPUS" \
        -max_total_time="${SECONDS_EACH:-20}" -max_len=16384 -timeout=10 -rss_limit_mb=2048 \
        -artifact_prefix="$findings/" -print_final_stats=1 > "$log" 2>&1; then
        printf '%-14s %s\n' "$target" "$(sed -n 's/^Done \(.*\)$/\1/p' "$log"), $(grep -o 'cov: [0-9]*' "$log" | tail -1)"
    else
        failed+=("$target")
        echo "$target: FOUND SOMETHING:"
        grep -m1 -A3 'panicked at\|ERROR: libFuzzer' "$log" || tail -5 "$log"
        grep 'Test unit written' "$log" || true
    fi
done
if [ "${#failed[@]}" -gt 0 ]; then
    echo "findings of ${failed[*]} are under $cache/findings; run a target with the file to repeat one" >&2
    exit 1
fi
