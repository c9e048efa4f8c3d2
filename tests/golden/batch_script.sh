#!/bin/bash

# Parameters
#SBATCH --chdir=/shared/runs/run-1/job/0123456789abcdef
#SBATCH --comment='project x fvlaunch:0123456789abcdef'
#SBATCH --cpus-per-task=32
#SBATCH --exclusive
#SBATCH --gpus-per-node=4
#SBATCH --job-name=run-1
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/shared/runs/run-1/job/0123456789abcdef/%j_0_log.out
#SBATCH --partition=main
#SBATCH --requeue
#SBATCH --signal=USR2@120
#SBATCH --time=1-00:00:00

# setup
umask 077
export PYTHONPATH=/shared/runs/run-1/code${PYTHONPATH:+:$PYTHONPATH}
export NCCL_DEBUG=WARN
export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-32}"
# The job finds its pickle by its own id, whoever submits this script and whatever became of them.
[ -e /shared/runs/run-1/job/0123456789abcdef/"${SLURM_JOB_ID}_submitted.pkl" ] || ln -s submitted.pkl /shared/runs/run-1/job/0123456789abcdef/"${SLURM_JOB_ID}_submitted.pkl"

# setup of the cluster profile
module load cuda
source activate

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output /shared/runs/run-1/job/0123456789abcdef/%j_%t_log.out --kill-on-bad-exit=0 --mpi=none /opt/venv/bin/python -u -m submitit.core._submit /shared/runs/run-1/job/0123456789abcdef


# teardown
code=$?
# An agent that ends in order leaves its word. Where all ended without one (killed, their node lost), the job gets another
# life, unless somebody is ending it: then it is not RUNNING any more.
if [ "$code" -ne 0 ] && [ ! -e /shared/runs/run-1/job/0123456789abcdef/"said.${SLURM_RESTART_COUNT:-0}" ]; then
    if scontrol show job "$SLURM_JOB_ID" | grep -q 'JobState=RUNNING'; then
        echo "fvlaunch: the agents ended without a word (srun: $code); requeueing the job" >&2
        scontrol requeue "$SLURM_JOB_ID"
    fi
fi
exit "$code"
