"""The fixed header of a ``.codes`` stream: 48 bytes under a checksum of their own.

Version 1, little-endian (``docs/format.md`` is the same table for another team):

    offset  size  field
    0       4     magic, b"TELU"
    4       1     version, 1
    5       1     channels, 1
    6       1     codeword_bits, 1 to 16
    7       1     entropy_mode, see `telucodec.bitstream.coder`
    8       2     n_codebooks, Q
    10      2     frames_per_packet
    12      2     hop, samples per frame
    14      2     delay of the codec, samples
    16      4     sample_rate_hz
    20      8     model_id, first 8 bytes of the SHA-256 of the weights
    28      8     tables_hash, first 8 bytes of the SHA-256 of the coder's tables
    36      8     n_samples after decoding and trimming; 2**64 - 1: not known when this was written
    44      4     CRC-32 of bytes 0..43

Every version keeps bytes 0 to 4, so that a reader can always name the version it does not know.
Limits keep what one packet can ask of a reader small, whoever wrote the header. No torch here.
"""

import struct
import zlib
from dataclasses import dataclass
from typing import Any

from telucodec.bitstream.bitpack import MAX_CODEWORD_BITS, packed_size
from telucodec.bitstream.coder import NO_TABLES, TABLES_HASH_BYTES
from telucodec.errors import BitstreamError

MAGIC, FORMAT_VERSION = b"TELU", 1
MAX_PACKET_FRAMES = 3000  # a minute at 50 frames/s; also the longest gap that is bridged
MAX_PACKET_CODES = 1 << 18  # Q * frames_per_packet
_HEADER, _CRC = struct.Struct("<4sBBBBHHHHI8s8sQ"), struct.Struct("<I")
HEADER_BYTES = _HEADER.size + _CRC.size
_MODEL_ID_BYTES = 8
_UNKNOWN = 2**64 - 1
_LIMITS = {  # field -> smallest and largest legal value
    "channels": (1, 1),
    "codeword_bits": (1, MAX_CODEWORD_BITS),
    "entropy_mode": (0, 255),
    "n_codebooks": (1, 2**16 - 1),
    "frames_per_packet": (1, MAX_PACKET_FRAMES),
    "hop": (1, 2**16 - 1),
    "delay": (0, 2**16 - 1),
    "sample_rate_hz": (1, 2**32 - 1),
    "n_samples": (0, 2**63 - 1),
    "packet_codes": (1, MAX_PACKET_CODES),
}


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a stream says about itself before its first packet."""

    sample_rate_hz: int
    hop: int  # samples per frame
    delay: int  # samples by which the codec looks past the end of the signal
    n_codebooks: int  # Q
    codeword_bits: int
    n_samples: int | None  # of the decoded signal; None in a stream begun before its length was known
    model_id: bytes  # 8 bytes
    frames_per_packet: int = 25
    channels: int = 1
    entropy_mode: int = 0
    tables_hash: bytes = NO_TABLES

    @property
    def n_frames(self) -> int | None:
        """L: ``ceil((n_samples + delay) / hop)``, 0 for an empty signal, None for an unknown length."""
        if self.n_samples is None:
            return None
        return -(-(self.n_samples + self.delay) // self.hop) if self.n_samples else 0

    @property
    def n_packets(self) -> int | None:
        """Packets of the whole stream: at least one, whose frames may be none; None if not known."""
        return None if self.n_frames is None else max(1, -(-self.n_frames // self.frames_per_packet))

    @property
    def packet_codes(self) -> int:
        """Codes in a full packet."""
        return self.n_codebooks * self.frames_per_packet

    @property
    def max_payload_bytes(self) -> int:
        """What no payload exceeds; a reader never waits for more."""
        return 4 * packed_size(self.n_codebooks, self.frames_per_packet, self.codeword_bits) + 64

    @property
    def max_gap_packets(self) -> int:
        """The longest run of missing packets that a reader bridges."""
        return max(1, MAX_PACKET_FRAMES // self.frames_per_packet)

    @property
    def stage_kbps(self) -> float:
        """Nominal payload rate of one stage at fixed width."""
        return self.sample_rate_hz / self.hop * self.codeword_bits / 1000

    def packet_frames(self, index: int) -> int | None:
        """Frames of packet ``index``; None where the length of the signal decides and is not known."""
        if self.n_frames is None or self.n_packets is None:
            return None
        return min(self.frames_per_packet, max(0, self.n_frames - index * self.frames_per_packet))

    def describe(self) -> dict[str, Any]:
        """Every field, in plain JSON types."""
        return {
            "format_version": FORMAT_VERSION,
            "model_id": self.model_id.hex(),
            "sample_rate_hz": self.sample_rate_hz,
            "channels": self.channels,
            "n_samples": self.n_samples,
            "n_codebooks": self.n_codebooks,
            "codeword_bits": self.codeword_bits,
            "hop": self.hop,
            "delay": self.delay,
            "frames_per_packet": self.frames_per_packet,
            "entropy_mode": self.entropy_mode,
            "tables_hash": self.tables_hash.hex(),
        }

    def complaint(self) -> str | None:
        """The first field that no version 1 stream can hold, with what was expected; None if all is well."""
        for name, (low, high) in _LIMITS.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                return f"{name} is {value}; expected {low} to {high}"
        for name, value, size in (
            ("model_id", self.model_id, _MODEL_ID_BYTES),
            ("tables_hash", self.tables_hash, TABLES_HASH_BYTES),
        ):
            if len(value) != size:
                return f"{name} has {len(value)} bytes; expected {size}"
        if not self.entropy_mode and self.tables_hash != NO_TABLES:
            return f"tables_hash is {self.tables_hash.hex()} without entropy coding; expected zeros"
        return None

    def to_bytes(self) -> bytes:
        """The `HEADER_BYTES` bytes that begin a stream; `ValueError` for a field out of its range."""
        complaint = self.complaint()
        if complaint:
            raise ValueError(complaint)
        n_samples = _UNKNOWN if self.n_samples is None else self.n_samples
        head = _HEADER.pack(
            MAGIC, FORMAT_VERSION, self.channels, self.codeword_bits, self.entropy_mode, self.n_codebooks,
            self.frames_per_packet, self.hop, self.delay, self.sample_rate_hz, self.model_id,
            self.tables_hash, n_samples,
        )  # fmt: skip
        return head + _CRC.pack(zlib.crc32(head))


def read_header(data: bytes) -> Header:
    """Header from the first `HEADER_BYTES` of ``data``; what follows is not looked at.

    Raises:
        BitstreamError: anything in it is not as version 1 has it.
    """
    check_start(data)
    if len(data) < HEADER_BYTES:
        raise BitstreamError(
            f"truncated stream: {len(data)} bytes, but the header alone takes {HEADER_BYTES}"
        )
    (announced,) = _CRC.unpack_from(data, _HEADER.size)
    found = zlib.crc32(data[: _HEADER.size])
    if found != announced:
        raise BitstreamError(
            f"damaged stream: the checksum of its header is {found:08x}, it announces {announced:08x}; "
            "get a fresh copy"
        )
    (
        _, _, channels, codeword_bits, entropy_mode, n_codebooks, frames_per_packet, hop, delay,
        sample_rate_hz, model_id, tables_hash, n_samples,
    ) = _HEADER.unpack_from(data)  # fmt: skip
    header = Header(
        sample_rate_hz=sample_rate_hz,
        hop=hop,
        delay=delay,
        n_codebooks=n_codebooks,
        codeword_bits=codeword_bits,
        n_samples=None if n_samples == _UNKNOWN else n_samples,
        model_id=model_id,
        frames_per_packet=frames_per_packet,
        channels=channels,
        entropy_mode=entropy_mode,
        tables_hash=tables_hash,
    )
    complaint = header.complaint()
    if complaint:
        raise BitstreamError(f"impossible stream: {complaint}")
    return header


def check_start(data: bytes) -> None:
    """Name a foreign file or version as soon as there are bytes enough, however short it is."""
    if len(data) <= len(MAGIC):
        return
    magic, version = bytes(data[: len(MAGIC)]), data[len(MAGIC)]
    if magic != MAGIC:
        raise BitstreamError(f"not a .codes stream: it starts with {magic!r}, expected {MAGIC!r}")
    if version != FORMAT_VERSION:
        raise BitstreamError(
            f"stream version {version} is not supported; this build reads version {FORMAT_VERSION}"
        )
