"""Bits to packets: payloads at the same stages for every frame, at one price of a bit, or within a budget.

Free of torch. Shapes: Q codebooks, L frames of a packet, P packets.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from telucodec.bitstream.bitpack import Codes
from telucodec.bitstream.coder import ENTROPY_MODES, PacketCoder
from telucodec.coders import best_entropy, cumulative_kbps, lowest_price_kbps, price_of, stages_within
from telucodec.config import ModelConfig
from telucodec.errors import ConfigError
from telucodec.prior.depths import Depths, choose_depths, cut, estimated_bits

N_PARTS = 4  # of the packets, coded one after the other
N_AGAIN = 12  # parts that may be coded again
CLOSE = 0.985  # of the budget is near enough
EXPECTED = 1.1  # times the estimate is what the loudest packets of speech take
SAFETY = 1.006  # times what is to be expected, so that the next part does not miss by a hair
SPAN = 1024.0  # times the first price, up and down, is searched
N_COARSE, N_FINE = 20, 24  # steps in the whole span, and in each of these steps
FAR = 8  # of the fine steps, a quarter more or less: prices that differ by no more hardly cost quality
N_STEPS_TRIED = 8  # of a lattice quantizer
PER_STEP = 0.05  # about what the next larger step takes off the logarithm of the rate, and its bounds:
LEAST_PER_STEP, MOST_PER_STEP = 0.01, 0.1
LARGEST_STEP = 255
BLOCK = 64  # packets whose depths are chosen together, which bounds the memory


@dataclass(frozen=True, slots=True)
class Frames:
    """The frames of one packet before it is coded."""

    codes: Codes  # [Q, L]
    errors: NDArray[np.float32]  # [Q + 1, L] squared error of the latents after 0 to Q stages
    latents: NDArray[np.float32] | None = None  # [D, L], where codes are chosen anew for each rate

    def part(self, start: int, stop: int) -> "Frames":
        """Frames ``start`` to ``stop``."""
        latents = None if self.latents is None else self.latents[:, start:stop]
        return Frames(self.codes[:, start:stop], self.errors[:, start:stop], latents)


CodesAt = Callable[[NDArray[np.float32], int], Codes]
"""Latents ``[D, L]`` and the code of a step to codes ``[Q, L]`` that a lattice quantizer chooses with it."""


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
        chosen = _depths(packets, self.bits, np.array([self.price]))
        return self.coder.encode_all(
            [cut(packet.codes, depths[0]) for packet, depths in zip(packets, chosen, strict=True)]
        )


@dataclass(frozen=True)
class Budgeted:
    """As `Priced`, at about the lowest price at which the packets together stay within a budget.

    They are coded in a few parts, loud and quiet packets in each, at the price at which all that is left
    would fit into the bits that are left, judged by estimates and how far off these were so far. While
    the whole is over the budget, or well below it, parts are coded again to make up for that. Packets
    that do not fit at any price are coded at the highest.
    """

    coder: PacketCoder
    bits: NDArray[np.float64]  # as in `Priced`
    price: float  # to begin with
    kbps: float

    def payloads(self, packets: Sequence[Frames], seconds: float) -> list[bytes]:
        """See `Allocator.payloads`."""
        budget = 1000 * self.kbps * seconds
        ladder = _Ladder(packets, self.bits, self.price)
        trial = _Trial(self.coder, packets, ladder)
        order = np.argsort(-ladder.estimates(ladder.n_rungs // 2), kind="stable")
        parts = [order[first::N_PARTS] for first in range(min(N_PARTS, len(order)))]
        trial.code(parts[0], trial.fitting(order, budget))
        rung = trial.fitting(order, budget)
        if abs(rung - trial.rungs[order[0]]) > FAR:
            trial.code(parts[0], rung)
        begun = int(trial.rungs[order[0]])
        for number, part in enumerate(parts[1:], start=1):
            rung = trial.fitting(np.concatenate(parts[number:]), budget)
            trial.code(part, min(max(rung, begun - FAR), begun + FAR))
        return self._corrected(trial, parts, budget)

    def _corrected(self, trial: "_Trial", parts: list[NDArray[np.int64]], budget: float) -> list[bytes]:
        """The payloads within ``budget`` that come closest to it, some coded again."""
        best, most = None, 0.0
        for part in islice(cycle(parts), N_AGAIN):
            total = trial.taken.sum()
            if most < total <= budget:
                best, most = list(trial.payloads), total
            if CLOSE * budget <= total <= budget or not trial.rungs.any():
                break
            rung = trial.fitting(part, budget)
            if rung != trial.rungs[part[0]]:
                trial.code(part, rung)
        if best is None:
            trial.code(np.arange(len(trial.rungs)), trial.ladder.n_rungs - 1)
        return best or trial.payloads


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


class _Ladder:
    """Depths of packets at prices in small steps, the rungs, and estimates of the bits they take."""

    n_rungs = N_COARSE * N_FINE + 1

    def __init__(self, packets: Sequence[Frames], bits: NDArray[np.float64], price: float) -> None:
        self._packets, self._bits = packets, bits
        self._prices = price * np.geomspace(1 / SPAN, SPAN, self.n_rungs)
        self._coarse = self._between(slice(None, None, N_FINE))[1]
        self._fine: dict[int, tuple[list[Depths], NDArray[np.float64]]] = {}

    def depths(self, place: int, rung: int) -> Depths:
        """``[L]`` of the packet at ``place``."""
        step = self._step(rung)
        found: Depths = self._steps(step)[0][place][rung - step * N_FINE]
        return found

    def estimates(self, rung: int) -> NDArray[np.float64]:
        """Bits ``[P]`` of each packet."""
        step = self._step(rung)
        found: NDArray[np.float64] = self._steps(step)[1][rung - step * N_FINE]
        return found

    def cheapest(self, places: NDArray[np.int64], budget: float) -> int:
        """The lowest rung at which packets are estimated at ``budget`` bits or less; the last if none is."""
        step = max(0, _first_within(self._coarse[:, places], budget) - 1)
        return step * N_FINE + _first_within(self._steps(step)[1][:, places], budget)

    def _steps(self, step: int) -> tuple[list[Depths], NDArray[np.float64]]:
        """Depths and estimates at the rungs of a coarse step, both ends included."""
        if step not in self._fine:
            self._fine[step] = self._between(slice(step * N_FINE, (step + 1) * N_FINE + 1))
        return self._fine[step]

    def _between(self, rungs: slice) -> tuple[list[Depths], NDArray[np.float64]]:
        depths = _depths(self._packets, self._bits, self._prices[rungs])
        return depths, np.concatenate(
            [estimated_bits(found[:, None], self._bits) for found in depths], axis=1
        )

    @staticmethod
    def _step(rung: int) -> int:
        return max(0, rung - 1) // N_FINE


def _first_within(estimates: NDArray[np.float64], budget: float) -> int:
    """The first of the falling sums of rows that is within ``budget``, or the last row."""
    return min(int((estimates.sum(axis=1) > budget).sum()), len(estimates) - 1)


class _Trial:
    """Packets that are coded or not yet, each at a rung of the ``ladder``."""

    def __init__(self, coder: PacketCoder, packets: Sequence[Frames], ladder: _Ladder) -> None:
        self.ladder = ladder
        self.payloads = [b""] * len(packets)
        self.rungs = np.full(len(packets), -1)
        self.taken = np.zeros(len(packets))  # bits
        self._estimated = np.zeros(len(packets))
        self._coder, self._packets = coder, packets

    def code(self, places: NDArray[np.int64], rung: int) -> None:
        """Code, perhaps again, the packets at ``places``."""
        codes = [cut(self._packets[place].codes, self.ladder.depths(place, rung)) for place in places]
        for place, payload in zip(places, self._coder.encode_all(codes), strict=True):
            self.payloads[place] = payload
            self.taken[place] = 8 * len(payload)
        self.rungs[places] = rung
        self._estimated[places] = self.ladder.estimates(rung)[places]

    def fitting(self, places: NDArray[np.int64], budget: float) -> int:
        """The lowest rung at which packets should fit into what the others leave of ``budget``.

        They are expected to miss their estimates as they did before; where one was not coded, as others did.
        """
        known = places if (self.rungs[places] >= 0).all() else self.rungs >= 0
        estimated = self._estimated[known].sum()
        share = self.taken[known].sum() / estimated if estimated else EXPECTED
        others = self.taken.sum() - self.taken[places].sum()
        return self.ladder.cheapest(places, (budget - others) / (SAFETY * share))


def _depths(
    packets: Sequence[Frames], bits: NDArray[np.float64], prices: NDArray[np.float64]
) -> list[Depths]:
    """The cheapest depths of each packet at each of the prices, ``[N, L]``."""
    places: dict[int, list[int]] = {}  # of packets of equal length
    for place, packet in enumerate(packets):
        places.setdefault(packet.codes.shape[1], []).append(place)
    found: dict[int, Depths] = {}
    for alike in places.values():
        for start in range(0, len(alike), BLOCK):
            some = alike[start : start + BLOCK]
            depths = choose_depths(np.stack([packets[place].errors for place in some]), bits, prices)
            found |= zip(some, depths.transpose(1, 0, 2), strict=True)
    return [found[place] for place in range(len(packets))]


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
    if config.quantizer.sweeps and entropy == "variable":
        raise ConfigError("this model keeps to a rate by its step, not by variable depth; choose static")
    if config.quantizer.sweeps and entropy == "static" and kbps is not None:
        return StagePlan(entropy, limit, kbps)
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
    config: ModelConfig,
    model_folder: Path | None,
    coder: PacketCoder,
    plan: StagePlan,
    *,
    is_held: bool,
    codes_at: CodesAt | None = None,
) -> Allocator:
    """What carries out ``plan``; with ``is_held`` its rate is a budget for all packets it is given at once.

    It always is with ``codes_at``, which a lattice quantizer has.

    Raises:
        ModelError: the weights have no prices that a rate could begin from.
    """
    if plan.kbps is None:
        return Even(coder)
    if codes_at is not None:
        return Stepped(coder, codes_at, plan.kbps)
    rates = cumulative_kbps("static", config.stage_kbps, plan.n_codebooks, model_folder)
    bits = np.array(rates) * 1000 / config.frame_rate_hz
    price = price_of(plan.kbps, model_folder)
    if is_held:
        return Budgeted(coder, bits, price, plan.kbps)
    return Priced(coder, bits, price)
