"""Packets coded within a budget of bits: rungs from dear to cheap, and what is tried on them.

A ladder says what becomes of each packet on each of its rungs, and about how many bits that takes. Free of
torch. Shapes: Q codebooks, L frames of a packet, P packets, N refined coefficients and levels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from telucodec.bitstream.bitpack import Codes
from telucodec.bitstream.coder import PacketCoder
from telucodec.prior.depths import Depths, choose_depths, cut, estimated_bits

N_FIRST = 4  # one packet of so many is coded before the others
N_AGAIN = 12  # times that a part may be coded again
CLOSE = 0.985  # of the budget is near enough
EXPECTED = 1.1  # times the estimate is what the loudest packets of speech take
SAFETY = 1.006  # times what is to be expected, so that the next part does not miss by a hair
SPAN = 1024.0  # times the first price, up and down, is searched
N_COARSE, N_FINE = 20, 12  # steps in the whole span, and in each of these steps
FAR = 4  # of the fine steps, a quarter more or less: prices that differ by no more hardly cost quality
FAR_STEPS = 1  # 3 dB of noise, likewise
BLOCK = 64  # packets whose depths are chosen together, which bounds the memory
FIRST_STEP, N_STEPS, APART = 128, 14, 4  # codes of the steps that a refinement tries: tables tell few apart
N_PARTS = APART * N_STEPS
PER_OCTAVE, FIRST_SIZE = 8, 2.0**-4  # of these steps, and how large the first is: `telucodec.model.lattice`
PER_FIXED = 1.3  # bits of a code that no step changes
PER_LARGE, KNEE = 0.75, 0.3  # bits of a coefficient: so many times log2(1 + square), a step being `KNEE`


@dataclass(frozen=True, slots=True)
class Frames:
    """The frames of one packet before it is coded."""

    codes: Codes  # [Q, L]
    errors: NDArray[np.float32]  # [Q + 1, L] squared error of the latents after 0 to Q stages
    latents: NDArray[np.float32] | None = None  # [D, L], where codes are chosen anew for each rate
    targets: NDArray[np.float32] | None = None  # [N, L] of the recording, where files are refined

    def part(self, start: int, stop: int) -> "Frames":
        """Frames ``start`` to ``stop``."""
        latents = None if self.latents is None else self.latents[:, start:stop]
        targets = None if self.targets is None else self.targets[:, start:stop]
        return Frames(self.codes[:, start:stop], self.errors[:, start:stop], latents, targets)


CodesAt = Callable[[NDArray[np.float32], int], Codes]
"""Latents ``[D, L]`` and the code of a step to codes ``[Q, L]`` that a lattice quantizer chooses with it."""


class Ladder(Protocol):
    """What becomes of each of P packets at rungs 0, where it takes most bits, to ``n_rungs - 1``."""

    n_rungs: int
    far: int  # rungs that packets may lie apart at hardly any cost of quality

    def codes(self, places: NDArray[np.int64], rung: int) -> list[Codes]:
        """Codes of the packets at ``places``."""

    def estimates(self, rung: int) -> NDArray[np.float64]:
        """Bits ``[P]`` of each packet."""

    def cheapest(self, places: NDArray[np.int64], budget: float) -> int:
        """The lowest rung at which packets are estimated at ``budget`` bits or less; the last if none is."""


def within_budget(
    coder: PacketCoder,
    ladder: Ladder,
    n_packets: int,
    budget: float,
    *,
    enough: float | None = None,
    limit: float | None = None,
) -> tuple[list[Codes], list[bytes]]:
    """Codes and payloads of packets that together stay within ``budget`` bits, on about one rung.

    They are coded in a few parts, at the rung at which all that is left would fit into the bits that are
    left, judged by estimates and how far off these were so far. While the whole is over the budget, or well
    below it, parts are coded again to make up for that. Packets that do not fit on any rung are coded on
    the last.

    Args:
        enough: bits that are near enough to the budget; `CLOSE` of it if None.
        limit: bits, instead of the budget, that may not be exceeded.
    """
    enough = CLOSE * budget if enough is None else enough
    trial = _Trial(coder, n_packets, ladder)
    parts = _parts(np.argsort(-ladder.estimates(ladder.n_rungs // 2), kind="stable"))
    everything = np.concatenate(parts)
    trial.code(parts[0], trial.fitting(everything, budget))
    rung = trial.fitting(everything, budget)
    if enough > 0 and abs(rung - trial.rungs[parts[0][0]]) > ladder.far:
        trial.code(parts[0], rung)
    begun = int(trial.rungs[parts[0][0]])
    for number, part in enumerate(parts[1:], start=1):
        rung = trial.fitting(np.concatenate(parts[number:]), budget)
        trial.code(part, min(max(rung, begun - ladder.far), begun + ladder.far))
    return _corrected(trial, parts, enough, budget if limit is None else limit)


def _parts(order: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Packets, the largest first, in parts of all sizes: a quarter, then each time half of what is left."""
    is_first = np.arange(len(order)) % N_FIRST == 0
    parts, left = [order[is_first]], order[~is_first]
    while len(left):
        parts.append(left[::2])
        left = left[1::2]
    return parts


def _corrected(
    trial: "_Trial", parts: list[NDArray[np.int64]], enough: float, limit: float
) -> tuple[list[Codes], list[bytes]]:
    """From ``enough`` to ``limit`` bits, or what comes closest to the limit from below, parts coded again."""
    best, most = None, 0.0
    begun, tried = int(trial.rungs[parts[0][0]]), set()
    for n_left in reversed(range(N_AGAIN + 1)):
        total = trial.taken.sum()
        if most < total <= limit:
            best, most = (list(trial.codes), list(trial.payloads)), total
        if total <= limit and (enough <= total or not trial.rungs.any()):
            break
        again: tuple[int, int] | None = None  # the smallest part that can make up near where it began
        for number in reversed(range(len(parts))):
            rung = trial.fitting(parts[number], limit)
            if rung != trial.rungs[parts[number][0]] and (number, rung) not in tried:
                again = number, rung
                if abs(rung - begun) <= trial.ladder.far:
                    break
        if again is None or not n_left:
            break
        tried.add(again)
        trial.code(parts[again[0]], again[1])
    if best is None:
        trial.code(np.arange(len(trial.rungs)), trial.ladder.n_rungs - 1)
    return best or (trial.codes, trial.payloads)


class _Trial:
    """Packets that are coded or not yet, each at a rung of the ``ladder``."""

    def __init__(self, coder: PacketCoder, n_packets: int, ladder: Ladder) -> None:
        self.ladder = ladder
        self.codes: list[Codes] = [np.zeros((0, 0), dtype=np.uint16)] * n_packets
        self.payloads = [b""] * n_packets
        self.rungs = np.full(n_packets, -1)
        self.taken = np.zeros(n_packets)  # bits
        self._estimated = np.zeros(n_packets)
        self._coder = coder

    def code(self, places: NDArray[np.int64], rung: int) -> None:
        """Code, perhaps again, the packets at ``places``."""
        codes = self.ladder.codes(places, rung)
        for place, item, payload in zip(places, codes, self._coder.encode_all(codes), strict=True):
            self.codes[place] = item
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


class DepthLadder:
    """Frames of variable depth at prices of a bit in small steps, estimates by average stages."""

    n_rungs = N_COARSE * N_FINE + 1
    far = FAR

    def __init__(self, packets: Sequence[Frames], bits: NDArray[np.float64], price: float) -> None:
        self._packets, self._bits = packets, bits
        self._prices = price * np.geomspace(1 / SPAN, SPAN, self.n_rungs)
        self._coarse = self._between(slice(None, None, N_FINE))[1]
        self._fine: dict[int, tuple[list[Depths], NDArray[np.float64]]] = {}

    def codes(self, places: NDArray[np.int64], rung: int) -> list[Codes]:
        """See `Ladder.codes`."""
        step = self._step(rung)
        depths = self._steps(step)[0]
        return [cut(self._packets[place].codes, depths[place][rung - step * N_FINE]) for place in places]

    def estimates(self, rung: int) -> NDArray[np.float64]:
        """See `Ladder.estimates`."""
        step = self._step(rung)
        found: NDArray[np.float64] = self._steps(step)[1][rung - step * N_FINE]
        return found

    def price_within(self, budget: float) -> float:
        """About the price at which all packets are estimated at ``budget`` bits."""
        bits, prices = self._coarse.sum(axis=1), self._prices[::N_FINE]  # the one falls, the other rises
        return float(np.exp(np.interp(-budget, -bits, np.log(prices))))

    def cheapest(self, places: NDArray[np.int64], budget: float) -> int:
        """See `Ladder.cheapest`."""
        step = max(0, _first_within(self._coarse[:, places], budget) - 1)
        return step * N_FINE + _first_within(self._steps(step)[1][:, places], budget)

    def _steps(self, step: int) -> tuple[list[Depths], NDArray[np.float64]]:
        """Depths and estimates at the rungs of a coarse step, both ends included."""
        if step not in self._fine:
            self._fine[step] = self._between(slice(step * N_FINE, (step + 1) * N_FINE + 1))
        return self._fine[step]

    def _between(self, rungs: slice) -> tuple[list[Depths], NDArray[np.float64]]:
        depths = cheapest_depths(self._packets, self._bits, self._prices[rungs])
        return depths, np.concatenate(
            [estimated_bits(found[:, None], self._bits) for found in depths], axis=1
        )

    @staticmethod
    def _step(rung: int) -> int:
        return max(0, rung - 1) // N_FINE


class StepLadder:
    """Residuals ``[N, L]`` of packets on lattices of growing steps, estimates by their magnitudes.

    Args:
        n_fixed: first rows of residuals that are codes, the same at any step.
    """

    n_rungs = N_STEPS
    far = FAR_STEPS

    def __init__(
        self, residuals: Sequence[NDArray[np.float32]], codes_at: CodesAt, *, n_fixed: int = 0
    ) -> None:
        self._residuals, self._codes_at = residuals, codes_at
        # Histograms over parts of an octave, by which steps differ: a sum over them serves every rung.
        numbers = np.arange(-N_PARTS, N_PARTS + 1)  # of such a part, from the first step
        counts = np.stack([_histogram(residual[n_fixed:]) for residual in residuals])  # [P, parts]
        distance = numbers[:, None] + 0.5 - APART * np.arange(self.n_rungs)  # magnitude over step, in parts
        taken = PER_LARGE * np.log2(1 + (2 ** (distance / PER_OCTAVE) / KNEE) ** 2)
        fixed = np.array([PER_FIXED * n_fixed * residual.shape[1] for residual in residuals])
        self._estimates = (counts @ taken).T + fixed + 1.0  # [rungs, P]

    def codes(self, places: NDArray[np.int64], rung: int) -> list[Codes]:
        """See `Ladder.codes`."""
        chosen = [self._residuals[place] for place in places]
        codes = self._codes_at(np.concatenate(chosen, axis=1), FIRST_STEP + APART * rung)
        ends = np.cumsum([residual.shape[1] for residual in chosen])
        return np.split(codes, ends[:-1], axis=1)

    def estimates(self, rung: int) -> NDArray[np.float64]:
        """See `Ladder.estimates`."""
        found: NDArray[np.float64] = self._estimates[rung]
        return found

    def cheapest(self, places: NDArray[np.int64], budget: float) -> int:
        """See `Ladder.cheapest`."""
        return _first_within(self._estimates[:, places], budget)


def _histogram(residual: NDArray[np.float32]) -> NDArray[np.int64]:
    """Magnitudes in each part of an octave, from `N_PARTS` parts below the first step to as many above."""
    octaves = np.log2(np.abs(residual).ravel() / FIRST_SIZE + 1e-12)
    numbers = np.floor(PER_OCTAVE * octaves).astype(np.int64)
    return np.bincount(np.clip(numbers, -N_PARTS, N_PARTS) + N_PARTS, minlength=2 * N_PARTS + 1)


def _first_within(estimates: NDArray[np.float64], budget: float) -> int:
    """The first of the falling sums of rows that is within ``budget``, or the last row."""
    return min(int((estimates.sum(axis=1) > budget).sum()), len(estimates) - 1)


def cheapest_depths(
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
