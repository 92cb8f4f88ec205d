#!/bin/sh
#SBATCH --job-name=tutee-search
#SBATCH --cpus-per-task=2
#SBATCH --mem=4G
#SBATCH --time=01:00:00
#SBATCH --output=tutee-%A_%a.log
# One search, its candidates spread over the nodes: each round is an array job.
#
#   tutee search plan teacher.onnx -o JOBS --target-size 20x --calib inputs.npz --jobs 16
#   sh search.sh JOBS student.onnx [OPTIONS…]
#
# The second command stays until the student is there (put it into tmux, or submit it as a job itself). The folder JOBS must be seen
# by all nodes. OPTIONS go to `tutee search merge` (--test, --report …); TUTEE is the command, SUBMIT what submits an array and
# waits for its end: `sbatch --wait`, or `sh local.sh` to do its tasks on this machine. What was interrupted goes on where it
# was; a task that fails is done again in the next round.
#
# It was run with Slurm 22.05, on one machine; a test runs it with local.sh.
set -eu
jobs=$1 tutee=${TUTEE:-tutee}
if [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then
    job=$(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" "$jobs/round")
    exec "$tutee" search run "$jobs/$job" --threads "${SLURM_CPUS_PER_TASK:-1}"
fi
student=$2
shift 2
while [ -s "$jobs/round" ]; do
    last=$(($(wc -l < "$jobs/round") - 1))
    ${SUBMIT:-sbatch --wait} --array="0-$last" "$0" "$jobs" || echo "search.sh: a task failed" >&2
    "$tutee" search merge "$jobs" -o "$student" "$@"
done
