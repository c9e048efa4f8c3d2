"""Owns giving two networks of the same weights the same layout in memory, so that their outputs can be compared bit by bit."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def realigned(network: nn.Module) -> nn.Module:
    """Return the network with its weights in fresh memory.

    Weights that a file was mapped for lie at any address, and on some CPUs a matrix product rounds differently where an operand is
    not aligned. Fresh memory is aligned the same for everybody.
    """
    for tensor in (*network.parameters(), *network.buffers()):
        tensor.data = tensor.data.clone(memory_format=torch.preserve_format)
    return network
