#!/bin/sh
# Trains a new StudentNet on CIFAR-10 from labels alone, with a teacher, and with two, as many steps each:
# student-net.sh DATA_FOLDER. The second teacher is teacher_cnn's own student by the recipe of half its width. The folder is that
# of run.sh. `jq` reads the checks.
set -eu
data=$1
here=$(dirname "$0")
tutee=${TUTEE:-tutee}
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
norm="--scale 1/255 --mean 0.4914,0.4822,0.4465 --std 0.2470,0.2435,0.2616"
big=$data/teacher_cnn.onnx
"$tutee" new student-net --base 16 --classes 10 --input 3x32x32 -o "$out/new.onnx" >/dev/null
# shellcheck disable=SC2086
"$tutee" compress "$big" -o "$out/half.onnx" -r "$here/teacher_cnn-width-0.5-convs-4-7-distilled.toml" -q \
    --calib "$data/cifar10/calib.npz" --train "$data/cifar10/train.npz" $norm
printf '%8s %8s %10s %10s %8s\n' teachers top1 parameters bytes seconds
for teachers in "" "--teacher $big" "--teacher $big --teacher $out/half.onnx"; do
    start=$(date +%s)
    # shellcheck disable=SC2086
    "$tutee" distill "$out/new.onnx" $teachers --train "$data/cifar10/train.npz" $norm -o "$out/student.onnx" -q \
        -s epochs=15,augment=flip,augment=crop:4
    end=$(date +%s)
    # shellcheck disable=SC2086
    "$tutee" check "$big" "$out/student.onnx" --data "$data/cifar10/test.npz" $norm -q --json >"$out/check.json"
    count=$(($(echo "$teachers" | wc -w) / 2))
    jq -r --arg count $count --arg seconds $((end - start)) '[$count, .student.top1, .student.parameters, .student.bytes,
        $seconds] | @tsv' "$out/check.json" |
        while IFS="$(printf '\t')" read -r count top1 parameters bytes seconds; do
            printf '%8s %8.4f %10s %10s %8s\n' "$count" "$top1" "$parameters" "$bytes" "$seconds"
        done
done
