"""The integers of a small network that predicts codes from what the codes before them add up to.

A class of a codeword, as `telucodec.prior.tables` has it, knows nothing of how codewords lie to each other.
Here a code of stage q at frame t is predicted from the latents that stages 0 to q - 1 stand for, at frames
around t, and from how many stages these frames have, by two hidden layers that all stages share but for
their biases:

    words[q, k] = round(codebooks[q, k] * 2 ** digits)              and 0 for no codeword
    sums[o]     = sum of words of stages 0 to q - 1, frame t + offsets[o]; in stage 0 of stage 0, if earlier
    told[o]     = first[o, D + n] * 2 ** digits, n the stages of frame t + offsets[o], 0 if there is no such
                  frame; 0 if n is not known
    u           = (sum over o of sums[o] @ first[o, :D] + told[o] + first_bias[q]) >> first_shifts
    v           = (cut(u) @ second + second_bias[q]) >> second_shifts
    h           = (cut(v) @ third[q]) >> third_shifts[q]            cut: to 0..255

with h the vector whose product with the tables' basis gives scores; contexts of the tables have no say then.
The first product is linear in the words: it is made once for each codeword and looked up.

Everything is an integer, and no sum can leave int32 in the first layer, nor reach 2 ** 24 behind it, so that
float32 arithmetic is exact there in any order, on any machine.

Shapes: Q stages, K codewords, D latent width, O offsets, H and E hidden units, R rank.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from telucodec.errors import ModelError
from telucodec.prior.integers import Integers

NETWORK = "prior.npz"
"""Beside the tables, where there is one."""

ACTIVE = 255  # of a hidden unit at most
_WEIGHTS, _CODEBOOKS = "model.safetensors", "quantizer.codebooks"
SUM_LIMIT, EXACT = 1 << 31, 1 << 24  # of sums in the first layer, and behind it
_DTYPES = {
    "offsets": np.int8,
    "digits": np.uint8,
    "first": np.int8,
    "first_bias": np.int32,
    "first_shifts": np.uint8,
    "second": np.int8,
    "second_bias": np.int32,
    "second_shifts": np.uint8,
    "third": np.int8,
    "third_shifts": np.uint8,
}

Codebooks = NDArray[np.floating]
"""``[Q, K, D]`` as they lie beside the tables."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Network(Integers):
    """The integers; checked on construction, ``ModelError`` if they do not fit each other."""

    AXES: ClassVar = {
        "offsets": 1,
        "digits": 1,
        "first": 3,
        "first_bias": 2,
        "first_shifts": 1,
        "second": 2,
        "second_bias": 2,
        "second_shifts": 1,
        "third": 3,
        "third_shifts": 2,
    }

    offsets: NDArray[np.int8]  # [O] frames from the code that is predicted; negative: earlier
    digits: NDArray[np.uint8]  # [1] binary digits of the fraction of words
    first: NDArray[np.int8]  # [O, D + 1 + Q, H], behind D rows those of frames that end after 0 to Q stages
    first_bias: NDArray[np.int32]  # [Q, H]
    first_shifts: NDArray[np.uint8]  # [H]
    second: NDArray[np.int8]  # [H, E]
    second_bias: NDArray[np.int32]  # [Q, E]
    second_shifts: NDArray[np.uint8]  # [E]
    third: NDArray[np.int8]  # [Q, E, R]
    third_shifts: NDArray[np.uint8]  # [Q, R]

    @property
    def width(self) -> int:
        """D of the latents."""
        n_rows: int = self.first.shape[1]
        return n_rows - 1 - len(self.third)

    def dtypes(self) -> dict[str, type]:
        """See `Integers.dtypes`."""
        return dict(_DTYPES)

    def words(self, codewords: Codebooks) -> NDArray[np.float32]:
        """Whole numbers ``[N, D]`` of codewords ``[N, D]``."""
        scale = np.float32(2) ** self.digits.astype(np.float32)
        whole: NDArray[np.float32] = np.rint(codewords.astype(np.float32) * scale)
        return whole

    def check(self, codebooks: Codebooks) -> float:
        """The most that the words of one stage add to a sum of the first layer.

        Raises:
            ModelError: codebooks of another shape, or so large that sums would not stay exact.
        """
        n_stages, _, width = codebooks.shape
        expected = len(self.third), self.width
        if (n_stages, width) != expected:
            raise ModelError(
                f"the entropy tables are for {expected[0]} codebooks of width {expected[1]}; "
                f"the weights have {n_stages} of width {width}: fit them again"
            )
        weights = np.abs(self.first.astype(np.float64))  # [O, D + 1, H]
        numbers = codebooks.astype(np.float32)
        highest = self.words(np.maximum(numbers.max(axis=1), -numbers.min(axis=1)))  # [Q, D]
        of_stages = np.tensordot(highest.astype(np.float64), weights[:, :width], axes=(1, 1))  # [Q, O, H]
        told = 2.0 ** int(self.digits[0]) * weights[:, width:].max(axis=1).sum(axis=0)
        largest = float((of_stages.sum(axis=(0, 1)) + told + np.abs(self.first_bias).max(axis=0)).max())
        if not largest < SUM_LIMIT:
            raise ModelError(
                f"words of up to {highest.max():.0f} have sums of up to {largest:.0f}; expected less than "
                f"2 ** 31: fit the entropy tables again"
            )
        return float(of_stages.max())

    def vector_bounds(self) -> NDArray[np.int64]:
        """``[Q, R]`` that no number which is added to a vector is larger than in magnitude."""
        sums = ACTIVE * np.abs(self.third.astype(np.int64)).sum(axis=1)
        bounds: NDArray[np.int64] = (sums >> self.third_shifts.astype(np.int64)) + 1
        return bounds

    def _complaint(self) -> str | None:
        complaint = super()._complaint()
        if complaint:
            return complaint
        n_offsets, n_rows, n_first = self.first.shape
        n_stages, n_second, rank = self.third.shape
        if self.width < 1:
            return f"first has {n_rows} rows; expected more than 1 + {n_stages} stages"
        shapes = {
            "offsets": (n_offsets,),
            "digits": (1,),
            "first": (n_offsets, n_rows, n_first),
            "first_bias": (n_stages, n_first),
            "first_shifts": (n_first,),
            "second": (n_first, n_second),
            "second_bias": (n_stages, n_second),
            "second_shifts": (n_second,),
            "third_shifts": (n_stages, rank),
        }
        return self._complaint_about_shapes(shapes) or self._complaint_about_values()

    def _complaint_about_values(self) -> str | None:
        shifts = [self.digits, self.first_shifts, self.second_shifts, self.third_shifts]
        if max(int(each.max()) for each in shifts) > 30:
            return "a number is shifted by more than 30 digits"
        second = ACTIVE * np.abs(self.second.astype(np.int64)).sum(axis=0)
        second += np.abs(self.second_bias.astype(np.int64)).max(axis=0)
        third = ACTIVE * np.abs(self.third.astype(np.int64)).sum(axis=1)
        largest = max(int(second.max()), int(third.max()))
        if largest >= EXACT:
            return f"a hidden sum could reach {largest}; expected less than {EXACT}"
        return None


def read_codebooks(folder: Path) -> Codebooks:
    """Codebooks of the weights in ``folder``; `ModelError` if they cannot be read."""
    try:
        with safe_open(folder / _WEIGHTS, "np") as file:
            found: Codebooks = file.get_tensor(_CODEBOOKS)
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"cannot read the codebooks in {folder / _WEIGHTS}: {error}; "
            "give a folder written by `telucodec train`"
        ) from error
    return found
