"""Owns the keys of `train.parallel`: how the ranks are arranged."""

from __future__ import annotations

from pydantic import PositiveInt

from .counting import counted
from .section import Section


class ParallelConfig(Section):
    """How the ranks share the work: replicate x shard x sequence is the number of ranks."""

    replicate: PositiveInt | None = None
    """Copies of the sharded networks, each with other samples. null: as many as the other two leave."""
    shard: PositiveInt | None = None
    """Ranks that one copy of the networks is sharded over (FSDP). null: all that replicate and sequence leave."""
    sequence: PositiveInt = 1
    """Ranks that share the tokens of one sample. Only 1 is available so far."""

    def mesh(self, world_size: int) -> tuple[int, int, int]:
        """Return (replicate, shard, sequence) with nulls resolved; ValueError where their product is not world_size."""
        rest, left = divmod(world_size, self.sequence)
        if left:
            raise ValueError(f"{counted(world_size, 'rank')} cannot be split by sequence {self.sequence}")
        replicate = self.replicate or (rest // self.shard if self.shard else 1)
        shard = self.shard or rest // max(replicate, 1)
        if replicate * shard * self.sequence != world_size:
            raise ValueError(f"replicate {replicate} x shard {shard} x sequence {self.sequence} is not {counted(world_size, 'rank')}")
        return replicate, shard, self.sequence
