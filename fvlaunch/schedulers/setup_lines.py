"""Owns how the shell lines of a profile's `setup` run: in the shell of the job, and a line that fails ends the job. Must not run anything.

A line fails by its exit status, where `set -e` would say so: not in an `if`, before `||` or `&&`, or after `set +e`. More counts than for
`set -e`: what prepares the environment (`module`, `source`, `conda`, `cd` ...) fails before `&&`, too, where no `||` follows; a line whose
`exec` would put another program in the job's place is a failure, and so is a program that is not there and whose status bash drops, as in
`eval "$(gone hook)"`. What functions and sourced files do inside is their own matter, as their authors did not write them for `set -e`:
only the status that they return counts.

Not seen, as by `set -e`: a program that is there and fails in `export X=$(...)`, in `eval "$(...)"` or in `<(...)`; all but the last of a
pipeline without pipefail; what is in the background; the first command after `trap - ERR`.
"""

from __future__ import annotations

import shlex
from pathlib import Path

MODULE_ERROR = r"^ *(Module[A-Za-z_]*\.c\([0-9]+\):)?ERROR:|^Lmod has detected the following error"
"""What environment modules print when they fail; versions before 4 end with 0 all the same."""

_GUARDED = r"""IFS= read -r -d '' fvlaunch_setup <<'@END@' || :
@SETUP@
@END@
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
    tail -c "+$((fvlaunch_size + 1))" /proc/$$/fd/2 2>/dev/null | grep -Eq @MODULE_ERROR@ || return 0
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
    @VERDICT@
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
    fvlaunch_failed fvlaunch_subshell_failed fvlaunch_ended fvlaunch_over"""


def guarded(setup: str, verdict: Path | None = None) -> str:
    """Return bash text that runs a profile's shell lines, and ends the shell where one of them fails: with the line's exit code, after
    saying so on stderr and, where it is given, in the file `verdict`. Empty where there are no lines."""
    setup = setup.strip("\n")
    if not setup.strip():
        return ""
    end = "END_OF_SETUP"
    while end in setup.splitlines():
        end += "_"
    words = f"printf '%s\\n' \"$fvlaunch_words\" >{shlex.quote(str(verdict))}" if verdict is not None else ":"
    text = _GUARDED.replace("@MODULE_ERROR@", shlex.quote(MODULE_ERROR)).replace("@VERDICT@", words).replace("@END@", end)
    return text.replace("@SETUP@", setup)
