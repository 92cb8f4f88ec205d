#!/bin/sh
# Coverage-guided fuzzing:
#
#   fuzz/run.sh SECONDS [TARGET…]
#
# It takes so many seconds for each target (all of them unless some are named), one process at a time, and goes on after a finding.
# What it finds lies in fuzz/artifacts/TARGET, and the exit code is then 1; `cargo +nightly fuzz run TARGET FILE` shows one. The
# corpus is made anew where there is none, and grows. It needs a nightly toolchain, cargo-fuzz (cargo install cargo-fuzz) and, for
# the corpus, Python with onnx, numpy and Pillow. `state` needs a build with all features: FEATURES=exec fuzz/run.sh 60 state.
set -eu
cd "$(dirname "$0")"
seconds=${1:?fuzz/run.sh SECONDS [TARGET…]}
shift
[ $# -gt 0 ] || set -- decode text recipe arrays images compress
[ -d corpus ] || python3 corpus.py
cargo +nightly fuzz build -s none ${FEATURES:+--features "$FEATURES"}
bin=target/$(rustc +nightly -vV | sed -n 's/^host: //p')/release
for target in "$@"; do
    mkdir -p "artifacts/$target" "corpus/$target"
    echo "== $target"
    # Findings are told apart by the place of the panic, in what is printed: artifacts/TARGET.log.
    nice -n 19 "$bin/$target" "corpus/$target" -artifact_prefix="artifacts/$target/" -max_total_time="$seconds" \
        -fork=1 -ignore_crashes=1 -ignore_timeouts=1 -ignore_ooms=1 -rss_limit_mb=4096 -timeout=20 -max_len=65536 \
        > "artifacts/$target.log" 2>&1 || true
    grep -h '^thread .* panicked at\|ERROR: libFuzzer' "artifacts/$target.log" | sed 's/([0-9]*) //' | sort | uniq -c | sort -rn || true
    tail -n 1 "artifacts/$target.log"
done
times | tail -n 1
found=$(find artifacts -mindepth 2 -type f | wc -l)
echo "$found findings in fuzz/artifacts"
[ "$found" = 0 ]
