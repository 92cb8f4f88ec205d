#!/bin/sh
# Writes build.ninja into the current folder: every recipe on every model that is named, and a table of all students.
#
#   sh configure.sh teacher.onnx other.onnx && ninja && cat table.tsv
#
# TUTEE is the command, RECIPES the folder of recipes (`recipes` beside this file unless set), OPTIONS what all runs are given
# (--calib, --test, --scale …). Students are students/MODEL/RECIPE.onnx, each with its report as a page. A missed target is
# in the report, and no failure. After a run that fails, `ninja -k 0` goes on with the others.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
recipes=${RECIPES:-$here/recipes}

# A path as ninja reads it.
path() { printf '%s' "$1" | sed 's/[$ :]/$&/g'; }

{
    echo 'rule compress'
    echo "  command = TUTEE=\"${TUTEE:-tutee}\" sh \"$(path "$here")/one.sh\" \$in \"\$student\" ${OPTIONS:-}"
    echo '  depfile = $student.d'
    echo '  deps = gcc'
    echo '  description = $student'
    echo 'rule table'
    echo '  command = cat $in > $out'
    echo '  description = $out'
    rows=
    for model in "$@"; do
        for recipe in "$recipes"/*.toml; do
            student=$(path "students/$(basename "$model" .onnx)/$(basename "$recipe" .toml)")
            echo "build $student.onnx | $student.tsv: compress $(path "$model") $(path "$recipe") | $(path "$here")/one.sh"
            echo "  student = $student"
            rows="$rows $student.tsv"
        done
    done
    echo "build table.tsv: table$rows"
} > build.ninja
