"""Which variables of the shell are options to sbatch, and which only look like one."""

from __future__ import annotations

from fvlaunch.config.shell_options import from_shell


def test_variables_that_sbatch_reads_become_options_and_others_do_not() -> None:
    shell = {
        "SBATCH_PARTITION": "p",
        "SBATCH_TIMELIMIT": "60",
        "SBATCH_MEM_PER_NODE": "1G",
        "SBATCH_OVERCOMMIT": "1",
        "SBATCH_EXCLUSIVE": "",
        "SBATCH_EXPORT": "NONE",
        "SBATCH_QOS": "",
        "SBATCH_OF_A_SITE": "x",
        "SLURM_CONF": "x",
        "SLURM_CLUSTERS": "other",
        "HOME": "/root",
    }
    found = {one.option: one.value for one in from_shell(shell)}
    assert found == {
        "partition": "p", "time": "60", "mem": "1G", "overcommit": True, "exclusive": True, "export": "NONE", "clusters": "other",
    }  # fmt: skip


def test_what_is_not_taken_says_why() -> None:
    ignored = {one.variable: one.ignored for one in from_shell({"SBATCH_OUTPUT": "x", "SBATCH_TIME": "60", "SBATCH_COMMENT": "x"})}
    assert ignored == {
        "SBATCH_COMMENT": "sbatch reads no such variable",
        "SBATCH_OUTPUT": "logs are kept in the run directory",
        "SBATCH_TIME": "sbatch reads no such variable (it reads SBATCH_TIMELIMIT)",
    }
