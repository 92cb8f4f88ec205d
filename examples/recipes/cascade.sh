#!/bin/sh
# Puts teacher_cnn behind a student of its own, at several losses: cascade.sh DATA_FOLDER [RECIPE]
# The student is that of a recipe here: teacher_cnn-separate-3 (three depthwise + pointwise terms, without training) if none is
# named; teacher_cnn-separate-2-distilled is a better one. The folder is that of run.sh. MACs are the mean, as a share of the
# teacher's. `jq` reads the checks.
set -eu
data=$1
recipe=${2:-teacher_cnn-separate-3}
here=$(dirname "$0")
tutee=${TUTEE:-tutee}
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
norm="--scale 1/255 --mean 0.4914,0.4822,0.4465 --std 0.2470,0.2435,0.2616"
big=$data/teacher_cnn.onnx
train=
if grep -q distill "$here/$recipe.toml"; then train="--train $data/cifar10/train.npz"; fi
# shellcheck disable=SC2086
"$tutee" compress "$big" -o "$out/small.onnx" -r "$here/$recipe.toml" -q --calib "$data/cifar10/calib.npz" $train $norm
printf '%8s %8s %8s %6s %6s\n' max-drop before after MACs leave
for drop in 0.25% 0.5% 1% 1.5% 2% 3%; do
    # shellcheck disable=SC2086
    "$tutee" cascade "$out/small.onnx" "$big" -o "$out/both.onnx" --max-drop $drop --train "$data/cifar10/train.npz" $norm -q ||
        continue
    # shellcheck disable=SC2086
    "$tutee" check "$big" "$out/both.onnx" --data "$data/cifar10/test.npz" $norm -q --json >"$out/check.json"
    jq -r --arg drop "$drop" '[$drop, .teacher.top1, .student.top1, .exits.mean_macs / .teacher.macs,
        .exits.ends[0].share] | @tsv' "$out/check.json" |
        while IFS="$(printf '\t')" read -r drop before after macs leave; do
            printf '%8s %8.4f %8.4f %6.3f %6.3f\n' "$drop" "$before" "$after" "$macs" "$leave"
        done
done
