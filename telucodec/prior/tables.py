"""The integers a table prior is made of, on disk beside the weights and by hash in every stream.

Codewords are put in an order of their own, in which neighbors follow the same contexts, and cut into
G groups of S: a code is coded as the group of its *symbol*, ``symbols[q, code]``, and its place in it.

A code of stage q is predicted from up to J *contexts*: codes of stage ``stages[q, j]``,
``offsets[q, j]`` frames away, that are known by then. Each context maps its codeword, or the
absence of one outside the packet, to a class, and each class to a vector of R integers. The
vectors of all contexts add up to ``h``; column k, a symbol or behind these a group, has the score

    score[k] = bias[q, k] + sum_r h[r] * basis[q, r, k]        in units of 2 ** -fractions[q] bits

and among the groups, or among the symbols of one of them, the weight ``powers[(max score - score[k]) >>
(fractions[q] - STEP_BITS)]``: a log-linear mixture of experts, one per context, whose tables of
log-probability ratios are factorized to rank R. Everything is an integer, and `Tables` refuses numbers with
which any sum could reach 2 ** 23, so that float32 arithmetic on them is exact in any order of summation, on
any machine.

Shapes: Q codebooks (stages), K codewords, G groups of S, J contexts, C classes, R rank.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from telucodec.prior.integers import Integers

TABLES = "entropy.npz"  # beside the weights
STEP_BITS = 6  # ``powers`` has 2 ** STEP_BITS steps per bit
SCORE_LIMIT = 1 << 23
UNUSED = -1  # a context stage that is none
_DTYPES = {
    "stages": np.int8,  # of up to 128 stages, see `stage_dtype`
    "offsets": np.int8,
    "classes": np.uint8,
    "vectors": np.int16,
    "symbols": np.uint8,  # of up to 256 codewords, see `symbol_dtype`
    "basis": np.int8,
    "bias": np.int32,
    "fractions": np.uint8,
    "powers": np.int32,
}


def group_size(codebook_size: int) -> int:
    """S of a group of symbols: the least power of two whose square is at least K."""
    return 1 << ((codebook_size - 1).bit_length() + 1) // 2


def n_groups(codebook_size: int) -> int:
    """G groups of symbols, the last of them perhaps short."""
    return -(-codebook_size // group_size(codebook_size))


def stage_dtype(n_stages: int) -> type[np.int8] | type[np.int16]:
    """Of the numbers of so many stages."""
    return np.int8 if n_stages <= np.iinfo(np.int8).max + 1 else np.int16


def symbol_dtype(codebook_size: int) -> type[np.uint8] | type[np.uint16]:
    """Of the numbers of so many symbols."""
    return np.uint8 if codebook_size <= np.iinfo(np.uint8).max + 1 else np.uint16


@dataclass(frozen=True, kw_only=True, eq=False)
class Tables(Integers):
    """The integers; checked on construction, ``ModelError`` if they do not fit each other."""

    AXES: ClassVar = {
        "stages": 2,
        "offsets": 2,
        "classes": 3,
        "vectors": 4,
        "symbols": 2,
        "basis": 3,
        "bias": 2,
        "fractions": 1,
        "powers": 1,
    }

    stages: NDArray[np.int8 | np.int16]  # [Q, J] stage of each context, UNUSED for none
    offsets: NDArray[np.int8]  # [Q, J] frames from the code that is predicted; negative: earlier
    classes: NDArray[np.uint8]  # [Q, J, K + 1] of each codeword, and last of no codeword
    vectors: NDArray[np.int16]  # [Q, J, C, R]
    symbols: NDArray[np.uint8 | np.uint16]  # [Q, K] of each codeword
    basis: NDArray[np.int8]  # [Q, R, K + G] of symbols, then of groups
    bias: NDArray[np.int32]  # [Q, K + G]
    fractions: NDArray[np.uint8]  # [Q] binary digits of the scores' fraction
    powers: NDArray[np.int32]  # [P] weights of a score 0, 1, .. P - 1 steps below the best, falling, last 1

    @property
    def n_codebooks(self) -> int:
        return len(self.basis)

    @property
    def codebook_size(self) -> int:
        return len(self.symbols[0])

    def dtypes(self) -> dict[str, type]:
        """See `Integers.dtypes`."""
        symbols = symbol_dtype(self.codebook_size)
        return {**_DTYPES, "stages": stage_dtype(len(self.basis)), "symbols": symbols}

    def contexts(self, stage: int) -> list[tuple[int, int, int]]:
        """``(j, context stage, offset)`` of the contexts that ``stage`` uses."""
        pairs = zip(self.stages[stage].tolist(), self.offsets[stage].tolist(), strict=True)
        return [(j, source, offset) for j, (source, offset) in enumerate(pairs) if source != UNUSED]

    def _complaint(self) -> str | None:
        complaint = super()._complaint()
        if complaint:
            return complaint
        (n_stages, size), rank = self.symbols.shape, self.basis.shape[1]
        if size > 1 << 16:
            return f"symbols are of {size} codewords"
        n_contexts, n_classes = self.vectors.shape[1:3]
        shapes = {
            "stages": (n_stages, n_contexts),
            "offsets": (n_stages, n_contexts),
            "classes": (n_stages, n_contexts, size + 1),
            "vectors": (n_stages, n_contexts, n_classes, rank),
            "basis": (n_stages, rank, size + n_groups(size)),
            "bias": (n_stages, size + n_groups(size)),
            "fractions": (n_stages,),
            "powers": (self.powers.size,),
        }
        return self._complaint_about_shapes(shapes) or self._complaint_about_values()

    def _complaint_about_values(self) -> str | None:
        if int(self.classes.max()) >= self.vectors.shape[2]:
            return f"class {int(self.classes.max())} of {self.vectors.shape[2]}"
        if (np.sort(self.symbols, axis=1) != np.arange(self.codebook_size)).any():
            return "symbols of a stage are not each number once"
        falling = bool((np.diff(self.powers) <= 0).all())
        if not (len(self.powers) and falling and self.powers[-1] == 1 and self.powers[0] <= 1 << 20):
            return "powers do not fall from at most 2 ** 20 to 1"
        if ((self.fractions < STEP_BITS) | (self.fractions > 22)).any():
            return f"fractions run from {self.fractions.min()} to {self.fractions.max()}; expected 6 to 22"
        for stage in range(self.n_codebooks):
            for _, source, offset in self.contexts(stage):
                if not (0 <= source < stage or (source == stage == 0 and offset < 0)):
                    return f"stage {stage} looks at stage {source}, {offset} frames away: not known by then"
        largest = score_bounds(vector_bounds(self.vectors), self.basis, self.bias)
        if largest.size and int(largest.max()) >= SCORE_LIMIT:
            return f"a score could reach {int(largest.max())}; expected less than {SCORE_LIMIT}"
        return None


def vector_bounds(vectors: NDArray[np.int16]) -> NDArray[np.int64]:
    """``[Q, R]`` that no partial sum of vectors ``[Q, J, C, R]``, one of each context, is larger than."""
    longest: NDArray[np.int64] = np.abs(vectors.astype(np.int64)).max(axis=2, initial=0).sum(axis=1)
    return longest


def score_bounds(
    longest: NDArray[np.int64], basis: NDArray[np.int8], bias: NDArray[np.int32]
) -> NDArray[np.int64]:
    """``[Q]``: no partial sum of any score of a stage, in any order, is larger in magnitude.

    ``longest`` ``[Q, R]`` bounds the numbers of a vector.
    """
    widest = np.abs(basis.astype(np.int64)).max(axis=2, initial=0)  # [Q, R]
    bounds: NDArray[np.int64] = (longest * widest).sum(axis=1)
    bounds += np.abs(bias.astype(np.int64)).max(axis=1, initial=0)
    return bounds
