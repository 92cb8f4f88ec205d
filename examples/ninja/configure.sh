#!/bin/sh
# Writes build.ninja into the current folder: every recipe on every model that is named.
#
#   TUTEE=tutee sh configure.sh teacher.onnx other.onnx && ninja
#
# ninja runs as many at once as there are cores, so that each takes one thread. A second run does nothing; a model, its
# external data or a recipe that changed makes what was made from it again (depfile).
set -eu
here=$(cd "$(dirname "$0")" && pwd)
{
    echo "tutee = ${TUTEE:-tutee}"
    # Exit code 2 (a missed target) writes the student all the same; a recipe with best-effort asks for that.
    echo 'rule compress'
    echo '  command = $tutee compress $in -o $out -r $recipe --depfile $out.d --threads 1 --quiet || [ $$? -eq 2 ]'
    echo '  depfile = $out.d'
    echo '  deps = gcc'
    echo '  description = $out'
    for model in "$@"; do
        name=$(basename "$model" .onnx)
        for recipe in "$here"/recipes/*.toml; do
            echo "build students/$name/$(basename "$recipe" .toml).onnx: compress $model | $recipe"
            echo "  recipe = $recipe"
        done
    done
} > build.ninja
