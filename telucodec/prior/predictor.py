"""Which codes are coded together, and how likely each codeword is there: the `Predictor` protocol.

A packet is walked stage by stage, coarse first, so a code may be predicted from every frame of
the stages before it, the later frames too. A predictor says which frames of a stage are coded in
one batch; a batch sees only what earlier batches decided. A learned network becomes a prior by
giving the same two answers in integers.

Each codeword is coded in two steps, first its group of `GROUP` neighbors by index, then its
place inside the group: the same cost in bits, and two alphabets of 32 instead of one of 1024.

Numpy takes as long for one row as for ten, so packets are coded side by side on one `Sheet`: as
they lie at least `Predictor.reach` columns apart, none sees another.

Shapes: Q codebooks, L frames, W columns of a sheet, N codes whose odds are asked for at once,
G groups of S = `GROUP` codewords, J contexts, C classes, R rank.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from telucodec.bitstream.rangecoder import Frequencies, frequencies
from telucodec.prior.tables import STEP_BITS, UNUSED, Tables

GROUP = 32  # codewords
BATCH = 256  # codes coded at once at most, which bounds the memory whatever a packet announces

Columns = NDArray[np.int64]
"""``[N]`` places on a `Sheet`, ascending."""

Sheet = NDArray[np.int64]
"""``[Q, W]`` codes of packets side by side; the size of a codebook stands for no code."""


def blank_sheet(sizes: Sequence[int], n_codebooks: int, *, none: int, reach: int) -> tuple[Sheet, list[int]]:
    """A sheet of ``none`` for packets of so many frames, ``reach`` columns apart, and where each begins."""
    starts = np.cumsum([reach, *(size + reach for size in sizes)]).tolist()
    return np.full((n_codebooks, starts.pop()), none), starts


@dataclass(frozen=True, slots=True)
class Odds:
    """Weights of the codewords of N codes, as the range coder wants them."""

    groups: Frequencies  # [N, G]
    weights: NDArray[np.int32]  # [N, G, S]

    def inside(self, groups: NDArray[np.integer]) -> Frequencies:
        """Frequencies ``[N, S]`` inside the group chosen for each code, ``groups`` ``[N]``."""
        return frequencies(self.weights[np.arange(len(groups)), groups])


class Predictor(Protocol):
    """Predicts codes of packets; keeps nothing between them."""

    n_codebooks: int  # stages it knows
    codebook_size: int
    reach: int  # frames, earlier or later, that it looks away from a code

    def batches(self, stage: int, columns: Columns) -> Iterator[Columns]:
        """``columns`` of one packet in ``stage`` cut into what is coded at once, in this order."""
        ...

    def odds(self, sheet: Sheet, parts: Sequence[tuple[int, Columns]]) -> Odds:
        """Odds of ``sheet[stage, columns]`` of all parts in order, from what earlier batches left there."""
        ...


class TablePredictor:
    """A `Predictor` from `Tables`: stage 0 frame by frame, each later stage in one batch."""

    def __init__(self, tables: Tables) -> None:
        self.n_codebooks = tables.n_codebooks
        self.codebook_size = tables.codebook_size
        self.reach = int(abs(tables.offsets[tables.stages != UNUSED].astype(np.int64)).max(initial=0))
        self._stages = [_Stage.of(tables, stage) for stage in range(tables.n_codebooks)]
        self._powers = tables.powers

    def batches(self, stage: int, columns: Columns) -> Iterator[Columns]:
        """One frame at a time in stage 0, whose contexts are its own frames; `BATCH` frames elsewhere."""
        step = 1 if stage == 0 else BATCH
        return (columns[start : start + step] for start in range(0, len(columns), step))

    def odds(self, sheet: Sheet, parts: Sequence[tuple[int, Columns]]) -> Odds:
        """See `Predictor.odds`."""
        scores = np.empty((sum(len(columns) for _, columns in parts), self.codebook_size), dtype=np.float32)
        first = 0
        for stage, columns in parts:
            self._stages[stage].scores(sheet, columns, out=scores[first : first + len(columns)])
            first += len(columns)
        np.subtract(np.maximum.reduce(scores, axis=1, keepdims=True), scores, out=scores)
        steps = scores.astype(np.int32)  # cut off below the point, like a shift
        weights = self._powers.take(steps, mode="clip")  # the last power, 1, for all that is further below
        n_missing = -weights.shape[1] % GROUP
        if n_missing:
            weights = np.pad(weights, ((0, 0), (0, n_missing)))
        weights = weights.reshape(len(weights), -1, GROUP)
        return Odds(frequencies(np.einsum("ngs->ng", weights)), weights)  # sums are below 2 ** 26


@dataclass(frozen=True, slots=True)
class _Stage:
    """The tables of one stage as arrays, so that one indexing finds all of its J contexts."""

    stages: NDArray[np.int64]  # [J, 1]
    offsets: NDArray[np.int64]  # [J, 1]
    firsts: NDArray[np.int64]  # [J, 1] of each context in ``rows``
    rows: NDArray[np.int64]  # [J * (K + 1)] in ``vectors``, of each codeword or none
    vectors: NDArray[np.float32]  # [J * C, R]
    basis: NDArray[np.float32]  # [R + 1, K], the bias last, in steps of the powers

    @classmethod
    def of(cls, tables: Tables, stage: int) -> "_Stage":
        used = tables.stages[stage] != UNUSED
        numbers = np.arange(int(used.sum()))[:, None]
        n_classes, rank = tables.vectors.shape[2:]
        classes = tables.classes[stage, used]
        # A power of two: products and sums stay exact, as if the integers were scaled after them.
        scale = np.float32(2) ** (STEP_BITS - tables.fractions[stage].astype(np.float32))
        return cls(
            stages=tables.stages[stage, used].astype(np.int64)[:, None],
            offsets=tables.offsets[stage, used].astype(np.int64)[:, None],
            firsts=numbers * classes.shape[1],
            rows=(numbers * n_classes + classes).ravel(),
            vectors=tables.vectors[stage, used].astype(np.float32).reshape(-1, rank),
            basis=np.vstack([tables.basis[stage], tables.bias[stage]]).astype(np.float32) * scale,
        )

    def scores(self, sheet: Sheet, columns: Columns, *, out: NDArray[np.float32]) -> None:
        """Scores ``[N, K]`` of the codewords at ``columns``: sums below 2 ** 23, so float32 is exact."""
        codes = sheet.take(self.stages * sheet.shape[1] + self.offsets + columns)  # [J, N]
        codes += self.firsts
        vectors = np.ones((len(columns), len(self.basis)), dtype=np.float32)  # [N, R + 1]
        self.vectors.take(self.rows.take(codes), axis=0).sum(axis=0, out=vectors[:, :-1])
        np.matmul(vectors, self.basis, out=out)
