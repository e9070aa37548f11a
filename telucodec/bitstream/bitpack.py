"""Fixed-width packing of codes into bytes: the baseline rate, ``Q * codeword_bits`` bits a frame.

Codes are written stage by stage, coarse stage first, the frames of a stage in order, most
significant bit first, so that a prefix of the bits is the same signal at a lower rate. The last
byte is filled with zero bits, and only zero bits are accepted there: one table of codes has exactly
one spelling in bytes.

Shapes: Q codebooks, L frames.
"""

import numpy as np
from numpy.typing import NDArray

from telucodec.errors import BitstreamError

MAX_CODEWORD_BITS = 16

Codes = NDArray[np.uint16]
"""``[Q, L]``, coarse stage first; every value below ``2 ** codeword_bits``, or `ABSENT`."""

ABSENT = 0xFFFF
"""In place of a code: the frame ends at an earlier stage. Only coders of variable depth write it."""


def packed_size(n_codebooks: int, n_frames: int, codeword_bits: int) -> int:
    """Bytes that ``n_codebooks * n_frames`` codewords take, the zero bits at the end included."""
    return -(-n_codebooks * n_frames * codeword_bits // 8)


def pack(codes: Codes, codeword_bits: int) -> bytes:
    """Codes ``[Q, L]`` to ``packed_size(Q, L, codeword_bits)`` bytes.

    Raises:
        ValueError: ``codes`` is not two-dimensional or a code does not fit in ``codeword_bits``.
    """
    _check_width(codeword_bits)
    if codes.ndim != 2:
        raise ValueError(f"codes have shape {codes.shape}; expected [Q, L]")
    if codes.size and not 0 <= int(codes.min()) <= int(codes.max()) < 1 << codeword_bits:
        raise ValueError(
            f"codes run from {int(codes.min())} to {int(codes.max())}; "
            f"{codeword_bits} bits hold 0 to {(1 << codeword_bits) - 1}"
        )
    symbols = codes.reshape(-1, 1).astype(np.uint16)  # [Q * L, 1], coarse stage first
    bits = (symbols >> _shifts(codeword_bits)) & 1  # [Q * L, codeword_bits]
    return np.packbits(bits.astype(np.uint8)).tobytes()


def unpack(packed: bytes, *, n_codebooks: int, n_frames: int, codeword_bits: int) -> Codes:
    """The inverse of `pack`: ``[Q, L]``.

    Raises:
        BitstreamError: the number of bytes is not ``packed_size(...)``, or the filling bits are not zero.
        ValueError: ``codeword_bits`` is outside 1 to 16.
    """
    _check_width(codeword_bits)
    expected = packed_size(n_codebooks, n_frames, codeword_bits)
    if len(packed) != expected:
        raise BitstreamError(
            f"packed codes take {len(packed)} bytes; {n_frames} frames of {n_codebooks} codewords "
            f"of {codeword_bits} bits take {expected}"
        )
    n_bits = n_codebooks * n_frames * codeword_bits
    bits = np.unpackbits(np.frombuffer(packed, dtype=np.uint8))
    if bits[n_bits:].any():
        raise BitstreamError(
            f"the last {len(bits) - n_bits} bits of the packed codes fill a byte; expected zeros"
        )
    table = bits[:n_bits].reshape(n_codebooks, n_frames, codeword_bits).astype(np.uint16)
    symbols: Codes = (table << _shifts(codeword_bits)).sum(axis=-1, dtype=np.uint16)  # [Q, L]
    return symbols


def _shifts(codeword_bits: int) -> Codes:
    return np.arange(codeword_bits - 1, -1, -1, dtype=np.uint16)


def _check_width(codeword_bits: int) -> None:
    if not 1 <= codeword_bits <= MAX_CODEWORD_BITS:
        raise ValueError(f"codeword_bits is {codeword_bits}; expected 1 to {MAX_CODEWORD_BITS}")
