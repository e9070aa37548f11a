"""Which codes are coded together, and how likely each codeword is there: the `Predictor` protocol.

A packet is walked stage by stage, coarse first, so a code may be predicted from every frame of
the stages before it, the later frames too. A predictor says which frames of a stage are coded in
one batch; a batch sees only what earlier batches decided. A learned network becomes a prior by
giving the same two answers in integers.

Each code is coded in two steps, first the group of its symbol, then its place inside the group, each
with odds of their own: two alphabets of 32 instead of one of 1024, and a sixteenth of the work.

Numpy takes as long for one row as for ten, so packets are coded side by side on one `Sheet`: as
they lie at least `Predictor.reach` columns apart, none sees another.

Shapes: Q codebooks, L frames, W columns of a sheet, N codes whose odds are asked for at once,
G groups of S symbols, K' = G * S of them with those that no codeword has, J contexts, C classes, R rank.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from telucodec.bitstream.rangecoder import Frequencies, frequencies
from telucodec.prior.tables import STEP_BITS, UNUSED, Tables, group_size, n_groups

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
    """How likely the symbols of N codes are, as the range coder wants it."""

    groups: Frequencies  # [N, G]
    inside: Callable[[NDArray[np.integer]], Frequencies]  # groups [N] of the codes to places in them [N, S]


class Predictor(Protocol):
    """Predicts codes of packets; keeps nothing between them."""

    n_codebooks: int  # stages it knows
    codebook_size: int
    group_size: int
    symbols: NDArray[np.int64]  # [Q, K] of each codeword
    codewords: NDArray[np.int64]  # [Q, K'] of each symbol; K, which stands for no code, where there is none
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
        self.group_size, size = group_size(self.codebook_size), self.codebook_size
        self.symbols = tables.symbols.astype(np.int64)
        self._n_missing = n_groups(size) * self.group_size - size
        beyond = np.full((self.n_codebooks, self._n_missing), size)
        self.codewords = np.concatenate([self.symbols.argsort(axis=1), beyond], axis=1)
        # A power of two: products and sums stay exact, as if the integers were scaled after them.
        scale = np.float32(2) ** (STEP_BITS - tables.fractions.astype(np.float32))
        basis = np.concatenate([tables.basis, tables.bias[:, None]], axis=1).astype(np.float32)
        basis *= scale[:, None, None]
        self._of_groups = np.ascontiguousarray(basis[..., size:])  # [Q, R + 1, G]
        places = np.pad(basis[..., :size], ((0, 0), (0, 0), (0, self._n_missing)))
        places = places.reshape(self.n_codebooks, rank + 1, -1, self.group_size)
        self._of_places = np.ascontiguousarray(places.swapaxes(1, 2))  # [Q, G, R + 1, S]
        self._powers = tables.powers.astype(np.float64)

    def batches(self, stage: int, columns: Columns) -> Sequence[Columns]:
        """One frame at a time in stage 0, whose contexts are its own frames; `BATCH` frames elsewhere."""
        step = 1 if stage == 0 else BATCH
        return [columns[start : start + step] for start in range(0, len(columns), step)]

    def odds(self, sheet: Sheet, parts: Sequence[tuple[int, Columns]]) -> Odds:
        """See `Predictor.odds`."""
        stages = np.repeat([stage for stage, _ in parts], [len(columns) for _, columns in parts])
        columns = parts[0][1] if len(parts) == 1 else np.concatenate([columns for _, columns in parts])
        vectors = self._vectors_of(sheet, stages, columns)  # [N, R + 1]
        scores = np.empty((len(vectors), self._of_groups.shape[2]), dtype=np.float32)
        last = 0
        for stage, alike in groupby(parts, key=itemgetter(0)):
            first, last = last, last + sum(len(columns) for _, columns in alike)
            np.dot(vectors[first:last], self._of_groups[stage], out=scores[first:last])
        return Odds(frequencies(self._weights(scores)), partial(self._inside, stages, vectors))

    def _inside(
        self, stages: NDArray[np.int64], vectors: NDArray[np.float32], groups: NDArray[np.integer]
    ) -> Frequencies:
        """See `Odds.inside`."""
        _, n_alike, *shape = self._of_places.shape  # groups of a stage
        chosen = self._of_places.reshape(-1, *shape).take(stages * n_alike + groups, axis=0)
        scores = np.matmul(vectors[:, None], chosen)[:, 0]  # [N, S]
        if not self._n_missing:
            return frequencies(self._weights(scores))
        is_last = groups == n_alike - 1
        scores[is_last, -self._n_missing :] = scores[is_last, :1]  # not to be the best
        weights = self._weights(scores)
        weights[is_last, -self._n_missing :] = 0
        return frequencies(weights)

    def _weights(self, scores: NDArray[np.float32]) -> NDArray[np.float64]:
        """Weights of ``scores`` by their distance from the best of each row."""
        below = np.maximum.reduce(scores, axis=1, keepdims=True) - scores
        steps = below.astype(np.int32)  # cut off below the point, like a shift
        return self._powers.take(steps, mode="clip")  # the last power, 1, for all that is further below

    def _vectors_of(self, sheet: Sheet, stages: NDArray[np.int64], columns: Columns) -> NDArray[np.float32]:
        """Sums ``[N, R + 1]`` of what the contexts of each code say, and 1 for the bias."""
        codes = sheet.take(self._places[:, stages] + columns * self.n_codebooks)  # [J, N]
        codes += self._firsts[:, stages]
        vectors: NDArray[np.float32] = self._vectors.take(self._rows.take(codes), axis=0).sum(axis=0)
        return vectors
