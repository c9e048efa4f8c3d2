"""sbatch's options after `--`, in every spelling that sbatch itself reads."""

from __future__ import annotations

import pytest

from fvlaunch.config.sbatch_options import OptionError
from fvlaunch.config.sbatch_words import read


@pytest.mark.parametrize(
    ("line", "options"),
    [
        ("--gres=gpu:2", {"gres": "gpu:2"}),
        ("--gres gpu:2 --exclusive", {"gres": "gpu:2", "exclusive": True}),
        ("-G 2", {"gpus": "2"}),
        ("-G2 -pdebug", {"gpus": "2", "partition": "debug"}),
        ("-Hs -c 4", {"hold": True, "oversubscribe": True, "cpus-per-task": "4"}),
        ("--gpus-per-n=2", {"gpus-per-node": "2"}),
        ("--part debug", {"partition": "debug"}),
        ("--exclusive=user --nice", {"exclusive": "user", "nice": True}),
        ("--container-image /x.sqsh --bb-flag", {"container-image": "/x.sqsh", "bb-flag": True}),
        ("--nodes 2 --requeue", {"nodes": "2", "requeue": True}),
        ("--export=ALL,X=a=b", {"export": "ALL,X=a=b"}),
        ("", {}),
    ],
)
def test_options_are_read_as_sbatch_reads_them(line: str, options: dict[str, str | bool]) -> None:
    assert read(line.split()) == options


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("switches=1", "'switches=1' is not an sbatch option"),
        ("--exclusive user", "'user' is not an sbatch option"),
        ("-Z 3", "'-Z' is not an sbatch option"),
        ("--gpu 2", "--gpu may be --gpu-bind or --gpu-freq or --gpus or --gpus-per-node"),
    ],
)
def test_what_is_no_option_or_may_be_two_is_refused(line: str, message: str) -> None:
    with pytest.raises(OptionError) as refused:
        read(line.split())
    assert refused.value.message == message and refused.value.hint
