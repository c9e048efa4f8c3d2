"""A recipe's steps on one rank of its world, without a GPU: `python -m tests.gpu [PRESET ...] [--ranks N] [--set K=V] [--json] [--peak]`.

`python -m tests.gpu make` makes what it needs. Each preset is simulated in a process of its own. Ends with 0; with 1 where a step raises,
a recipe cannot be simulated or the host waits for the device at an undeclared place; with 3 where there is no environment for it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from fvlaunch.errors import FvlaunchError
from tests.gpu import environment, job, results, table
from tests.gpu.environment import Environment
from tests.gpu.figures import Figures
from tests.gpu.job import PRESETS
from tests.support.paths import ROOT

EXIT_FAILED, EXIT_NO_ENVIRONMENT = 1, 3
_LINES_SHOWN = 12


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the environment, or simulate the named presets, or all; return the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    return _make(words[1:]) if words[:1] == ["make"] else _simulate(words)


def _make(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser("python -m tests.gpu make", description="Make the environment in which a GPU is simulated (7 GB).")
    parser.add_argument("--folder", type=Path, default=environment.DEFAULT, help=f"where; {environment.VARIABLE} then has to name it")
    folder = parser.parse_args(words).folder
    try:
        made = environment.make(folder)
    except (environment.NotDownloaded, environment.NotBuilt, RuntimeError) as error:
        print(f"The environment cannot be made in {folder}: {error}", file=sys.stderr)
        return EXIT_NO_ENVIRONMENT
    print(f"{made.folder} is made. Where it is not the default: {environment.VARIABLE}={made.folder}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m tests.gpu", description="Simulate recipes on one rank, without a GPU.")
    parser.add_argument("presets", nargs="*", metavar="PRESET", help=f"a recipe's name or file; default: {', '.join(PRESETS)}")
    parser.add_argument("--ranks", type=int, help="the world's size; default: the recipe's")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as of fvlaunch submit")
    parser.add_argument("--layers", type=int, help="blocks of each network, for a quick look")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--peak", action="store_true", help="print who holds the memory at each peak")
    parser.add_argument("--keep", action="store_true", help="put the figures into RESULTS.md and simulated.json")
    parser.add_argument("--folder", type=Path, help=f"the environment; default: {environment.VARIABLE}, else {environment.DEFAULT.name}")
    return parser


def _simulate(words: Sequence[str]) -> int:
    given = _parser().parse_args(words)
    if given.keep and (given.ranks or given.set or given.layers):
        _parser().error("--keep keeps presets as they are: without --ranks, --set and --layers")
    place = environment.of(given.folder)
    if place is None:
        print("There is no environment to simulate in: python -m tests.gpu make [--folder F] makes one", file=sys.stderr)
        return EXIT_NO_ENVIRONMENT
    measured, failed = list[Figures](), False
    for preset, figures in simulate(place, given):
        if not isinstance(figures, Figures):
            print(f"{preset} FAILS: {figures}", file=sys.stderr)
            failed = True
            continue
        measured.append(figures)
        failed |= bool(figures.undeclared)
        if not given.json:
            print(table.in_full(figures), end="\n\n", flush=True)
        if given.keep:
            results.keep([figures])
    print(json.dumps([figures.plain() for figures in measured], indent=1) if given.json else table.of_many(measured))
    return EXIT_FAILED if failed else 0


def simulate(place: Environment, given: argparse.Namespace) -> Iterator[tuple[str, Figures | str]]:
    """Simulate the presets one after another; yield each with its figures, or with why there are none."""
    with tempfile.TemporaryDirectory() as temporary:
        folders = dict[str, Path]()
        for number, preset in enumerate(given.presets or PRESETS):
            folder = Path(temporary) / str(number)
            try:
                job.make(preset, folder, ranks=given.ranks, sets=given.set, layers=given.layers).write(folder / job.JOB)
                folders[preset] = folder
            except (job.NoJob, FvlaunchError) as error:
                yield preset, str(error)
        if folders:
            yield from _ranks(place, folders, given.peak)


def _ranks(place: Environment, folders: dict[str, Path], holders: bool) -> Iterator[tuple[str, Figures | str]]:
    """Run the ranks of the jobs in these folders."""
    command = [place.python, "-m", "tests.gpu.rank", *folders.values(), *(["--peak"] if holders else [])]
    with subprocess.Popen(command, cwd=ROOT, env=place.variables(), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for preset, folder in folders.items():
            code = process.stdout.readline().strip()
            said = (folder / job.SAID).read_text() if (folder / job.SAID).is_file() else ""
            if code == "0":
                sys.stderr.write(said)
                yield preset, Figures.of(json.loads((folder / job.FIGURES).read_text()))
            else:
                yield preset, "\n".join([f"its rank ended with {code or 'no word'}", *said.strip().splitlines()[-_LINES_SHOWN:]])


if __name__ == "__main__":
    sys.exit(main())
