"""Random numbers that nobody can draw again: for private sampling, noise and dropout, from the operating system.

A generator with a seed will not do: noise that follows from a published seed can be subtracted, and torch's generator
on the CPU keeps 32 bits of a seed, which can be tried out. torch's global generators are neither read nor advanced.
Uniform numbers have 53 bits, normal ones are made of them by Box and Muller's method in float64. What this does not do:
it takes no measures against attacks on the last bits of floating-point noise (Mironov, 2012). Masks of dropout are
drawn by torch: on the CPU from a whole state of its generator out of the system's randomness, new for every step; on a
GPU from a seed of 63 bits.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor


STATE_BEGIN, STATE_WORDS = 24, 624
"""Where in the bytes of torch's state on the CPU the words of its generator (mt19937) begin, 8 bytes each; how many."""


def private_uniform(num_values: int) -> Tensor:
    """Return independent numbers in [0, 1): float64 ``[num_values]``, on the CPU."""
    words = np.frombuffer(os.urandom(8 * num_values), dtype=np.uint64)
    return torch.from_numpy((words >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def private_normal(shape: Sequence[int]) -> Tensor:
    """Return independent standard normal numbers: float64 of the given shape, on the CPU."""
    num_values = math.prod(shape)
    num_pairs = (num_values + 1) // 2
    radius = torch.sqrt(-2 * torch.log1p(-private_uniform(num_pairs)))
    angle = 2 * math.pi * private_uniform(num_pairs)
    return torch.cat([radius * torch.cos(angle), radius * torch.sin(angle)])[:num_values].view(*shape)


@contextmanager
def private_dropout() -> Iterator[None]:
    """Have dropout within the body follow from nothing that is known; torch's generators are then as they were."""
    with torch.random.fork_rng():
        torch.manual_seed(int.from_bytes(os.urandom(8), "little") >> 1)  # of which the CPU's keeps 32 bits
        state = torch.get_rng_state()
        words = np.frombuffer(os.urandom(4 * STATE_WORDS), dtype=np.uint32).astype(np.int64)
        state[STATE_BEGIN : STATE_BEGIN + 8 * STATE_WORDS].view(torch.int64).copy_(torch.from_numpy(words))
        torch.set_rng_state(state)
        yield
