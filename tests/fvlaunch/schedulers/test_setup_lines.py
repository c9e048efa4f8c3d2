"""Which lines of a profile's `setup` end a job: those that `set -e` would end a script of one's own for, said by line and exit code."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from fvlaunch.schedulers.python_processes import after_setup
from fvlaunch.schedulers.setup_lines import guarded

OLD_MODULE = "module() { echo \"ModuleCmd_Load.c(213):ERROR:105: Unable to locate a modulefile for '$2'\" >&2; }\n"
"""Before version 4 it ends with 0 all the same."""


def run(setup: str, folder: Path, after: str = "echo after") -> tuple[int, str, str]:
    """(exit code, what was printed, the verdict) of a script with this setup and a line after it."""
    output, verdict = folder / "out", folder / "verdict"
    with output.open("wb") as out:
        script = f"{guarded(setup, verdict)}\n{after}\n"
        done = subprocess.run(["bash"], input=script.encode(), stdout=out, stderr=out, cwd=folder, timeout=60, check=False)
    return done.returncode, output.read_text(), verdict.read_text().strip() if verdict.exists() else ""


@pytest.mark.parametrize(
    ("setup", "code", "words"),
    [
        ("true\nfalse", 1, "line 2 of setup ended with exit code 1: false"),
        ("module() { return 1; }\nmodule load gone", 1, "line 2 of setup ended with exit code 1: module load gone"),
        ("source gone/activate", 1, "line 1 of setup ended with exit code 1: source gone/activate"),
        ("conda activate gone", 127, "line 1 of setup ended with exit code 127: conda activate gone"),
        ("true\nexit 3", 3, "line 2 of setup ended the job with exit code 3: exit 3"),
        ("exit 0", 1, "line 1 of setup ended the job with exit code 0: exit 0"),
        ("leave() { exit 4; }\nleave", 4, "line 2 of setup ended the job with exit code 4: leave"),
        ("return 5", 5, "line 1 of setup ended with exit code 5: return 5"),
        ("works() { true; return 6; }\n\nworks", 6, "line 3 of setup ended with exit code 6: works"),
        ("true | false", 1, "line 1 of setup ended with exit code 1: true | false"),
        ("set -o pipefail\nfalse | true", 1, "line 2 of setup ended with exit code 1: false | true"),
        ("set -u\nexport A=$GONE", 1, "line 2 of setup ended the job with exit code 1: export A=$GONE"),
        ("a=$(false)", 1, "line 1 of setup ended with exit code 1: a=$(false)"),
        ("(exit 7)", 7, "line 1 of setup ended with exit code 7: (exit 7)"),
        ("if true; then\n    false\nfi", 1, "line 2 of setup ended with exit code 1: false"),
        ("gone \\\n  --more", 127, "line 1 of setup ended with exit code 127: gone \\"),
        ("set +e\nfalse\nset -e\nfalse", 1, "line 4 of setup ended with exit code 1: false"),
        ("echo 'for ever", 2, "cannot read"),
        ("true\nif true; then", 2, "line 1 of setup is the last one before what bash cannot read: true"),
        (OLD_MODULE + "module load gone", 1, "line 2 of setup printed an error: module load gone"),
        (OLD_MODULE + "module load gone\ntrue", 1, "line 2 of setup printed an error: module load gone"),
        (
            "module() { return 1; }\nmodule load gone && source also",
            1,
            "line 2 of setup ended with exit code 1: module load gone && source",
        ),
        ("cd /gone && . x && true\ntrue", 1, "line 1 of setup ended with exit code 1: cd /gone"),
        ("true && \\\n  source gone && \\\n  true", 1, "ended with exit code 1: true && \\"),
        ("exec gone", 1, "line 1 of setup puts another program in the place of the job: exec gone"),
        ("if true; then\n  exec bash -l\nfi", 1, "line 2 of setup puts another program in the place of the job: exec bash -l"),
        ("true\ncat <<X >/dev/null\nfalse", 1, "line 2 of setup is the last one before what bash cannot read: cat <<X"),
        ("true\n(\n  false\n  true\n)", 1, "ended with exit code 1"),
        ("(\n  cd /gone\n  echo into the wrong folder\n)", 1, "ended with exit code 1"),
        ("x=$(date)\n(\n  false\n  true\n)\ntrue", 1, "ended with exit code 1"),
        ("( true\n ( false; true )\n true )\ntrue", 1, "ended with exit code 1"),
        ('true\neval "$(gone hook)"\ntrue', 127, 'line 2 of setup used gone, which is not there: eval "$(gone hook)"'),
        ("source <(gone completion)\ntrue", 127, "line 1 of setup used gone, which is not there: source <(gone completion)"),
        ("export X=$(gone --prefix)", 127, "line 1 of setup used gone, which is not there"),
        ("true\nexport X=`gone`/lib Y=$( gone )", 127, "line 2 of setup used gone, which is not there"),
        ("trap 'echo \"theirs $?\"' ERR\ntrue\nfalse\ntrue", 1, "line 3 of setup ended with exit code 1: false"),
        ("trap 'true' ERR\ntrap - ERR\ntrue\nfalse", 1, "line 4 of setup ended with exit code 1: false"),
        ("{\n  module load gone && true\n}", 127, "line 2 of setup ended with exit code 127"),
        ("cat <<'END_OF_SETUP' >/dev/null\nEND_OF_SETUP\nfalse", 1, "line 3 of setup ended with exit code 1: false"),
    ],
)
def test_a_line_that_fails_ends_the_job_with_its_code_and_is_named(tmp_path: Path, setup: str, code: int, words: str) -> None:
    ended, printed, verdict = run(setup, tmp_path)
    assert (ended, "after" in printed) == (code, False), printed
    assert words in verdict and f"fvlaunch: {verdict}" in printed


@pytest.mark.parametrize(
    "setup",
    [
        "if false; then true; fi\nfalse || true\n! true\nwhile false; do :; done\n[ -f gone ] && echo",
        "set +e\nfalse\nsource gone",
        "works() { false; true; }\nworks",
        "echo false >inner; echo true >>inner\nsource inner",
        "set -E\nworks() { false; true; }\nworks",
        "false | true",
        "export A=$(false)",
        "false &\nwait",
        "return 0",
        "true\n[ -d / ] && return\nfalse",
        "[ -d gone ] && cd gone\ngrep -q x /dev/null && echo x\ntrue",
        "cd gone && source x || true\ncd gone && cd x ||\n  true\ncd gone && \\\n  cd x \\\n  || true",
        "if cd gone && true; then false; fi\nset +e\ncd gone && true\ntrue",
        "exec 3>&1\nexec >&3 2>&1\nexec {kept}<&1",
        "cat <<'X'\n'\"`$(\nX",
        "case a in a) true ;; esac; echo ')' # (",
        OLD_MODULE + "module load gone || true",
        "{\n  module load gone && cd x\n  true\n} || true\ntrue",
        "{\n  cd /gone && true\n  if true; then\n    true\n  fi\n} && true || true\ntrue",
        "if {\n  cd /gone && true\n}; then\n  true\nfi\ntrue",
        "(\n  cd /gone && true\n  true\n) || true\ntrue",
        "(\n  false\n  true\n) || true",
        "if ( false; true ); then true; fi\ntrue",
        "( set +e\n  false\n  true )\ntrue",
        "a=$(false; echo b)\n[ $a = b ]",
        'eval "$(gone hook || true)"',
        "x=$(\n  false\n  echo b\n)\n[ $x = b ]",
        "command -v gone >/dev/null && gone\ntrue",
        "conda() { if gone; then true; fi; echo 'export A=1'; }\neval \"$(conda hook)\"\n[ $A = 1 ]",
        "echo 'gone; (false; true); a=$(false; gone); true' >inner\nsource ./inner",
        "for x in a b; do\n  ( [ $x = a ] && true ) || true\ndone",
        'export X="$(gone 2>/dev/null)"',
        'if [ -n "$(gone)" ]; then true; fi',
        "echo 'a=$(gone)' >inner; source ./inner || true",
        "{ false; true; } | cat\ntrue",
        "trap 'true' ERR\nfalse || true\ntrue",
        "module() { echo 'ERROR: one of before' >&2; return 1; }\nmodule load a || module load b || true\ntrue",
        "",
    ],
)
def test_what_bash_users_let_fail_does_not_end_it(tmp_path: Path, setup: str) -> None:
    code, printed, verdict = run(setup, tmp_path)
    assert (code, verdict) == (0, "") and printed.endswith("after\n"), printed


def test_variables_functions_and_traps_of_the_setup_stay_and_its_shell_options_and_our_names_do_not(tmp_path: Path) -> None:
    setup = "export A=1\nload() { echo loaded; }\nset -euo pipefail\ntrap 'echo cleaned' EXIT"
    after = 'echo "$A" "$-"; load; false | true; echo "$GONE"; compgen -v | grep fvlaunch; compgen -A function | grep fvlaunch; true'
    code, printed, _ = run(setup, tmp_path, after)
    assert code == 0 and printed.splitlines() == ["1 hBs", "loaded", "", "cleaned"]


def test_the_command_after_a_setup_gets_its_environment_and_is_not_run_after_a_failing_line(tmp_path: Path) -> None:
    argv = ["sh", "-c", 'echo "$A $1"', "sh", "it's"]
    assert subprocess.run(after_setup("export A=1", argv), capture_output=True, text=True, check=True).stdout == "1 it's\n"
    failed = subprocess.run(
        after_setup("export A=1\nfalse", argv, given_up=tmp_path / "verdict"), capture_output=True, text=True, check=False
    )
    assert (failed.returncode, failed.stdout) == (1, "") and "line 2 of setup" in (tmp_path / "verdict").read_text()
    assert after_setup(" \n", argv) == argv


def test_what_a_setup_sources_does_not_see_the_arguments_of_the_job_and_may_set_its_own(tmp_path: Path) -> None:
    (tmp_path / "activate").write_text('[ "$#" = 0 ] || return 1\nset -- an environment\n')
    argv = ["sh", "-c", 'echo "$1"', "sh", "of the job"]
    done = subprocess.run(after_setup("source ./activate", argv, cwd=tmp_path), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "of the job\n"), done.stderr
