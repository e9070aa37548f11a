"""Bits to packets: payloads at the same stages for every frame, at one price of a bit, or within a budget.

Free of torch. Shapes: Q codebooks, L frames of a packet, P packets.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from telucodec.bitstream.bitpack import Codes
from telucodec.bitstream.coder import ENTROPY_MODES, N_LEVEL_STAGES, PacketCoder
from telucodec.coders import (
    LEAST_KBPS,
    base_kbps,
    best_entropy,
    cumulative_kbps,
    layered_coder,
    lowest_price_kbps,
    price_of,
    refined_stages,
    stages_within,
)
from telucodec.config import ModelConfig
from telucodec.errors import ConfigError
from telucodec.ladders import CLOSE, CodesAt, DepthLadder, Frames, StepLadder, cheapest_depths, within_budget
from telucodec.prior.depths import cut
from telucodec.prior.layered import LayeredCoder, joined

N_STEPS_TRIED = 8  # of a lattice quantizer
PER_STEP = 0.05  # about what the next larger step takes off the logarithm of the rate, and its bounds:
LEAST_PER_STEP, MOST_PER_STEP = 0.01, 0.1
LARGEST_STEP = 255
SLACK = 0.04  # of the first layer's share: the second takes the rest


class Remainder(Protocol):
    """Tells what a network's codes leave, and codes that; free of torch, see `telucodec.refining.Refiner`."""

    def residuals(self, packets: Sequence[Frames], codes: Sequence[Codes]) -> list[NDArray[np.float32]]:
        """``[N, L]`` of the next packets if ``codes`` are written of them, first codes of levels."""

    def codes_at(self, residuals: NDArray[np.float32], step: int) -> Codes:
        """Codes ``[Q, L]`` of residuals with a step."""


class Allocator(Protocol):
    """Decides which codes of each frame are written, and has them coded."""

    def payloads(self, packets: Sequence[Frames], seconds: float) -> list[bytes]:
        """One payload for each of the packets, which together hold ``seconds`` of the signal."""


@dataclass(frozen=True)
class Even:
    """All stages there are, for every frame."""

    coder: PacketCoder

    def payloads(self, packets: Sequence[Frames], seconds: float) -> list[bytes]:
        """See `Allocator.payloads`."""
        return self.coder.encode_all([packet.codes for packet in packets])


@dataclass(frozen=True)
class Priced:
    """As many stages as pay for themselves at the ``price`` of a bit; see `telucodec.prior.depths`."""

    coder: PacketCoder
    bits: NDArray[np.float64]  # [Q] that the first 1 to Q stages of a frame take on average
    price: float

    def payloads(self, packets: Sequence[Frames], seconds: float) -> list[bytes]:
        """See `Allocator.payloads`."""
        chosen = cheapest_depths(packets, self.bits, np.array([self.price]))
        return self.coder.encode_all(
            [cut(packet.codes, depths[0]) for packet, depths in zip(packets, chosen, strict=True)]
        )


@dataclass(frozen=True)
class Budgeted:
    """As `Priced`, at about the lowest price at which the packets together stay within a budget.

    See `telucodec.ladders.within_budget`. Packets that do not fit at any price are coded at the highest.
    """

    coder: PacketCoder
    bits: NDArray[np.float64]  # as in `Priced`
    price: float  # to begin with
    kbps: float

    def payloads(self, packets: Sequence[Frames], seconds: float) -> list[bytes]:
        """See `Allocator.payloads`."""
        ladder = DepthLadder(packets, self.bits, self.price)
        return within_budget(self.coder, ladder, len(packets), 1000 * self.kbps * seconds)[1]


@dataclass(frozen=True)
class Refined:
    """Stages of the network as `Budgeted`, and what they left as finely as the rest pays for."""

    coder: LayeredCoder
    bits: NDArray[np.float64]  # as in `Priced`
    price: float  # to begin with
    remainder: Remainder
    kbps: float

    def payloads(self, packets: Sequence[Frames], seconds: float) -> list[bytes]:
        """See `Allocator.payloads`."""
        n_bits, n_packets = 1000 * seconds, len(packets)
        depths = DepthLadder(packets, self.bits, self.price)
        share = n_bits * base_kbps(self.kbps)
        codes, bases = within_budget(
            self.coder.base, depths, n_packets, share, enough=0, limit=share * (1 + SLACK)
        )
        left = self.remainder.residuals(packets, codes)
        steps = StepLadder(left, self.remainder.codes_at, n_fixed=N_LEVEL_STAGES)
        whole = n_bits * self.kbps
        rest = whole - 8 * sum(len(joined(base, b"")) for base in bases)
        enough = rest - (1 - CLOSE) * whole
        _, refined = within_budget(self.coder.refinement, steps, n_packets, rest, enough=enough)
        return [joined(*layers) for layers in zip(bases, refined, strict=True)]


@dataclass(frozen=True)
class Stepped:
    """Codes of a lattice quantizer with the finest step at which the packets stay within a budget.

    Packets that do not fit with any step are coded with the largest.
    """

    coder: PacketCoder
    codes_at: CodesAt
    kbps: float

    def payloads(self, packets: Sequence[Frames], seconds: float) -> list[bytes]:
        """See `Allocator.payloads`."""
        budget = 1000 * self.kbps * seconds
        step = int(np.median([packet.codes[0].min() for packet in packets]))
        tried: dict[int, tuple[float, list[bytes]]] = {}
        per_step, before = PER_STEP, None  # the latter a step and the logarithm of its rate over the budget
        while step not in tried and len(tried) < N_STEPS_TRIED:
            tried[step] = self._coded(packets, step)
            excess = math.log(max(tried[step][0], 1.0) / max(budget, 1.0))
            if before is not None:
                seen = (excess - before[1]) / (before[0] - step)
                per_step = min(max(seen, LEAST_PER_STEP), MOST_PER_STEP)
            before = step, excess
            step = min(max(step + math.ceil(excess / per_step), 0), LARGEST_STEP)
        fitting = [found for found in tried.values() if found[0] <= budget]
        if not fitting:
            return self._coded(packets, LARGEST_STEP)[1]
        return max(fitting, key=lambda found: found[0])[1]

    def _coded(self, packets: Sequence[Frames], step: int) -> tuple[float, list[bytes]]:
        """Bits and payloads with one step."""
        codes = [self.codes_at(packet.latents, step) for packet in packets if packet.latents is not None]
        payloads = self.coder.encode_all(codes)
        return 8.0 * sum(map(len, payloads)), payloads


@dataclass(frozen=True)
class StagePlan:
    """What is written of every frame: ``n_codebooks`` stages, or up to so many at a rate of ``kbps``."""

    entropy: str  # a name of `ENTROPY_MODES`
    n_codebooks: int
    kbps: float | None = None  # of frames of variable depth
    n_refined: int = 0  # of the stages: those of a refinement


def plan_stages(
    config: ModelConfig,
    model_folder: Path | None,
    *,
    kbps: float | None = None,
    n_codebooks: int | None = None,
    entropy: str | None = None,
    is_held: bool = False,
) -> StagePlan:
    """How to write a stream at a rate, or with a number of stages (all if neither is given).

    Args:
        is_held: the signal is held back until it is complete, or minutes of it are.

    Raises:
        ConfigError: not even one stage fits, the model does not have that many, or there is no such coding.
    """
    available = config.quantizer.n_codebooks
    if entropy is None:
        entropy = best_entropy(model_folder, kbps, is_held=is_held and n_codebooks is None)
    if entropy not in ENTROPY_MODES:
        raise ConfigError(f"entropy is {entropy!r}; expected {', '.join(ENTROPY_MODES)}")
    limit = available if n_codebooks is None else n_codebooks
    if not 1 <= limit <= available:
        raise ConfigError(f"{limit} codebooks asked for; this model has 1 to {available}")
    if config.quantizer.sweeps and entropy == "variable":
        raise ConfigError("this model keeps to a rate by its step, not by variable depth; choose static")
    if config.quantizer.sweeps and entropy == "static" and kbps is not None:
        return StagePlan(entropy, limit, kbps)
    if entropy in ("variable", "refined"):
        if entropy == "refined" and n_codebooks is not None:
            raise ConfigError("a refined stream has its own codebooks; leave their number out")
        _check_rate(kbps, LEAST_KBPS if entropy == "refined" else 0.0, model_folder)
        if kbps is not None and entropy == "refined":
            coder = layered_coder(model_folder)
            n_refined = refined_stages(kbps, coder.refinement.n_codebooks)
            return StagePlan(entropy, coder.n_base + n_refined, kbps, n_refined)
        return StagePlan(entropy, limit, kbps)
    if kbps is None:
        return StagePlan(entropy, limit)
    rates = cumulative_kbps(entropy, config.stage_kbps, available, model_folder)
    return StagePlan(entropy, min(limit, stages_within(kbps, rates)))


def _check_rate(kbps: float | None, kbps_beyond: float, model_folder: Path | None) -> None:
    """Refuse what frames of variable depth cannot have if ``kbps_beyond`` of it are for a refinement."""
    if kbps is None:
        raise ConfigError("variable depth needs a rate; give kbps, or choose static")
    lowest = lowest_price_kbps(model_folder) + kbps_beyond
    if not kbps >= lowest:
        raise ConfigError(
            f"{kbps:g} kbps is less than frames of variable depth take; "
            f"expected {lowest:.3g} kbps or more: choose static"
        )


def build_allocator(
    config: ModelConfig,
    model_folder: Path | None,
    coder: PacketCoder,
    plan: StagePlan,
    *,
    is_held: bool,
    codes_at: CodesAt | None = None,
    refiner: Remainder | None = None,
) -> Allocator:
    """What carries out ``plan``; with ``is_held`` its rate is a budget for all packets it is given at once.

    It always is with ``codes_at``, which a lattice quantizer has, and with a ``refiner``.

    Raises:
        ModelError: the weights have no prices that a rate could begin from.
    """
    if plan.kbps is None:
        return Even(coder)
    if codes_at is not None:
        return Stepped(coder, codes_at, plan.kbps)
    n_codebooks = plan.n_codebooks - plan.n_refined
    rates = cumulative_kbps("static", config.stage_kbps, n_codebooks, model_folder)
    bits = np.array(rates) * 1000 / config.frame_rate_hz
    if refiner is not None:
        assert isinstance(coder, LayeredCoder)
        return Refined(coder, bits, price_of(base_kbps(plan.kbps), model_folder), refiner, plan.kbps)
    price = price_of(plan.kbps, model_folder)
    if is_held:
        return Budgeted(coder, bits, price, plan.kbps)
    return Priced(coder, bits, price)
