#!/bin/sh
# Runs every recipe here on its model and prints what it cost: run.sh DATA_FOLDER [NAME...]; MACs are a share of the
# teacher's, of networks with exits on average. Then student-net.sh, if no name or `student-net` is given.
# The folder has the teachers, and for each data set a folder with train.npz, calib.npz and test.npz. `jq` reads the reports.
set -eu
data=$1
shift
here=$(dirname "$0")
tutee=${TUTEE:-tutee}
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
for name in "$@"; do
    if [ "$name" != student-net ] && [ ! -f "$here/$name.toml" ]; then
        echo "run.sh: there is no recipe $name in $here" >&2
        exit 1
    fi
done
printf '%-44s %8s %8s %10s %10s %6s %8s\n' recipe before after parameters bytes MACs seconds
for recipe in "$here"/*.toml; do
    name=$(basename "$recipe" .toml)
    case " $* " in "  " | *" $name "*) ;; *) continue ;; esac
    model=${name%%-*}
    case $model in
        teacher_cnn) set_=cifar10 norm="--mean 0.4914,0.4822,0.4465 --std 0.2470,0.2435,0.2616" ;;
        resnet_small_bn) set_=fashion_mnist norm="--mean 0.2860 --std 0.3530" ;;
        *) set_=mnist norm="--mean 0.1307 --std 0.3081" ;;
    esac
    train=
    if grep -qE 'distill|early-exit' "$recipe"; then train="--train $data/$set_/train.npz"; fi
    start=$(date +%s)
    # shellcheck disable=SC2086
    "$tutee" compress "$data/$model.onnx" -o "$out/student.onnx" -r "$recipe" -q --calib "$data/$set_/calib.npz" \
        $train --scale 1/255 $norm
    end=$(date +%s)
    # shellcheck disable=SC2086
    "$tutee" check "$data/$model.onnx" "$out/student.onnx" --data "$data/$set_/test.npz" --scale 1/255 $norm -q --json \
        >"$out/check.json"
    jq -r --arg name "$name" --arg seconds $((end - start)) '[$name, .teacher.top1, .student.top1, .student.parameters,
        .student.bytes, (.exits.mean_macs // .student.macs) / .teacher.macs, $seconds] | @tsv' "$out/check.json" |
        while IFS="$(printf '\t')" read -r name before after parameters bytes macs seconds; do
            printf '%-44s %8s %8s %10s %10s %6.3f %8s\n' "$name" "$before" "$after" "$parameters" "$bytes" "$macs" "$seconds"
        done
done
case " $* " in "  " | *" student-net "*) "$here/student-net.sh" "$data" ;; esac
