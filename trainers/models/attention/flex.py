"""Owns flex_attention as it is run here: compiled wherever there is a GPU. Must not know masks or tiles.

What torch does not compile it computes as it stands, with the whole matrix of scores: tens of gigabytes for a video, and a hundred times
the time. So whatever keeps torch from compiling is an error here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention

from ...distributed import compiling
from ...errors import UserError

_SHAPES = 64
"""How many combinations of shapes, with and without gradient, are compiled in one process; torch's own limit of 8 is soon met where a run
also validates."""
_INSTEAD = "attention: dense for a block-causal network, attention.backend: gather for sparse attention"


def attention(device_type: str, **options: Any) -> Callable[..., Tensor]:
    """Return flex_attention, compiled on GPUs with these options of Inductor; as it stands on a CPU, where it only serves comparisons and
    has no backward pass."""
    if device_type == "cpu":
        uncompiled: Any = flex_attention
        return uncompiled
    return always_compiled(flex_attention, options=options or None)


def always_compiled(function: Any, **how: Any) -> Callable[..., Tensor]:
    """Return `function` as torch.compile makes it; where torch would call it uncompiled in its place, UserError."""
    from torch._dynamo import config as dynamo  # importing it takes a second, which ranks that compile nothing do without

    if dynamo.disable or dynamo.suppress_errors:
        raise UserError(
            "attention: flex_attention must be compiled, and the environment keeps torch from that",
            f"unset TORCH_COMPILE_DISABLE, TORCHDYNAMO_DISABLE and TORCHDYNAMO_SUPPRESS_ERRORS; or {_INSTEAD}",
        )
    dynamo.recompile_limit = max(dynamo.recompile_limit, _SHAPES)
    compiled = compiling.compiled(function, dynamic=False, fullgraph=True, **how)

    def compiled_or_refused(*inputs: Any, **named: Any) -> Tensor:
        try:
            result: Tensor = compiled(*inputs, **named)
        except Exception as error:
            if type(error).__name__ != "FailOnRecompileLimitHit":
                raise
            raise UserError(
                f"attention: flex_attention was compiled for {dynamo.recompile_limit} combinations of shapes, and torch compiles no more",
                f"fewer sizes of videos in one run (training and validation alike); or {_INSTEAD}",
            ) from None
        return result

    return compiled_or_refused
