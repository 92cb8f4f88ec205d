#!/bin/sh
#SBATCH --job-name=tutee
#SBATCH --cpus-per-task=2
#SBATCH --mem=4G
#SBATCH --time=01:00:00
#SBATCH --output=tutee-%A_%a.log
# Every recipe on every model of two folders, one task each:
#
#   sbatch --array="0-$(sh array.sh MODELS RECIPES)" array.sh MODELS RECIPES [OPTIONS…]
#
# Without a task, as in the brackets, it prints the number of the last one. The folders must be seen by all nodes, and stay as they
# are until the job ends. OPTIONS go to `tutee compress` (--calib, --test, --scale …); TUTEE is the command. Students are
# students/MODEL/RECIPE.onnx in the folder of the job. A task may run twice: files appear whole, with the same bytes. A missed
# target ends a task with exit code 2, and its student is written.
#
# It was run with Slurm 22.05, on one machine; a test runs it without, with SLURM_ARRAY_TASK_ID set.
set -eu
models=$1 recipes=$2
shift 2
number=0
for model in "$models"/*.onnx; do
    for recipe in "$recipes"/*.toml; do
        if [ "$number" = "${SLURM_ARRAY_TASK_ID:-}" ]; then
            student=students/$(basename "$model" .onnx)/$(basename "$recipe" .toml)
            mkdir -p "$(dirname "$student")"
            exec "${TUTEE:-tutee}" compress "$model" -o "$student.onnx" -r "$recipe" --report "$student.json" \
                --threads "${SLURM_CPUS_PER_TASK:-1}" "$@"
        fi
        number=$((number + 1))
    done
done
if [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then
    echo "array.sh: there is no task $SLURM_ARRAY_TASK_ID, the last is $((number - 1))" >&2
    exit 1
fi
echo $((number - 1))
