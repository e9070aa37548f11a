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
from telucodec.prior.tables import STEP_BITS, Tables

GROUP = 32  # codewords
BATCH = 256  # frames coded at once at most, which bounds the memory whatever the packet announces


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

    def batches(self, stage: int, n_frames: int) -> Iterator[slice]:
        """Frames of ``stage`` in the order they are coded; together every frame exactly once."""
        ...

    def odds(self, codes: Codes, stage: int, frames: slice) -> Odds:
        """Odds of ``codes[stage, frames]``, from what stages and batches before left in ``codes`` ``[Q, L]``."""
        ...


class TablePredictor:
    """A `Predictor` from `Tables`: stage 0 frame by frame, each later stage in one batch."""

    def __init__(self, tables: Tables) -> None:
        self.n_codebooks = tables.n_codebooks
        self.codebook_size = tables.codebook_size
        self._tables = tables
        self._contexts = [tables.contexts(stage) for stage in range(tables.n_codebooks)]
        self._basis = tables.basis.astype(np.float32)
        self._bias = tables.bias.astype(np.float32)
        self._known: dict[bytes, Odds] = {}  # of stage 0, by the classes of its contexts

    def batches(self, stage: int, n_frames: int) -> Iterator[slice]:
        """One frame at a time in stage 0, whose contexts are its own frames; `BATCH` frames elsewhere."""
        step = 1 if stage == 0 else BATCH
        return (slice(start, min(start + step, n_frames)) for start in range(0, n_frames, step))

    def odds(self, codes: Codes, stage: int, frames: slice) -> Odds:
        """See `Predictor.odds`."""
        classes = self._classes(codes, stage, frames)
        if stage:
            return self._mixture(stage, classes)
        key = classes.tobytes()
        if key not in self._known:  # a few hundred pairs of classes, met again and again
            self._known[key] = self._mixture(stage, classes)
        return self._known[key]

    def _classes(self, codes: Codes, stage: int, frames: slice) -> NDArray[np.uint8]:
        """Class of each context at each frame, ``[contexts in use, N]``."""
        n_frames = codes.shape[1]
        found = np.empty((len(self._contexts[stage]), frames.stop - frames.start), dtype=np.uint8)
        for row, (j, source, offset) in enumerate(self._contexts[stage]):
            first, last = frames.start + offset, frames.stop + offset
            inside = codes[source, max(first, 0) : max(min(last, n_frames), 0)]
            begin = max(-first, 0)
            found[row] = self._tables.classes[stage, j, -1]
            found[row, begin : begin + len(inside)] = self._tables.classes[stage, j, inside]
        return found

    def _mixture(self, stage: int, classes: NDArray[np.uint8]) -> Odds:
        tables = self._tables
        vectors = np.zeros((classes.shape[1], tables.basis.shape[1]), dtype=np.float32)  # [N, R]
        for row, (j, _, _) in enumerate(self._contexts[stage]):
            vectors += tables.vectors[stage, j, classes[row]]
        scores = vectors @ self._basis[stage]  # [N, K]; integers below 2 ** 23, so float32 is exact
        scores += self._bias[stage]
        below = (scores.max(axis=1, keepdims=True) - scores).astype(np.int32)
        below >>= int(tables.fractions[stage]) - STEP_BITS
        np.minimum(below, len(tables.powers) - 1, out=below)
        weights = tables.powers[below]  # [N, K]
        n_missing = -weights.shape[1] % GROUP
        if n_missing:
            weights = np.pad(weights, ((0, 0), (0, n_missing)))
        weights = weights.reshape(len(weights), -1, GROUP)
        return Odds(frequencies(weights.sum(axis=2)), weights)
