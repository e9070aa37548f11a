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

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from telucodec.bitstream.rangecoder import Frequencies, frequencies
from telucodec.prior.tables import STEP_BITS, UNUSED, Tables

GROUP = 32  # codewords
_ONES = np.ones(GROUP)
BATCH = 256  # codes coded at once at most, which bounds the memory whatever a packet announces

Columns = NDArray[np.int64]
"""``[N]`` places on a `Sheet`, ascending."""

Sheet = NDArray[np.int64]
"""``[W, Q]`` codes of packets one after the other; the size of a codebook stands for no code."""


def blank_sheet(sizes: Sequence[int], predictor: "Predictor") -> tuple[Sheet, list[int]]:
    """A sheet for packets of so many frames, far enough from each other, and where each begins."""
    starts, end = [], predictor.reach
    for size in sizes:
        starts.append(end)
        end += size + predictor.reach
    return np.full((end, predictor.n_codebooks), predictor.codebook_size), starts


@dataclass(frozen=True, slots=True)
class Odds:
    """Weights of the codewords of N codes, as the range coder wants them."""

    groups: Frequencies  # [N, G]
    weights: NDArray[np.float64]  # [N, G, S] whole numbers

    def inside(self, groups: NDArray[np.integer]) -> Frequencies:
        """Frequencies ``[N, S]`` inside the group chosen for each code, ``groups`` ``[N]``."""
        return frequencies(self.weights[np.arange(len(groups)), groups])


class Predictor(Protocol):
    """Predicts codes of packets; keeps nothing between them."""

    n_codebooks: int  # stages it knows
    codebook_size: int
    reach: int  # frames, earlier or later, that it looks away from a code

    def batches(self, stage: int, columns: Columns) -> Sequence[Columns]:
        """``columns`` of one packet in ``stage`` cut into what is coded at once, in this order."""
        ...

    def odds(self, sheet: Sheet, parts: Sequence[tuple[int, Columns]]) -> Odds:
        """Odds of ``sheet[columns, stage]`` of all parts in order, from what earlier batches left there."""
        ...


class TablePredictor:
    """A `Predictor` from `Tables`: stage 0 frame by frame, each later stage in one batch."""

    def __init__(self, tables: Tables) -> None:
        self.n_codebooks = tables.n_codebooks
        self.codebook_size = tables.codebook_size
        n_contexts, n_classes, rank = tables.vectors.shape[1:]
        is_used = tables.stages != UNUSED  # [Q, J]
        offsets = np.where(is_used, tables.offsets.astype(np.int64), 0)
        self.reach = int(abs(offsets).max())
        self._places = (offsets * self.n_codebooks + np.where(is_used, tables.stages, 0)).T.copy()
        numbers = np.arange(self.n_codebooks * n_contexts).reshape(-1, n_contexts)
        self._firsts = numbers.T * (self.codebook_size + 1)
        self._rows = (numbers[..., None] * n_classes + tables.classes).ravel()
        self._vectors = np.zeros((numbers.size * n_classes, rank + 1), dtype=np.float32)
        self._vectors[:, :-1] = (tables.vectors * is_used[..., None, None]).reshape(-1, rank)
        self._vectors.reshape(self.n_codebooks, -1, rank + 1)[:, :n_classes, -1] = 1
        # A power of two: products and sums stay exact, as if the integers were scaled after them.
        scale = np.float32(2) ** (STEP_BITS - tables.fractions.astype(np.float32))
        basis = np.concatenate([tables.basis, tables.bias[:, None]], axis=1)
        self._basis = basis.astype(np.float32) * scale[:, None, None]
        self._powers = tables.powers.astype(np.float64)
        self._n_missing = -self.codebook_size % GROUP

    def batches(self, stage: int, columns: Columns) -> Sequence[Columns]:
        """One frame at a time in stage 0, whose contexts are its own frames; `BATCH` frames elsewhere."""
        step = 1 if stage == 0 else BATCH
        return [columns[start : start + step] for start in range(0, len(columns), step)]

    def odds(self, sheet: Sheet, parts: Sequence[tuple[int, Columns]]) -> Odds:
        """See `Predictor.odds`."""
        vectors = self._vectors_of(sheet, parts)  # [N, R + 1]
        scores = np.empty((len(vectors), self.codebook_size), dtype=np.float32)
        first = 0
        for stage, columns in parts:
            rows = slice(first, first + len(columns))
            np.dot(vectors[rows], self._basis[stage], out=scores[rows])
            first = rows.stop
        np.subtract(np.maximum.reduce(scores, axis=1, keepdims=True), scores, out=scores)
        steps = scores.astype(np.int32)  # cut off below the point, like a shift
        weights = self._powers.take(steps, mode="clip")  # the last power, 1, for all that is further below
        if self._n_missing:
            weights = np.pad(weights, ((0, 0), (0, self._n_missing)))
        weights = weights.reshape(len(weights), -1, GROUP)
        return Odds(frequencies(weights @ _ONES), weights)

    def _vectors_of(self, sheet: Sheet, parts: Sequence[tuple[int, Columns]]) -> NDArray[np.float32]:
        """Sums ``[N, R + 1]`` of what the contexts of each code say, and 1 for the bias."""
        if len(parts) == 1:
            ((stage, columns),) = parts
            stages: slice | NDArray[np.int64] = slice(stage, stage + 1)
        else:
            columns = np.concatenate([columns for _, columns in parts])
            stages = np.repeat([stage for stage, _ in parts], [len(columns) for _, columns in parts])
        codes = sheet.take(self._places[:, stages] + columns * self.n_codebooks)  # [J, N]
        codes += self._firsts[:, stages]
        vectors: NDArray[np.float32] = self._vectors.take(self._rows.take(codes), axis=0).sum(axis=0)
        return vectors
