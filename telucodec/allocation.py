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
from telucodec.coders import best_entropy, cumulative_kbps, price_of, stages_within
from telucodec.config import ModelConfig
from telucodec.errors import ConfigError, ModelError
from telucodec.prior.depths import choose_depths, cut, estimated_bits

N_TRIALS = 5  # codings of the same packets in search of a price, at most
CLOSE = 0.975  # of the budget is near enough
SAFETY = 1.005  # times what was taken: the next trial should not miss by a hair
N_DOUBLINGS = 10  # of the price, up and down, are searched
N_FINE = 17  # prices that are tried inside one doubling
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
        return [self.coder.encode(packet.codes) for packet in packets]


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
        batch = _Batch(packets, self.bits)
        budget = 1000 * self.kbps * seconds
        coarse = self.price * 2.0 ** np.arange(-N_DOUBLINGS, N_DOUBLINGS + 1)
        around = batch.estimates(coarse)
        share = 1.0  # of the estimate that is really taken
        best = None
        for _ in range(N_TRIALS):
            place = _cheapest(around, budget / share)
            price, estimate = coarse[place], around[place]
            if place:
                fine = price * 2.0 ** np.linspace(-1, 0, N_FINE)
                estimates = batch.estimates(fine)
                place = _cheapest(estimates, budget / share)
                price, estimate = fine[place], estimates[place]
            found = batch.payloads(self.coder, price)
            taken = 8.0 * sum(map(len, found))
            share = SAFETY * taken / estimate
            if taken <= budget:
                best = found
                if taken >= CLOSE * budget or price == coarse[0]:
                    break
        return batch.payloads(self.coder, coarse[-1]) if best is None else best


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
        found: dict[int, bytes] = {}
        for alike, errors in zip(self._places, self._errors, strict=True):
            rows = choose_depths(errors, self._bits, np.array([price]))[0]
            for place, row in zip(alike, rows, strict=True):
                found[place] = coder.encode(cut(self._packets[place].codes, row))
        return [found[place] for place in range(len(found))]


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
    if model_folder is None:
        raise ModelError("frames of variable depth need weights with entropy tables; choose entropy none")
    rates = cumulative_kbps("static", config.stage_kbps, plan.n_codebooks, model_folder)
    bits = np.array(rates) * 1000 / config.frame_rate_hz
    price = price_of(plan.kbps, model_folder)
    if is_held:
        return Budgeted(coder, bits, price, plan.kbps)
    return Priced(coder, bits, price)
