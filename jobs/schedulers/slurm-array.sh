#!/bin/bash
# One task for each day's folder, each a job of its own; days.txt holds one name such as 2026-11-01 a line:
#
#     sbatch --array=1-$(wc -l < days.txt) slurm-array.sh days.txt
#
#SBATCH --job-name=xbatch
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=8
#SBATCH --mem=64G
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=xbatch-%A_%a.log
# SIGTERM comes 120 s before the time is over: enough to drain.
#SBATCH --signal=B:TERM@120

set -u
day=$(sed -n "${SLURM_ARRAY_TASK_ID}p" "$1")
export IN="s3://in/$day/" OUT="s3://out/$day/"

# In the background, so that bash hands SIGTERM on at once.
xbatch run "${JOB:-jobs/nightly-s3.yaml}" --deadline 3h50m &
child=$!
trap 'kill -TERM "$child"' TERM INT
wait "$child"
code=$?
if ((code > 128)) && kill -0 "$child" 2>/dev/null; then # the wait was interrupted by the signal, not xbatch
    wait "$child"
    code=$?
fi

case $code in
0) echo "$day is complete" ;;
75) # interrupted: the same task once more, it goes on where it was
    scontrol requeue "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}" && exit 0 ;;
1) echo "$day: more rows failed than allowed; look at them, then --retry-failed" >&2 ;;
2) echo "$day: the job can't be used as it is" >&2 ;;
3) echo "$day: the engine could not be kept running; progress is kept" >&2 ;;
4) echo "$day: storage failed for good; progress is kept" >&2 ;;
*) echo "$day: exit code $code; progress is kept" >&2 ;;
esac
exit "$code"
