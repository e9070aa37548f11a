"""Which codes are coded together, and how likely each codeword is there: the `Predictor` protocol.

A packet is walked stage by stage, coarse first, so a code may be predicted from every frame of
the stages before it, the later frames too. A predictor says which frames of a stage are coded in
one batch; a batch sees only what earlier batches decided. A learned network becomes a prior by
giving the same two answers in integers.

Each codeword is coded in two steps, first its group of `GROUP` neighbors by index, then its
place inside the group: the same cost in bits, and two alphabets of 32 instead of one of 1024.

Shapes: Q codebooks, L frames, N frames of one batch, G groups of S = `GROUP` codewords.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from telucodec.bitstream.bitpack import Codes
from telucodec.bitstream.rangecoder import Frequencies, frequencies
from telucodec.prior.tables import STEP_BITS, UNUSED, Tables

GROUP = 32  # codewords
BATCH = 256  # frames coded at once at most, which bounds the memory whatever the packet announces

KNOWN = 1 << 12  # odds of stage 0 kept at most, 20 MB

Frames = NDArray[np.int64]
"""``[N]`` places of frames in their packet, ascending."""


@dataclass(frozen=True, slots=True)
class Odds:
    """Weights of the codewords of N frames, as the range coder wants them."""

    groups: Frequencies  # [N, G]
    weights: NDArray[np.int32]  # [N, G, S]

    def inside(self, groups: NDArray[np.integer]) -> Frequencies:
        """Frequencies ``[N, S]`` inside the group chosen at each frame, ``groups`` ``[N]``."""
        return frequencies(self.weights[np.arange(len(groups)), groups])


class Predictor(Protocol):
    """Predicts codes of one packet; keeps nothing between packets."""

    n_codebooks: int  # stages it knows
    codebook_size: int

    def batches(self, stage: int, frames: Frames) -> Iterator[Frames]:
        """``frames`` of ``stage``, ascending, cut into what is coded at once, in this order."""
        ...

    def odds(self, codes: Codes, stage: int, frames: Frames) -> Odds:
        """Odds of ``codes[stage, frames]``, from what earlier batches left in ``codes`` ``[Q, L]``."""
        ...


class TablePredictor:
    """A `Predictor` from `Tables`: stage 0 frame by frame, each later stage in one batch."""

    def __init__(self, tables: Tables) -> None:
        self.n_codebooks = tables.n_codebooks
        self.codebook_size = tables.codebook_size
        self._tables = tables
        self._contexts = [_Contexts.of(tables, stage) for stage in range(tables.n_codebooks)]
        self._basis = tables.basis.astype(np.float32)
        self._bias = tables.bias.astype(np.float32)
        self._scales = (np.float32(2) ** (STEP_BITS - tables.fractions.astype(np.float32))).tolist()
        self._known: dict[bytes, Odds] = {}  # of stage 0, by the classes of its contexts

    def batches(self, stage: int, frames: Frames) -> Iterator[Frames]:
        """One frame at a time in stage 0, whose contexts are its own frames; `BATCH` frames elsewhere."""
        step = 1 if stage == 0 else BATCH
        return (frames[start : start + step] for start in range(0, len(frames), step))

    def odds(self, codes: Codes, stage: int, frames: Frames) -> Odds:
        """See `Predictor.odds`."""
        if stage:
            return self._mixture(stage, self._contexts[stage].classes_at(codes, frames))
        classes = self._contexts[0].classes_at(codes, frames)
        if len(frames) > 1:  # all are known: an encoder asks
            return self._mixture(stage, classes)
        key = classes.tobytes()
        if key not in self._known:  # speech meets the same few thousand pairs of classes again and again
            if len(self._known) >= KNOWN:
                self._known.clear()
            self._known[key] = self._mixture(stage, classes)
        return self._known[key]

    def _mixture(self, stage: int, classes: NDArray[np.uint8]) -> Odds:
        """Odds of N frames, given the class of each of their contexts, ``[J, N]``."""
        contexts, powers = self._contexts[stage], self._tables.powers
        vectors = contexts.vectors[contexts.rows, classes].sum(axis=0)  # [N, R]
        scores = vectors @ self._basis[stage]  # [N, K]; integers below 2 ** 23, so float32 is exact
        scores += self._bias[stage]
        np.subtract(scores.max(axis=1, keepdims=True), scores, out=scores)
        scores *= self._scales[stage]  # a power of two: exact, and cut off below the point like a shift
        weights = powers.take(
            scores.astype(np.int32), mode="clip"
        )  # the last power, 1, for all that is further below
        n_missing = -weights.shape[1] % GROUP
        if n_missing:
            weights = np.pad(weights, ((0, 0), (0, n_missing)))
        weights = weights.reshape(len(weights), -1, GROUP)
        return Odds(frequencies(weights.sum(axis=2)), weights)


@dataclass(frozen=True, slots=True)
class _Contexts:
    """The J contexts of one stage as arrays, so that one indexing finds them all."""

    rows: NDArray[np.int64]  # [J, 1] 0 .. J - 1
    stages: NDArray[np.int64]  # [J, 1]
    offsets: NDArray[np.int64]  # [J, 1]
    classes: NDArray[np.uint8]  # [J, K + 1]
    vectors: NDArray[np.float32]  # [J, C, R]

    @classmethod
    def of(cls, tables: Tables, stage: int) -> "_Contexts":
        used = tables.stages[stage] != UNUSED
        return cls(
            rows=np.arange(int(used.sum()))[:, None],
            stages=tables.stages[stage, used].astype(np.int64)[:, None],
            offsets=tables.offsets[stage, used].astype(np.int64)[:, None],
            classes=tables.classes[stage, used],
            vectors=tables.vectors[stage, used].astype(np.float32),
        )

    def classes_at(self, codes: Codes, frames: Frames) -> NDArray[np.uint8]:
        """Class of each context at each frame, ``[J, N]``; outside ``codes``, or absent, is no codeword."""
        at = frames + self.offsets
        inside = np.minimum(np.maximum(at, 0), codes.shape[1] - 1)
        none = self.classes.shape[1] - 1
        found = np.minimum(codes[self.stages, inside].astype(np.int64), none)
        found = np.where(at == inside, found, none)
        classes: NDArray[np.uint8] = self.classes[self.rows, found]
        return classes
