"""Which codes are coded together, and how likely each codeword is there: the `Predictor` protocol.

A packet is walked stage by stage, coarse first, so a code may be predicted from every frame of
the stages before it, the later frames too. A predictor says which frames of a stage are coded in
one batch; a batch sees only what earlier batches decided.

Each code is coded in two steps, first the group of its symbol, then its place inside the group, each
with odds of their own: two alphabets of 32 instead of one of 1024, and a sixteenth of the work.

Numpy takes as long for one row as for ten, so packets are coded side by side on one `Sheet`: as
they lie at least `Predictor.reach` columns apart, none sees another.

Shapes: Q codebooks, L frames, W columns of a sheet, N codes whose odds are asked for at once,
G groups of S symbols, K' = G * S of them with those that no codeword has, J contexts, C classes, R rank;
of a network: O offsets, H and E hidden units.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from telucodec.bitstream.rangecoder import Frequencies, frequencies
from telucodec.errors import ModelError
from telucodec.prior.network import ACTIVE, EXACT, Codebooks, Network
from telucodec.prior.tables import SCORE_LIMIT, STEP_BITS, UNUSED, Tables, group_size, n_groups, score_bounds

UNTOLD = -1  # the depth of frames in streams that do not tell it before the codes
BATCH = 256  # codes coded at once at most, which bounds the memory whatever a packet announces

Columns = NDArray[np.int64]
"""``[N]`` places on a `Sheet`, ascending."""

Parts = Sequence[tuple[int, Columns]]
"""Stages, ascending, and columns of each: codes whose odds are asked for together."""

Span = tuple[int, slice]
"""A stage, and which of all codes are its own."""


@dataclass(slots=True)
class Sheet:
    """Packets one after the other. Odds are asked for stage by stage, and codes of stages before stay."""

    codes: NDArray[np.int64]  # [W, Q]; the size of a codebook stands for no code
    depths: NDArray[np.int64]  # [W] stages of each frame, 0 where there is none, or `UNTOLD`
    sums: "Sums | None" = None  # of a network's first layer, so far


class Sums(NamedTuple):
    """What codes of the first stages add to the first layer of a network at each column of a sheet."""

    total: NDArray[np.int32]  # [W, H], and what depths add
    n_stages: NDArray[np.int64]  # [W] that are in it
    around: NDArray[np.int64]  # [O, W] columns that each one hears


def blank_sheet(sizes: Sequence[int], predictor: "Predictor") -> tuple[Sheet, list[int]]:
    """A sheet for packets of so many frames, far enough from each other, and where each begins."""
    starts, end = [], predictor.reach
    for size in sizes:
        starts.append(end)
        end += size + predictor.reach
    depths = np.zeros(end, dtype=np.int64)
    for start, size in zip(starts, sizes, strict=True):
        depths[start : start + size] = UNTOLD
    return Sheet(np.full((end, predictor.n_codebooks), predictor.codebook_size), depths), starts


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

    def odds(self, sheet: Sheet, parts: Parts) -> Odds:
        """Odds of ``sheet.codes[columns, stage]`` of all parts, from what earlier batches left there."""
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

    def odds(self, sheet: Sheet, parts: Parts) -> Odds:
        """See `Predictor.odds`."""
        spans = list(_rows_of_stages(parts))
        stages = np.repeat([stage for stage, _ in spans], [rows.stop - rows.start for _, rows in spans])
        vectors = self._vectors_of(sheet, stages, _columns_of(parts), spans)  # [N, R + 1]
        scores = np.empty((len(vectors), self._of_groups.shape[2]), dtype=np.float32)
        for stage, rows in spans:
            np.dot(vectors[rows], self._of_groups[stage], out=scores[rows])
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

    def _vectors_of(
        self, sheet: Sheet, stages: NDArray[np.int64], columns: Columns, spans: Sequence[Span]
    ) -> NDArray[np.float32]:
        """Sums ``[N, R + 1]`` of what the contexts of each code say, and 1 for the bias."""
        codes = sheet.codes.take(self._places[:, stages] + columns * self.n_codebooks)  # [J, N]
        codes += self._firsts[:, stages]
        vectors: NDArray[np.float32] = self._vectors.take(self._rows.take(codes), axis=0).sum(axis=0)
        return vectors


class NetworkPredictor(TablePredictor):
    """A `Predictor` whose scores come from a `Network`; raises as `Network.check`."""

    def __init__(self, tables: Tables, network: Network, codebooks: Codebooks) -> None:
        super().__init__(tables)
        self._exact = np.dtype(np.float32 if network.check(codebooks) < EXACT else np.float64)
        self._codebooks = codebooks
        largest = score_bounds(network.vector_bounds(), tables.basis, tables.bias).max()
        if largest >= SCORE_LIMIT:
            raise ModelError(
                f"a score could reach {largest}; expected less than {SCORE_LIMIT}: "
                "fit the entropy tables again"
            )
        self._network = network
        self._offsets = network.offsets.astype(np.int64)[:, None]
        self.reach = int(abs(self._offsets).max())
        n_offsets, _, self._n_units = network.first.shape
        self._numbers = np.arange(n_offsets)[:, None]
        words, depths = np.split(network.first, [network.width], axis=1)
        first = words.swapaxes(0, 1).reshape(network.width, -1)
        self._first: NDArray[np.floating] = first.astype(self._exact)  # [D, O * H]
        told = depths.astype(np.int32) << network.digits.astype(np.int32)
        self._told = np.pad(told, ((0, 0), (0, 1), (0, 0)))  # [O, 1 + Q + 1, H], the last of `UNTOLD`
        self._second = network.second.astype(np.float32)
        self._third = network.third.astype(np.float32)
        self._said: dict[int, _Said] = {}  # by each stage that was met

    def _vectors_of(
        self, sheet: Sheet, stages: NDArray[np.int64], columns: Columns, spans: Sequence[Span]
    ) -> NDArray[np.float32]:
        net = self._network
        sums = net.first_bias.take(stages, axis=0)  # [N, H]
        for stage, rows in spans:
            sums[rows] += self._sums_at(sheet, stage, columns[rows])
        units = _active(sums, net.first_shifts) @ self._second
        units = _active(units.astype(np.int32) + net.second_bias.take(stages, axis=0), net.second_shifts)
        vectors = np.ones((len(units), self._third.shape[2] + 1), dtype=np.float32)  # the last of the bias
        for stage, rows in spans:
            vectors[rows, :-1] = units[rows] @ self._third[stage]
        vectors[:, :-1] = vectors[:, :-1].astype(np.int32) >> net.third_shifts.take(stages, axis=0)
        return vectors

    def _sums_at(self, sheet: Sheet, stage: int, columns: Columns) -> NDArray[np.int32]:
        """What the stages before ``stage``, and depths, add up to at ``columns``, ``[N, H]``."""
        if sheet.sums is None:
            numbers = np.arange(len(sheet.codes))
            around = (numbers + self._offsets).clip(0, numbers[-1])
            total = self._told[self._numbers, sheet.depths[around]].sum(axis=0, dtype=np.int32)
            sheet.sums = Sums(total, np.zeros_like(numbers), around)
        total, n_stages, around = sheet.sums
        for earlier in range(int(n_stages[columns].min(initial=stage)), stage):
            behind = columns[n_stages[columns] <= earlier]
            total[behind] += self._added(sheet, earlier, behind, slice(None))
        n_stages[columns] = stage
        found: NDArray[np.int32] = total.take(columns, axis=0)
        return found if stage else found + self._added(sheet, 0, columns, self._offsets[:, 0] < 0)

    def _added(
        self, sheet: Sheet, stage: int, columns: Columns, chosen: slice | NDArray[np.bool_]
    ) -> NDArray[np.int32]:
        """What codes of ``stage`` add to sums at ``columns``, from the ``chosen`` offsets, ``[N, H]``."""
        assert sheet.sums is not None
        codes = sheet.codes[:, stage].take(sheet.sums.around[:, columns][chosen])  # [O, N]
        rows = self._said_by(stage, codes)
        found: NDArray[np.int32] = rows.take(codes * len(self._numbers) + self._numbers[chosen], axis=0).sum(
            axis=0, dtype=np.int32
        )
        return found

    def _said_by(self, stage: int, codes: NDArray[np.int64]) -> NDArray[np.int32]:
        """`_Said.rows` of ``stage``, in which those of ``codes`` are known."""
        size, width = self.codebook_size, self._first.shape[1]
        if stage not in self._said:
            rows, is_known = np.zeros((size + 1, width), dtype=np.int32), np.zeros(size + 1, dtype=np.bool_)
            is_known[size] = True
            self._said[stage] = _Said(rows.reshape(-1, self._n_units), is_known)
        said = self._said[stage]
        if not said.is_known.take(codes).all():
            new = np.unique(codes[~said.is_known[codes]])
            words: NDArray[np.floating] = self._network.words(self._codebooks[stage, new])
            said.rows.reshape(size + 1, width)[new] = words.astype(self._exact, copy=False) @ self._first
            said.is_known[new] = True
        return said.rows


class _Said(NamedTuple):
    """What codewords of a stage add to sums at each offset, made when they are first met."""

    rows: NDArray[np.int32]  # [(K + 1) * O, H]
    is_known: NDArray[np.bool_]  # [K + 1]


def _active(sums: NDArray[np.int32], shifts: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Hidden units ``[N, H]``, whole numbers from 0 to `ACTIVE`."""
    sums = sums >> shifts
    np.maximum(sums, 0, out=sums)  # np.clip takes longer than all this for one row
    return np.minimum(sums, ACTIVE, out=sums).astype(np.float32)


def _columns_of(parts: Parts) -> Columns:
    return parts[0][1] if len(parts) == 1 else np.concatenate([columns for _, columns in parts])


def _rows_of_stages(parts: Parts) -> Iterator[Span]:
    """Each stage among ``parts``, and which of all their codes are its own."""
    last = 0
    for stage, alike in groupby(parts, key=itemgetter(0)):
        first, last = last, last + sum(len(columns) for _, columns in alike)
        yield stage, slice(first, last)
