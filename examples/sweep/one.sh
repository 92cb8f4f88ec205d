#!/bin/sh
# One model, one recipe: one.sh MODEL RECIPE STUDENT [OPTIONS…]; STUDENT is a path without an ending. Writes the student, its
# report, what it was made from (.d), and a row for the table: student, bytes before and after, times smaller.
set -eu
model=$1 recipe=$2 student=$3
shift 3
"${TUTEE:-tutee}" compress "$model" -o "$student.onnx" -r "$recipe" --report "$student.html" --depfile "$student.d" \
    --threads 1 --quiet "$@" || [ $? -eq 2 ]
before=$(wc -c < "$model") after=$(wc -c < "$student.onnx")
awk -v name="$student" -v before="$before" -v after="$after" \
    'BEGIN { printf "%s\t%d\t%d\t%.2f\n", name, before, after, before / after }' > "$student.tsv"
