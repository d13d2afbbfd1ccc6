#!/bin/bash
# Ten seeds as a Slurm array, each a run of its own that survives preemption and its time limit:
#   sbatch cluster/slurm.sh HalfCheetah-v5 --steps 1_000_000
#SBATCH --job-name=t3d
#SBATCH --array=0-9
#SBATCH --cpus-per-task=2
#SBATCH --mem=4G
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%A_%a.txt

# Slurm asks this shell alone (B:), two minutes before the limit; bash hears it while it waits, not while a child runs
# in the foreground.
run=
trap '[ -n "$run" ] && kill -TERM "$run"' TERM

t3d train "$@" --seed "$SLURM_ARRAY_TASK_ID" --threads "$SLURM_CPUS_PER_TASK" \
  --out "runs/slurm-$SLURM_ARRAY_JOB_ID/s$SLURM_ARRAY_TASK_ID" --resume auto --no-video &
run=$!

# A trapped signal ends `wait` early, with 143 too: wait again until the run itself has ended.
wait "$run"
code=$?
while kill -0 "$run" 2>/dev/null; do
  wait "$run"
  code=$?
done

# 143: stopped by SIGTERM and saved. Back into the queue, where the same command goes on.
if [ "$code" -eq 143 ]; then
  scontrol requeue "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"
fi
exit "$code"
