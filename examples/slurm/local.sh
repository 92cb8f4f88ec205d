#!/bin/sh
# Does the tasks of an array on this machine, as many at the same time as WORKERS says (2 unless set):
#
#   sh local.sh --array=0-LAST SCRIPT [ARGUMENTS…]
set -eu
last=${1#--array=0-}
shift
seq 0 "$last" | xargs -P "${WORKERS:-2}" -I {} env SLURM_ARRAY_TASK_ID={} sh "$@"
