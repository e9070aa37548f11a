"""How many stages each frame of a packet takes: choosing these depths, and their odds for the coder.

A pause needs fewer bits than a vowel. Each frame takes as many stages as pay for themselves: the
depths of a packet minimize the sum over its frames of ``error + price * bits``, where ``error`` is
the squared error that the chosen stages leave of the frame's latents and ``bits`` counts the
codes and the change of depth. The price, one number for a whole stream, sets its rate.

Sources: allocation by one price: Shoham and Gersho 1988 (IEEE Trans. ASSP 36, 1445-1453); frames of
different depth in a residual quantizer: Chae et al. 2024, arXiv 2410.06016, who learn an importance
map where this file measures the error.

Shapes: Q codebooks, L frames, P packets, N prices.
"""

from collections.abc import Iterable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from telucodec.bitstream.bitpack import ABSENT, Codes
from telucodec.bitstream.rangecoder import Frequencies, frequencies

MIN_DEPTH = 3  # stages of the quietest frame: pauses of fewer cost PESQ (docs/log.md)

WEIGHTS = (2700, 60, 60, 50, 40, 32, 25, 20, 15, 12, 10, 8)
"""Of a depth, by its distance from the frame before, the last for all beyond; part of the format."""

CHANGE_BITS = 7.0  # about what `WEIGHTS` take for any change of depth

Depths = NDArray[np.int64]
"""``[..., L]`` stages of each frame, 1 to Q."""


def depth_odds(depths: Depths, n_codebooks: int) -> Frequencies:
    """Frequencies ``[L, Q]`` of the depths 1 to Q of each frame, given the frame before it."""
    rows: Frequencies = depth_table(n_codebooks)[np.concatenate([[0], depths[:-1]])]
    return rows


@lru_cache(maxsize=32)
def depth_table(n_codebooks: int) -> Frequencies:
    """Frequencies ``[1 + Q, Q]`` of the depths 1 to Q after the depths 0 to Q; 0: before the first frame."""
    return frequencies(_weights(n_codebooks))


def depths_of(codes: Codes) -> Depths:
    """Stages that each frame of ``[Q, L]`` has.

    Raises:
        ValueError: a frame has none, or a code after one that is `ABSENT`.
    """
    is_there = codes != ABSENT
    depths: Depths = is_there.sum(axis=0)
    if not is_there[0].all() or (is_there[1:] > is_there[:-1]).any():
        raise ValueError("a frame has no code in stage 0, or one after an absent one")
    return depths


def choose_depths(
    errors: NDArray[np.floating], bits: NDArray[np.floating], prices: NDArray[np.floating]
) -> Depths:
    """The cheapest depths of the frames of P packets at each of N prices, ``[N, P, L]``.

    By dynamic programming over the frames, every change of depth at the same `CHANGE_BITS`.

    Args:
        errors: ``[P, Q + 1, L]`` squared error of each frame's latents after 0 to Q stages.
        bits: ``[Q]`` bits that the first 1 to Q stages of a frame take on average.
        prices: ``[N]`` of a bit, in the unit of the errors; at 0 each frame has the depth of its least error.
    """
    (n_packets, _, n_frames), n_prices = errors.shape, len(prices)
    first = min(MIN_DEPTH, len(bits)) - 1
    costs = np.ascontiguousarray(errors[:, first + 1 :].transpose(2, 0, 1))  # [L, P, depths]
    rent = prices[:, None, None] * bits[first:]  # [N, 1, depths]
    change = np.repeat(prices, n_packets)[:, None] * CHANGE_BITS
    chosen = steady(((rent + cost).reshape(len(change), -1) for cost in costs), change)
    return chosen.reshape(n_frames, n_prices, n_packets).transpose(1, 2, 0) + first + 1


def steady(costs: Iterable[NDArray[np.floating]], change: NDArray[np.floating]) -> NDArray[np.int64]:
    """The cheapest choice of one column in each of L frames, for each of N rows by itself, ``[L, N]``.

    By dynamic programming over the frames.

    Args:
        costs: ``[N, A]`` of each choice, frame by frame.
        change: ``[N, 1]`` paid where a choice is another than in the frame before.
    """
    total = np.zeros_like(change)  # of the cheapest way to the end of the frame, for each choice there
    rows = np.arange(len(change))
    best: list[NDArray[np.int64]] = []
    is_change: list[NDArray[np.bool_]] = []
    for cost in costs:
        if best:
            changed = total[rows, best[-1]][:, None] + change
            is_change.append(changed < total)
            np.minimum(changed, total, out=total)
        total = total + cost
        best.append(total.argmin(axis=1))
    chosen = np.array(best)
    for frame in range(len(chosen) - 1, 0, -1):
        here = chosen[frame]
        chosen[frame - 1] = np.where(is_change[frame - 1][rows, here], best[frame - 1], here)
    return chosen


def estimated_bits(depths: Depths, bits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Bits ``[N, P]`` that packets of ``depths`` ``[N, P, L]`` take by the averages ``bits``, as above."""
    changes = _change_bits(len(bits))[depths[..., :-1] - 1, depths[..., 1:] - 1]
    first = np.log2(len(bits))  # the depth of a first frame has no frame before it
    found: NDArray[np.float64] = bits[depths - 1].sum(axis=2) + changes.sum(axis=2) + first
    return found


def cut(codes: Codes, depths: Depths) -> Codes:
    """``codes`` ``[Q, L]`` with what lies beyond the depth of each frame `ABSENT`."""
    shortened: Codes = np.where(np.arange(len(codes))[:, None] < depths, codes, np.uint16(ABSENT))
    return shortened


@lru_cache(maxsize=32)
def _weights(n_codebooks: int) -> NDArray[np.int64]:
    """``[1 + Q, Q]`` weight of each depth after the depths 0 to Q; 0 stands for the first frame."""
    before, depth = np.arange(n_codebooks + 1)[:, None], np.arange(1, n_codebooks + 1)
    distance = np.minimum(abs(before - depth), len(WEIGHTS) - 1)
    weights: NDArray[np.int64] = np.array(WEIGHTS)[distance]
    weights[0] = 1
    return weights


@lru_cache(maxsize=32)
def _change_bits(n_codebooks: int) -> NDArray[np.float64]:
    """``[Q, Q]`` bits that a depth takes after another."""
    weights = _weights(n_codebooks)[1:]
    return np.asarray(np.log2(weights.sum(axis=1, keepdims=True) / weights), dtype=np.float64)
