"""Owns `python -m trainers.preprocessing BLOCK`: whether an output could take what a `preprocess` block asks for, as JSON on stdout.

BLOCK is a file with the block as JSON. For the launcher, which looks before it submits and must not import this room. Nothing is written,
decoded or encoded, and neither torch nor PyAV is loaded. `python -m trainers.sources` tells what a list of clips or prompts holds.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from ..answers import answer
from ..config.programs.preprocess import Config
from . import mended_source, output_shards
from .source_entries import SourceEntries


def main(arguments: Sequence[str]) -> int:
    """Print the answer and return the exit code, as `answer` does."""
    return answer(lambda block: look(TypeAdapter[Any](Config).validate_python(block)), arguments)


def look(block: Any) -> dict[str, Any]:
    """Return {"entries": their number in the source, "written": those of them whose samples the output holds already}.

    UserError where the source cannot be read, or the output holds samples of it that it does not list as they were written.
    """
    listing, output = SourceEntries(block), Path(block.output).expanduser()
    records = output_shards.whole_records(output)
    if output_shards.is_mended(output, listing.settings()):
        records = mended_source.carried_over(output, records, listing.keys())
    return {"entries": len(listing.names), "written": sum(record.written for record in records)}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
