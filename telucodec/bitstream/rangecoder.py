"""Symbols to bytes and back by range coding: a thin door to the library ``constriction``.

The library owns the coder (32-bit words, 64-bit state); the probabilities are ours, and they are
integers. `frequencies` turns integer weights into frequencies that sum to ``2 ** 24``, the
resolution of the library's models, every one at least 1. The library takes probabilities as
floats and turns them into frequencies as ``floor(cumulated * scale) + index``, with ``scale`` the
free mass over the sum. Given each frequency less one, that sum *is* the free mass: ``scale`` is
exactly one, every cumulated value is an integer below ``2 ** 24`` and exact in float32, and the
library's model is our table to the last unit on every machine (tests/test_rangecoder.py compares
the coder's state).

The coder writes whole words. `RangeWriter.finish` replaces the last ones by the number inside the
final interval that has the most zero bytes at its end, and drops those: the cost of ending is
below two bytes. A reader continues the bytes with zeros, which is the same number.
"""

from functools import lru_cache

import constriction
import numpy as np
from numpy.typing import NDArray

from telucodec.errors import BitstreamError

TOTAL_BITS = 24
TOTAL = 1 << TOTAL_BITS  # that the frequencies of one symbol sum to
_WORD_BYTES, _STATE_BITS = 4, 64
MAX_WAITING = 1 << 12  # symbols that a writer holds back
_FAMILY = constriction.stream.model.Categorical(perfect=False)

Frequencies = NDArray[np.float32]
"""``[N, A]`` for N symbols of an alphabet of A: frequency less one, sum ``TOTAL - A`` in each row."""


def frequencies(weights: NDArray[np.integer] | NDArray[np.float64]) -> Frequencies:
    """Frequencies proportional to whole ``weights`` ``[..., A]``: every symbol at least 1 in ``TOTAL``.

    Two products of matrices add up and take differences: all their sums are integers that floats hold,
    and a quotient that float64 rounds is never rounded up to an integer, so this is integer arithmetic.

    Args:
        weights: at least 0, with a sum from 1 to ``2 ** 29 - 1``; A at most a few thousand.
    """
    cumulated, differences = _sums(weights.shape[-1])
    ends: NDArray[np.float64] = weights @ cumulated
    ends /= ends[..., -1:] / cumulated[0, 0]
    free: Frequencies = np.floor(ends).astype(np.float32) @ differences
    return free


@lru_cache(maxsize=64)
def _sums(n_symbols: int) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Matrices ``[A, A]``: weights to cumulated sums times the free mass; cumulated sums to differences."""
    differences = np.eye(n_symbols, dtype=np.float32) - np.eye(n_symbols, k=1, dtype=np.float32)
    return np.triu(np.full((n_symbols, n_symbols), float(TOTAL - n_symbols))), differences


class RangeWriter:
    """Codes symbols one batch after the other; `finish` returns the bytes."""

    def __init__(self) -> None:
        self._coder = constriction.stream.queue.RangeEncoder()
        self._symbols: list[NDArray[np.integer]] = []  # not coded yet: many at once are faster
        self._tables: list[Frequencies] = []
        self._n_waiting = 0
        self._n_symbols = 0  # of the tables that wait

    def write(self, symbols: NDArray[np.integer], table: Frequencies) -> None:
        """``symbols`` ``[N]``, each below A, under its row of ``table`` ``[N, A]``."""
        n_rows, n_symbols = table.shape
        if n_symbols == 1:  # the library has no model of one symbol
            return
        if n_symbols != self._n_symbols or self._n_waiting >= MAX_WAITING:
            self._flush()
            self._n_symbols = n_symbols
        self._symbols.append(symbols)
        self._tables.append(table)
        self._n_waiting += n_rows

    def _flush(self) -> None:
        if self._tables:
            symbols, table = (
                parts[0] if len(parts) == 1 else np.concatenate(parts)
                for parts in (self._symbols, self._tables)
            )
            self._coder.encode(symbols.astype(np.int32, copy=False), _FAMILY, np.ascontiguousarray(table))
            self._symbols, self._tables, self._n_waiting = [], [], 0

    def finish(self) -> bytes:
        """The fewest bytes, at least one, that a `RangeReader` turns back into the symbols."""
        self._flush()
        words = self._coder.get_compressed()
        n_done, (lower, width) = self._coder.pos()
        n_bits = 8 * _WORD_BYTES * n_done + _STATE_BITS  # the interval's ends are numbers of this many bits
        sealed = int.from_bytes(words.astype(">u4").tobytes(), "big") << (n_bits - 32 * len(words))
        # Sealing chose a number of the interval; what it added to ``lower`` gives back the exact lower end.
        low = sealed - (sealed - lower) % (1 << _STATE_BITS)
        high = low + width - 1
        n_zeros = 0  # the most zero bits at the end of any number in [low, high]
        while (high >> (n_zeros + 8)) << (n_zeros + 8) >= low and n_zeros < n_bits:
            n_zeros += 8
        number = (high >> n_zeros) << n_zeros
        return number.to_bytes(n_bits // 8, "big").rstrip(b"\0") or b"\0"


class RangeReader:
    """Reads back what a `RangeWriter` wrote, given the same tables in the same order."""

    def __init__(self, data: bytes) -> None:
        padded = data + bytes(-len(data) % _WORD_BYTES + 2 * _WORD_BYTES)
        self._coder = constriction.stream.queue.RangeDecoder(
            np.frombuffer(padded, dtype=">u4").astype(np.uint32)
        )

    def read(self, table: Frequencies) -> NDArray[np.int32]:
        """Symbols ``[N]`` under the rows of ``table`` ``[N, A]``.

        Raises:
            BitstreamError: no sequence of symbols has these bytes.
        """
        if table.shape[1] == 1:
            return np.zeros(len(table), dtype=np.int32)
        try:
            symbols: NDArray[np.int32] = self._coder.decode(_FAMILY, table)
        except (AssertionError, ValueError, RuntimeError) as error:
            raise BitstreamError(f"the coded symbols are damaged: {error}") from error
        return symbols
