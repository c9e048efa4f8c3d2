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
export NCCL_DEBUG=WARN
export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-32}"
# The job finds its pickle by its own id, whoever submits this script and whatever became of them.
[ -e /shared/runs/run-1/job/0123456789abcdef/"${SLURM_JOB_ID}_submitted.pkl" ] || ln -s submitted.pkl /shared/runs/run-1/job/0123456789abcdef/"${SLURM_JOB_ID}_submitted.pkl"
rm -f /shared/runs/run-1/job/0123456789abcdef/given_up
copy=/shared/runs/run-1/code
if [ ! -d "$copy/fvlaunch" ]; then # whatever fvlaunch python has would run in its place
    missing="the run's copy of the code is not there on ${SLURMD_NODENAME:-$(hostname)}: $copy"
    echo "fvlaunch: $missing" >&2
    printf '%s\n' "$missing" >/shared/runs/run-1/job/0123456789abcdef/given_up
    exit 1
fi

# setup of the cluster profile
IFS= read -r -d '' fvlaunch_setup <<'END_OF_SETUP' || :
module load cuda
source activate
END_OF_SETUP
fvlaunch_options=$(set +o) fvlaunch_line=1 fvlaunch_text='' fvlaunch_size=0 fvlaunch_lax='' fvlaunch_done='' fvlaunch_command=''
mapfile -t fvlaunch_lines <<<"$fvlaunch_setup"
fvlaunch_gone=$(mktemp 2>/dev/null) fvlaunch_subshell=$BASH_SUBSHELL
command_not_found_handle() { # NAME ...: also where bash drops the status, and in a child of the shell
    [ -z "$fvlaunch_gone" ] || printf '%s\n' "$1" >>"$fvlaunch_gone"
    printf '%s: line %s: %s: command not found\n' bash "${BASH_LINENO[0]}" "$1" >&2
    return 127
}
fvlaunch_before() { # before each command of the setup: STATUS of the one before, LINE, COMMAND, DEPTH
    [ "$4" = "$fvlaunch_depth" ] || return 0
    case $fvlaunch_command in 'trap '*ERR*) fvlaunch_join_traps ;; esac
    [ -z "$fvlaunch_gone" ] || [ ! -s "$fvlaunch_gone" ] || fvlaunch_not_found
    [ "$1" = 0 ] || fvlaunch_chain_failed "$1"
    fvlaunch_module_failed "$1"
    fvlaunch_command=$3
    case $3 in
    'exec '[!0-9\<\>\&{]*) fvlaunch_over 0 "$2" 'puts another program in the place of the job' ;;
    fvlaunch_* | *fvlaunch_depth*) return 0 ;;
    'set +e'* | 'set +o errexit'*) fvlaunch_lax=1 ;;
    'set -e'* | 'set -o errexit'*) fvlaunch_lax= ;;
    esac
    fvlaunch_line=$2 fvlaunch_text=${fvlaunch_lines[$2 - 1]-}
    case $fvlaunch_text in 'module '* | 'ml '*) fvlaunch_size=$(stat -Lc %s /proc/$$/fd/2 2>/dev/null) || fvlaunch_size= ;; esac
    return 0
}
fvlaunch_join_traps() { # the profile's own trap on ERR, and then ours
    eval "set -- $(trap -p ERR)"
    case ${3-} in *fvlaunch_failed*) return 0 ;; esac
    trap "fvlaunch_status=\$? fvlaunch_at=\$LINENO; (exit \$fvlaunch_status)
${3-}
fvlaunch_failed \"\$fvlaunch_status\" \"\$fvlaunch_at\" \"\${#BASH_SOURCE[@]}\"" ERR
}
fvlaunch_not_found() { # a command before this one named a program that is not there
    local name names
    mapfile -t names <"$fvlaunch_gone"
    : >"$fvlaunch_gone"
    case $fvlaunch_lax$fvlaunch_text in *'||'* | *then* | *'if '* | *while* | *until* | *'!'* | *'&>'* | *'2>'* | 1*) return 0 ;; esac
    local text=${fvlaunch_text//( /(}
    for name in "${names[@]}"; do
        case $text in *"\$($name"* | *"<($name"* | *"\`$name"*) fvlaunch_over 127 "$fvlaunch_line" "used $name, which is not there" ;; esac
    done
    return 0
}
fvlaunch_chain_failed() { # STATUS of a command that failed, where `set -e` lets it
    case $fvlaunch_lax$fvlaunch_command in
    'module '* | 'ml '* | 'source '* | '. '* | 'conda '* | 'mamba '* | 'micromamba '* | 'spack '* | 'cd '*) ;;
    *) return 0 ;;
    esac
    local text=$fvlaunch_text line=$fvlaunch_line
    fvlaunch_group_may_end "$line" || return 0
    while [[ $text == *[\\\&] && $line -lt ${#fvlaunch_lines[@]} ]]; do text=${text%\\}${fvlaunch_lines[line]} line=$((line + 1)); done
    case $text in
    *'||'* | *then* | *'if '* | *while* | *until* | *'!'*) ;;
    *'&&'*) fvlaunch_over "$1" "$fvlaunch_line" "ended with exit code $1" ;;
    esac
}
fvlaunch_group_may_end() { # LINE in a group of lines: 1 where what stands behind the group lets it fail
    local line=$1 depth=0 text
    for text in "${fvlaunch_lines[@]:line}"; do
        text=${text#"${text%%[![:space:]]*}"}
        case $text in [\}\)]* | fi* | done* | esac*) depth=$((depth - 1)) ;; esac
        if [ "$depth" -lt 0 ]; then
            case $text in *'||'* | *'&&'* | *then* | *'; do'*) return 1 ;; esac
            depth=0
        fi
        case $text in *[\{\(] | *then | *do | *' in') depth=$((depth + 1)) ;; esac
    done
    return 0
}
fvlaunch_module_failed() { # STATUS of a command that may have printed an error and ended with 0
    case $1$fvlaunch_lax$fvlaunch_text in *'||'*) return 0 ;; '0module '* | '0ml '*) ;; *) return 0 ;; esac
    [ -f /proc/$$/fd/2 ] && [ -n "$fvlaunch_size" ] || return 0
    tail -c "+$((fvlaunch_size + 1))" /proc/$$/fd/2 2>/dev/null | grep -Eq '^ *(Module[A-Za-z_]*\.c\([0-9]+\):)?ERROR:|^Lmod has detected the following error' || return 0
    fvlaunch_over 1 "$fvlaunch_line" 'printed an error'
}
fvlaunch_failed() { # STATUS LINE DEPTH
    [ -z "$fvlaunch_lax" ] && [ "$3" = "$fvlaunch_depth" ] || return 0
    [ "$BASH_SUBSHELL" = "$fvlaunch_subshell" ] || fvlaunch_subshell_failed "$1" "$2"
    [ "$BASH_SUBSHELL" = "$fvlaunch_subshell" ] || return 0
    fvlaunch_over "$1" "$2" "ended with exit code $1"
}
fvlaunch_subshell_failed() { # STATUS LINE: a group in parentheses ends with it, as by `set -e`; what is substituted goes on
    local text lines=${fvlaunch_command//[!$'\n']/}
    if [ "$(($2 - fvlaunch_line))" -le "${#lines}" ]; then
        case $fvlaunch_command in *'$('* | *'<('* | *'>('* | *'`'*) return 0 ;; esac
    fi
    for text in "${fvlaunch_lines[@]:fvlaunch_line - 1:$2 - fvlaunch_line + 1}"; do case $text in *'set +e'* | *'|'*) return 0 ;; esac done
    trap - EXIT
    exit "$1"
}
fvlaunch_ended() { # STATUS: by `exit`, or as bash gave up; who ends the job (SIGTERM) knows why
    [ "$1" = 143 ] || fvlaunch_over "$1" "$fvlaunch_line" "ended the job with exit code $1"
}
fvlaunch_over() { # STATUS LINE WHAT
    trap - DEBUG ERR EXIT
    [ -z "$fvlaunch_gone" ] || rm -f "$fvlaunch_gone"
    fvlaunch_line=$2
    while [[ $fvlaunch_line -gt 1 && ${fvlaunch_lines[fvlaunch_line - 2]} == *\\ ]]; do fvlaunch_line=$((fvlaunch_line - 1)); done
    fvlaunch_text=${fvlaunch_lines[fvlaunch_line - 1]-}
    fvlaunch_words="line $fvlaunch_line of setup $3: ${fvlaunch_text#"${fvlaunch_text%%[![:space:]]*}"}"
    echo "fvlaunch: $fvlaunch_words" >&2
    printf '%s\n' "$fvlaunch_words" >/shared/runs/run-1/job/0123456789abcdef/given_up
    exit "$(($1 ? $1 : 1))"
}
trap 'fvlaunch_ended "$?"' EXIT
source <(printf '%s' 'set -E; fvlaunch_depth=${#BASH_SOURCE[@]}; trap '\''fvlaunch_failed "$?" "$LINENO" "${#BASH_SOURCE[@]}"'\'' ERR; ' \
    'trap '\''fvlaunch_before "$?" "$LINENO" "$BASH_COMMAND" "${#BASH_SOURCE[@]}"'\'' DEBUG; ' "$fvlaunch_setup" $'\nfvlaunch_done=1\n')
fvlaunch_code=$?
trap - DEBUG ERR
[ -z "$fvlaunch_gone" ] || [ ! -s "$fvlaunch_gone" ] || fvlaunch_not_found
if [ -z "$fvlaunch_done" ] && case $fvlaunch_code$fvlaunch_text in 0*return*) false ;; esac then
    case $fvlaunch_text in *return*) fvlaunch_failed "$fvlaunch_code" "$fvlaunch_line" "$fvlaunch_depth" ;; esac
    fvlaunch_over "$fvlaunch_code" "$fvlaunch_line" 'is the last one before what bash cannot read'
fi
case $(trap -p EXIT) in *fvlaunch_ended*) trap - EXIT ;; esac
eval "$fvlaunch_options"
[ -z "$fvlaunch_gone" ] || rm -f "$fvlaunch_gone"
case $(declare -f command_not_found_handle) in *fvlaunch_gone*) unset -f command_not_found_handle ;; esac
unset "${!fvlaunch_@}"
unset -f fvlaunch_before fvlaunch_join_traps fvlaunch_not_found fvlaunch_chain_failed fvlaunch_group_may_end fvlaunch_module_failed \
    fvlaunch_failed fvlaunch_subshell_failed fvlaunch_ended fvlaunch_over
for program in srun grep tail find stat; do # an export list or a setup may have lost PATH
    command -v "$program" >/dev/null && continue
    missing="$program is not found on the PATH that export, env and setup leave to the job: ${PATH-}"
    echo "fvlaunch: $missing" >&2
    printf '%s\n' "$missing" >/shared/runs/run-1/job/0123456789abcdef/given_up
    exit 1
done
# The run's code comes first, whatever env and setup have made of the path.
PYTHONPATH=/shared/runs/run-1/code:${PYTHONPATH-}
while [[ $PYTHONPATH == *::* ]]; do PYTHONPATH=${PYTHONPATH//::/:}; done # to Python, an empty part is the working directory
export PYTHONPATH=${PYTHONPATH%:}
unset PYTHONINSPECT # with it, what failed ends with 0
# Whatever of the shell this job was given (--export), srun hands on all that is set here.
unset SLURM_EXPORT_ENV

# for what comes after srun: how much this job has printed, and how many attempts were begun, before this life of it
printed=$(stat -c %s /shared/runs/run-1/job/0123456789abcdef/"${SLURM_JOB_ID}_0_log.out" 2>/dev/null) || printed=0
begun=$(find /shared/runs/run-1/job/0123456789abcdef/../../attempts -name '*.jsonl' 2>/dev/null | wc -l)

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output /shared/runs/run-1/job/0123456789abcdef/%j_%t_log.out --kill-on-bad-exit=0 --mpi=none /opt/venv/bin/python -u -c 'import sys; sys.path[:] = [part for part in sys.path if part]; name = sys.argv.pop(1); import runpy; runpy.run_module(name, run_name='"'"'__main__'"'"', alter_sys=True)' submitit.core._submit /shared/runs/run-1/job/0123456789abcdef


# teardown
code=$?
# The head agent leaves its word when it ends: what is to follow, where only this script can do it (outside a container, or by a new
# job), and the nodes to stay away from. Where all agents ended without a word (killed, their node lost, never started) the job goes on,
# unless somebody is ending it (then it is not RUNNING any more), or that cannot help.
life=$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}
word=/shared/runs/run-1/job/0123456789abcdef/"said.$life"
next= exclude= told= cause= why= hopeless= uncounted=
if [ -e "$word" ]; then
    { read -r next; read -r exclude; } <"$word" || :
elif [ "$code" -ge 90 ] && [ "$code" -le 94 ]; then # the disk did not take the word, so the exit code is it
    case $code in 90) code=0 ;; 92) next=requeue ;; 93) next=resubmit ;; 94) next=ask ;; esac
    [ "$code" -eq 0 ] || code=1
else
    echo "fvlaunch: the agents ended without a word (srun: $code)" >&2
    next=ask
    output=$(tail -c "+$((printed + 1))" /shared/runs/run-1/job/0123456789abcdef/"${SLURM_JOB_ID}_0_log.out" 2>/dev/null | tail -c 65536 | tr -d '\000')
    if why=$(grep -aEi '^(slurmstepd|srun):.*(oom.kill|out of memory|memory limit)|^MemoryError|: cannot allocate memory' <<<"$output" | tail -n 1) && [ -n "$why" ]; then
        cause=out_of_memory
    elif [ "$(find /shared/runs/run-1/job/0123456789abcdef/../../attempts -name '*.jsonl' 2>/dev/null | wc -l)" != "$begun" ]; then
        cause=interrupted
    elif why=$(grep -aEo 'execve\(\): .*' <<<"$output" | tail -n 1) && [ -n "$why" ]; then
        cause=not_startable
    else
        cause=not_begun
        said=$(grep -aEv '^(fvlaunch:|srun: error: .*(Exited with exit code|Killed)|srun: (Force )?Terminat|slurmstepd.*\*\*\*|[[:space:]]*$)' <<<"$output")
        why=$(grep -aE '^[A-Za-z_.]*(Error|Exception)\b|error:' <<<"$said" | tail -n 1)
        [ -n "$why" ] || why=$(tail -n 1 <<<"$said")
    fi
    printf '%s\n%s\n' "$cause" "$why" >/shared/runs/run-1/job/0123456789abcdef/"died.$life"
    echo "$cause" >>/shared/runs/run-1/job/0123456789abcdef/wordless || uncounted=1
    case $cause in
    out_of_memory)
        times=$(grep -lx out_of_memory /shared/runs/run-1/job/0123456789abcdef/died.* | wc -l)
        [ "$times" -le 1 ] || hopeless="the agent itself ran out of memory $times times (limits.out_of_memory: 1), so mem of the profile is too small"
        ;;
    not_startable) hopeless="python cannot be started on ${SLURMD_NODENAME:-$(hostname)}" ;;
    not_begun)
        times=$(tail -n 3 /shared/runs/run-1/job/0123456789abcdef/wordless | grep -cx not_begun)
        if [ "$times" -ge 3 ]; then
            hopeless="$times starts in a row ended before an attempt was begun (limits.starts_without_progress: 3)"
        elif [ "$code" -lt 128 ] && ! grep -aEqi 'timed out|connection|communication|node fail|launch failed|socket|temporarily|stale file handle|input/output error|already completing or completed|job is pending execution|slurm job [0-9]+ has expired' <<<"$output" &&
            [ -z "$(find /shared/runs/run-1/job/0123456789abcdef/../../attempts -name '*.jsonl' -newer /shared/runs/run-1/job/0123456789abcdef/submission.sh 2>/dev/null)" ]; then
            hopeless="the agents ended with exit code $code before an attempt was begun"
        fi
        ;;
    esac
    # lives that nobody counts would go on for ever
    if [ -n "$uncounted" ] && [ "$cause" != interrupted ] && [ "${SLURM_RESTART_COUNT:-0}" -ge 3 ]; then
        hopeless=${hopeless:-the agents ended before an attempt was begun, and the disk of the run does not take a word of it}
    fi
    [ "$code" -ne 0 ] || code=1
fi
answered() { # scontrol, again where nobody answers: a job outlives its controller, and nobody takes its nodes meanwhile
    for pause in 0 5 30 60 120 300; do
        sleep "$pause"
        told=$(scontrol "$@" 2>&1) && return
        echo "$told" >&2
        grep -Eq 'contact|timed out|Unexpected message|Zero Bytes|refused|reset|[Mm]unge' <<<"$told" || return 0
    done
}
if [ "$next" = ask ]; then
    next=
    answered show job "$SLURM_JOB_ID"
    if grep -Eq '^ *JobState=RUNNING ' <<<"$told"; then
        next=requeue
        if [ -n "$hopeless" ]; then
            next=
            echo "fvlaunch: $hopeless${why:+: $why}; the job does not go on" >&2
            printf '%s\n' "$hopeless${why:+: $why}" >/shared/runs/run-1/job/0123456789abcdef/given_up
        fi
    fi
fi
if [ "$next" = requeue ]; then
    echo "fvlaunch: requeueing the job" >&2
    answered requeue "$SLURM_JOB_ID"
elif [ "$next" = resubmit ]; then
    # a name in place of another needs no room on a full disk
    touch /shared/runs/run-1/job/0123456789abcdef/"handover.$SLURM_JOB_ID" || mv "$word" /shared/runs/run-1/job/0123456789abcdef/"handover.$SLURM_JOB_ID"
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
