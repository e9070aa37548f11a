"""Bits to packets: payloads at the same stages for every frame, at one price of a bit, or within a budget.

Free of torch. Shapes: Q codebooks, L frames of a packet, P packets.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from telucodec.bitstream.bitpack import Codes
from telucodec.bitstream.coder import ENTROPY_MODES, PacketCoder
from telucodec.coders import best_entropy, cumulative_kbps, lowest_price_kbps, price_of, stages_within
from telucodec.config import ModelConfig
from telucodec.errors import ConfigError
from telucodec.prior.depths import choose_depths, cut, estimated_bits

PROBE_STEP = 3  # every such packet is coded to learn how far the estimates are off
N_TRIALS = 4  # codings of all packets in search of a price, at most
CLOSE = 0.96  # of the budget is near enough
SAFETY = 1.012  # times what was taken, so that the next trial does not miss by a hair
SPAN = 1024.0  # times the first price, up and down, is searched
N_COARSE, N_FINE = 21, 25  # prices tried in the whole span, and then between two of them
BLOCK = 64  # packets whose depths are chosen together, which bounds the memory


@dataclass(frozen=True, slots=True)
class Frames:
    """The frames of one packet before it is coded."""

    codes: Codes  # [Q, L]
    errors: NDArray[np.float32]  # [Q + 1, L] squared error of the latents after 0 to Q stages


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
        return _Batch(packets, self.bits).payloads(self.coder, self.price)


@dataclass(frozen=True)
class Budgeted:
    """As `Priced`, at the lowest price at which the packets together stay within a budget.

    The price is found on estimates, which are corrected by what the packets really took. Packets that do
    not fit at any price are coded at the highest.
    """

    coder: PacketCoder
    bits: NDArray[np.float64]  # as in `Priced`
    price: float  # to begin with
    kbps: float

    def payloads(self, packets: Sequence[Frames], seconds: float) -> list[bytes]:
        """See `Allocator.payloads`."""
        batch, probe = _Batch(packets, self.bits), _Batch(packets[::PROBE_STEP], self.bits)
        budget = 1000 * self.kbps * seconds
        share, best = 1.0, None  # of the estimate that is really taken
        for batch_tried in (probe, *[batch] * N_TRIALS):
            price = self._price(batch, budget / share)
            found = batch_tried.payloads(self.coder, price)
            taken = 8.0 * sum(map(len, found))
            share = SAFETY * taken / batch_tried.estimates(np.array([price]))[0]
            if batch_tried is batch and taken <= budget:
                best = found
                if taken >= CLOSE * budget or price <= self.price / SPAN:
                    break
        return batch.payloads(self.coder, self.price * SPAN) if best is None else best

    def _price(self, batch: "_Batch", budget: float) -> float:
        """The lowest price, within `SPAN` of the first, whose estimate is at most ``budget`` bits."""
        prices = self.price * np.geomspace(1 / SPAN, SPAN, N_COARSE)
        place = _cheapest(batch.estimates(prices), budget)
        if place:
            prices = np.geomspace(prices[place - 1], prices[place], N_FINE)
            place = _cheapest(batch.estimates(prices), budget)
        return float(prices[place])


def _cheapest(estimates: NDArray[np.floating], budget: float) -> int:
    """Place of the lowest price, the first, whose estimate is within ``budget``; the highest if none is."""
    return min(int((estimates > budget).sum()), len(estimates) - 1)


class _Batch:
    """Packets, those of equal length together."""

    def __init__(self, packets: Sequence[Frames], bits: NDArray[np.float64]) -> None:
        self._packets, self._bits = packets, bits
        places: dict[int, list[int]] = {}
        for place, packet in enumerate(packets):
            places.setdefault(packet.codes.shape[1], []).append(place)
        self._places = list(places.values())
        self._errors = [np.stack([packets[place].errors for place in alike]) for alike in self._places]

    def estimates(self, prices: NDArray[np.floating]) -> NDArray[np.float64]:
        """Bits of all packets at each of ``prices``."""
        total = np.zeros(len(prices))
        for errors in self._errors:
            for start in range(0, len(errors), BLOCK):
                some = errors[start : start + BLOCK]
                total += estimated_bits(choose_depths(some, self._bits, prices), self._bits)
        return total

    def payloads(self, coder: PacketCoder, price: float) -> list[bytes]:
        """The packets coded at ``price``, in their order."""
        chosen: dict[int, Codes] = {}
        for alike, errors in zip(self._places, self._errors, strict=True):
            rows = choose_depths(errors, self._bits, np.array([price]))[0]
            for place, row in zip(alike, rows, strict=True):
                chosen[place] = cut(self._packets[place].codes, row)
        return coder.encode_all([chosen[place] for place in range(len(chosen))])


@dataclass(frozen=True)
class StagePlan:
    """What is written of every frame: ``n_codebooks`` stages, or up to so many at a rate of ``kbps``."""

    entropy: str  # a name of `ENTROPY_MODES`
    n_codebooks: int
    kbps: float | None = None  # of frames of variable depth


def plan_stages(
    config: ModelConfig,
    model_folder: Path | None,
    *,
    kbps: float | None = None,
    n_codebooks: int | None = None,
    entropy: str | None = None,
) -> StagePlan:
    """How to write a stream at a rate, or with a number of stages (all if neither is given).

    Raises:
        ConfigError: not even one stage fits, the model does not have that many, or there is no such coding.
    """
    available = config.quantizer.n_codebooks
    entropy = best_entropy(model_folder, kbps) if entropy is None else entropy
    if entropy not in ENTROPY_MODES:
        raise ConfigError(f"entropy is {entropy!r}; expected {', '.join(ENTROPY_MODES)}")
    limit = available if n_codebooks is None else n_codebooks
    if not 1 <= limit <= available:
        raise ConfigError(f"{limit} codebooks asked for; this model has 1 to {available}")
    if entropy == "variable":
        if kbps is None:
            raise ConfigError("variable depth needs a rate; give kbps, or choose static")
        if not kbps >= (lowest := lowest_price_kbps(model_folder)):
            raise ConfigError(
                f"{kbps:g} kbps is less than frames of variable depth take; "
                f"expected {lowest:.3g} kbps or more: choose static"
            )
        return StagePlan(entropy, limit, kbps)
    if kbps is None:
        return StagePlan(entropy, limit)
    rates = cumulative_kbps(entropy, config.stage_kbps, available, model_folder)
    return StagePlan(entropy, min(limit, stages_within(kbps, rates)))


def build_allocator(
    config: ModelConfig, model_folder: Path | None, coder: PacketCoder, plan: StagePlan, *, is_held: bool
) -> Allocator:
    """What carries out ``plan``; with ``is_held`` its rate is a budget for all packets it is given at once.

    Raises:
        ModelError: the weights have no prices that a rate could begin from.
    """
    if plan.kbps is None:
        return Even(coder)
    rates = cumulative_kbps("static", config.stage_kbps, plan.n_codebooks, model_folder)
    bits = np.array(rates) * 1000 / config.frame_rate_hz
    price = price_of(plan.kbps, model_folder)
    if is_held:
        return Budgeted(coder, bits, price, plan.kbps)
    return Priced(coder, bits, price)
