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
export TRAINER_UMASK=$(umask) # for what a job makes to be given away
umask 077
PYTHONPATH=/shared/runs/run-1/code:${PYTHONPATH-}
while [[ $PYTHONPATH == *::* ]]; do PYTHONPATH=${PYTHONPATH//::/:}; done # to Python, an empty part is the working directory
export PYTHONPATH=${PYTHONPATH%:}
unset PYTHONINSPECT # with it, what failed ends with 0
export NCCL_DEBUG=WARN
export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-32}"
# The job finds its pickle by its own id, whoever submits this script and whatever became of them.
[ -e /shared/runs/run-1/job/0123456789abcdef/"${SLURM_JOB_ID}_submitted.pkl" ] || ln -s submitted.pkl /shared/runs/run-1/job/0123456789abcdef/"${SLURM_JOB_ID}_submitted.pkl"

# setup of the cluster profile
module load cuda
source activate
# Whatever of the shell this job was given (--export), srun hands on all that is set here.
unset SLURM_EXPORT_ENV

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output /shared/runs/run-1/job/0123456789abcdef/%j_%t_log.out --kill-on-bad-exit=0 --mpi=none /opt/venv/bin/python -u -c 'import sys; sys.path[:] = [part for part in sys.path if part]; name = sys.argv.pop(1); import runpy; runpy.run_module(name, run_name='"'"'__main__'"'"', alter_sys=True)' submitit.core._submit /shared/runs/run-1/job/0123456789abcdef


# teardown
code=$?
# The head agent leaves its word when it ends: what is to follow, where only this script can do it (outside a container, or by a new
# job), and the nodes to stay away from. Where all agents ended without a word (killed, their node lost) the job goes on, unless
# somebody is ending it: then it is not RUNNING any more.
word=/shared/runs/run-1/job/0123456789abcdef/"said.$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}"
next= exclude= told=
if [ -e "$word" ]; then
    { read -r next; read -r exclude; } <"$word" || :
elif [ "$code" -ne 0 ]; then
    echo "fvlaunch: the agents ended without a word (srun: $code)" >&2
    next=ask
    ls /shared/runs/run-1/job/0123456789abcdef/../../attempts/*.jsonl 2>/dev/null | wc -l >>/shared/runs/run-1/job/0123456789abcdef/wordless
    if [ "$(tail -n 5 /shared/runs/run-1/job/0123456789abcdef/wordless | uniq -c | awk 'NR == 1 { print $1 }')" = 5 ]; then
        echo "fvlaunch: five times in a row no attempt was even begun; not again" >&2
        next=
    fi
fi
if [ "$next" = ask ]; then
    next=
    told=$(scontrol show job "$SLURM_JOB_ID") || :
    if grep -Eq '^ *JobState=RUNNING ' <<<"$told"; then
        next=requeue
    fi
fi
if [ "$next" = requeue ]; then
    echo "fvlaunch: requeueing the job" >&2
    scontrol requeue "$SLURM_JOB_ID"
elif [ "$next" = resubmit ]; then
    touch /shared/runs/run-1/job/0123456789abcdef/"handover.$SLURM_JOB_ID"
    job=$SLURM_JOB_ID
    ( # as from a login node: what this job was given must not reach the next one
        for name in $(compgen -e | grep -E '^(SLURM|SBATCH|SRUN|PMI|PMIX|SUBMITIT)_' | grep -vx SLURM_CONF); do unset "$name"; done
        cd /
        for pause in 0 5 30; do
            sleep "$pause"
            # A reply of sbatch may be lost: a job that is there already is not submitted again.
            waiting=$(squeue --me --noheader --states=PENDING,CONFIGURING,RUNNING --format='%i %k') || continue
            if grep -v "^$job " <<<"$waiting" | grep -q 'fvlaunch:0123456789abcdef'; then break; fi
            grep -vE '^#SBATCH --(begin|dependency|hold)\b' /shared/runs/run-1/job/0123456789abcdef/submission.sh | sbatch --parsable ${exclude:+"--exclude=$exclude"} && break
        done
    )
fi
exit "$code"
