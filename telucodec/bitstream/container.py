"""The ``.codes`` container: a fixed header, then the packed codes.

Version 1, little-endian (``docs/format.md`` is the same table for another team):

    offset  size  field
    0       4     magic, b"TELU"
    4       1     version, 1
    5       1     codeword_bits, 1 to 16
    6       2     n_codebooks, Q
    8       4     sample_rate_hz
    12      2     hop, samples per frame
    14      2     delay of the codec, samples
    16      8     n_samples after decoding and trimming
    24      8     model_id, first 8 bytes of the SHA-256 of the weights
    32      4     payload size in bytes
    36      4     CRC-32 of bytes 0..35 and the payload
    40      -     payload, see `telucodec.bitstream.bitpack`

The number of frames is not stored: it follows from ``n_samples``, ``hop`` and ``delay``.

Parsing is strict: a wrong magic, version, size or checksum is refused before a model is loaded,
and no length read from the file is used before it is checked against the bytes at hand. Every
version keeps bytes 0 to 4, so that a reader can always name the version it does not know.
Nothing here imports torch.
"""

import struct
import zlib
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np

from telucodec.bitstream.bitpack import MAX_CODEWORD_BITS, Codes, pack, packed_size, unpack
from telucodec.errors import BitstreamError

MAGIC, FORMAT_VERSION = b"TELU", 1
_HEADER, _CRC = struct.Struct("<4sBBHIHHQ8sI"), struct.Struct("<I")
HEADER_BYTES = _HEADER.size + _CRC.size
_MODEL_ID_BYTES = 8
_LIMITS = {  # field -> smallest and largest legal value; payload_bytes last, it divides by hop
    "codeword_bits": (1, MAX_CODEWORD_BITS),
    "n_codebooks": (1, 2**16 - 1),
    "sample_rate_hz": (1, 2**32 - 1),
    "hop": (1, 2**16 - 1),
    "delay": (0, 2**16 - 1),
    "n_samples": (0, 2**64 - 1),
    "payload_bytes": (0, 2**32 - 1),
}


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a stream says about itself before a single code is unpacked."""

    sample_rate_hz: int
    hop: int  # samples per frame
    delay: int  # samples by which the codec looks past the end of the signal
    n_codebooks: int  # Q
    codeword_bits: int
    n_samples: int  # of the decoded signal, one channel
    model_id: bytes  # 8 bytes

    @property
    def n_frames(self) -> int:
        """L: ``ceil((n_samples + delay) / hop)``, and 0 for an empty signal."""
        return -(-(self.n_samples + self.delay) // self.hop) if self.n_samples else 0

    @property
    def seconds(self) -> float:
        """Duration of the decoded signal."""
        return self.n_samples / self.sample_rate_hz

    @property
    def payload_bytes(self) -> int:
        """Bytes of packed codes, header not counted."""
        return packed_size(self.n_codebooks, self.n_frames, self.codeword_bits)

    @property
    def file_bytes(self) -> int:
        """Bytes of the whole stream, header counted."""
        return HEADER_BYTES + self.payload_bytes

    @property
    def payload_kbps(self) -> float | None:
        """Rate of the packed codes over the duration; None for an empty signal."""
        return 8e-3 * self.payload_bytes / self.seconds if self.n_samples else None

    @property
    def file_kbps(self) -> float | None:
        """Rate of the file as it lies on the disk, header counted; None for an empty signal."""
        return 8e-3 * self.file_bytes / self.seconds if self.n_samples else None

    def describe(self) -> dict[str, Any]:
        """Everything worth showing, in plain JSON types."""
        return {
            "format_version": FORMAT_VERSION,
            "model_id": self.model_id.hex(),
            "sample_rate_hz": self.sample_rate_hz,
            "n_samples": self.n_samples,
            "seconds": self.seconds,
            "n_codebooks": self.n_codebooks,
            "codeword_bits": self.codeword_bits,
            "hop": self.hop,
            "delay": self.delay,
            "n_frames": self.n_frames,
            "file_bytes": self.file_bytes,
            "payload_bytes": self.payload_bytes,
            "file_kbps": self.file_kbps,
            "payload_kbps": self.payload_kbps,
        }

    def complaint(self) -> str | None:
        """The first field that no version 1 stream can hold, with what was expected; None if all is well."""
        for name, (low, high) in _LIMITS.items():
            value = getattr(self, name)
            if not low <= value <= high:
                return f"{name} is {value}; expected {low} to {high}"
        if len(self.model_id) != _MODEL_ID_BYTES:
            return f"model_id has {len(self.model_id)} bytes; expected {_MODEL_ID_BYTES}"
        return None


@dataclass(frozen=True, kw_only=True, eq=False)
class Stream(Header):
    """A whole ``.codes`` file: the header and the codes ``[Q, L]`` as uint16."""

    codes: Codes

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Stream):
            return NotImplemented
        same_header = all(getattr(self, f.name) == getattr(other, f.name) for f in fields(Header))
        return same_header and np.array_equal(self.codes, other.codes)

    __hash__ = None  # type: ignore[assignment]  # the codes are a mutable array

    def to_bytes(self) -> bytes:
        """Serialize; the same stream always gives the same bytes.

        Raises:
            ValueError: a field is out of its range, or ``codes`` is not ``[n_codebooks, n_frames]``.
        """
        complaint = self.complaint()
        if complaint:
            raise ValueError(complaint)
        if self.codes.shape != (self.n_codebooks, self.n_frames):
            raise ValueError(
                f"codes have shape {self.codes.shape}; {self.n_samples} samples in {self.n_codebooks} "
                f"codebooks take {(self.n_codebooks, self.n_frames)}"
            )
        payload = pack(self.codes, self.codeword_bits)
        head = _HEADER.pack(
            MAGIC, FORMAT_VERSION, self.codeword_bits, self.n_codebooks, self.sample_rate_hz,
            self.hop, self.delay, self.n_samples, self.model_id, len(payload),
        )  # fmt: skip
        return head + _CRC.pack(zlib.crc32(payload, zlib.crc32(head))) + payload

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parse a whole stream, or raise `BitstreamError` saying what was found and what was expected."""
        header = read_header(data)
        codes = unpack(
            data[HEADER_BYTES:],
            n_codebooks=header.n_codebooks,
            n_frames=header.n_frames,
            codeword_bits=header.codeword_bits,
        )
        return cls(**{f.name: getattr(header, f.name) for f in fields(Header)}, codes=codes)


def read_header(data: bytes) -> Header:
    """Header of the complete stream ``data``, sizes and checksum verified, codes left packed.

    Raises:
        BitstreamError: anything at all is not as version 1 has it.
    """
    if len(data) > len(MAGIC):  # name a foreign file or version even where it is short
        _check_start(data)
    if len(data) < HEADER_BYTES:
        raise BitstreamError(
            f"truncated stream: {len(data)} bytes, but the header alone takes {HEADER_BYTES}"
        )
    _, _, codeword_bits, n_codebooks, sample_rate_hz, hop, delay, n_samples, model_id, size = (
        _HEADER.unpack_from(data)
    )
    at_hand = len(data) - HEADER_BYTES
    if at_hand != size:
        remedy = "truncated stream" if at_hand < size else "bytes after the end of the stream"
        raise BitstreamError(f"{remedy}: the payload is {at_hand} bytes, the header announces {size}")
    (crc,) = _CRC.unpack_from(data, _HEADER.size)
    found = zlib.crc32(memoryview(data)[HEADER_BYTES:], zlib.crc32(data[: _HEADER.size]))
    if found != crc:
        raise BitstreamError(
            f"damaged stream: its checksum is {found:08x}, the header announces {crc:08x}; get a fresh copy"
        )
    header = Header(
        sample_rate_hz=sample_rate_hz,
        hop=hop,
        delay=delay,
        n_codebooks=n_codebooks,
        codeword_bits=codeword_bits,
        n_samples=n_samples,
        model_id=model_id,
    )
    complaint = header.complaint()
    if complaint:
        raise BitstreamError(f"impossible stream: {complaint}")
    if header.payload_bytes != size:
        raise BitstreamError(
            f"the payload is {size} bytes; {header.n_frames} frames of {n_codebooks} codewords "
            f"of {codeword_bits} bits take {header.payload_bytes}"
        )
    return header


def _check_start(data: bytes) -> None:
    magic, version = data[: len(MAGIC)], data[len(MAGIC)]
    if magic != MAGIC:
        raise BitstreamError(f"not a .codes stream: it starts with {magic!r}, expected {MAGIC!r}")
    if version != FORMAT_VERSION:
        raise BitstreamError(
            f"stream version {version} is not supported; this build reads version {FORMAT_VERSION}"
        )
