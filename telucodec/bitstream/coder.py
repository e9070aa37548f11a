"""One packet of codes to bytes and back: what every way of coding them must offer, and the plainest way.

A coder remembers nothing from one packet to the next, so that each packet can be decoded alone. It must
give the same bytes and the same codes on every machine: integers only from the tables to the bytes.

Shapes: Q codebooks, L frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from telucodec.bitstream.bitpack import Codes, pack, unpack
from telucodec.errors import BitstreamError

ENTROPY_MODES = {"none": 0, "static": 1, "variable": 3, "refined": 4}
"""Names on the command line -> the byte in the header. A number never changes its meaning."""

N_LEVEL_STAGES = 8
"""Stages of a refinement, behind that of the step, that say levels of bands; coefficients come after them."""

TABLES_HASH_BYTES = 8
NO_TABLES = bytes(TABLES_HASH_BYTES)


class PacketCoder(Protocol):
    """Codes of one packet to bytes and back, without memory of other packets."""

    @property
    def mode(self) -> int:
        """The entropy mode in the header, one of `ENTROPY_MODES`."""

    @property
    def tables_hash(self) -> bytes:
        """First 8 bytes of the SHA-256 of the tables; zeros where there are none."""

    def encode(self, codes: Codes) -> bytes:
        """Codes ``[Q, L]`` with ``L >= 1`` to at least one byte."""

    def decode(self, data: bytes, n_codebooks: int, n_frames: int) -> Codes:
        """The inverse: ``[Q, L]`` from exactly the bytes of ``data``.

        Raises:
            BitstreamError: ``data`` is not what `encode` writes for some codes of this shape.
        """

    def encode_all(self, packets: Sequence[Codes]) -> list[bytes]:
        """What `encode` makes of each packet."""

    def decode_all(
        self, packets: Sequence[tuple[bytes, int]], n_codebooks: int
    ) -> list[Codes | BitstreamError]:
        """What `decode` makes of the bytes of packets of so many frames, or raises for them."""


def single(found: Sequence[Codes | BitstreamError]) -> Codes:
    """What `PacketCoder.decode_all` made of one packet; its error is raised."""
    (item,) = found
    if isinstance(item, BitstreamError):
        raise item
    return item


@dataclass(frozen=True)
class FixedWidthCoder:
    """Mode 0: every code takes ``codeword_bits`` bits, see `telucodec.bitstream.bitpack`."""

    codeword_bits: int
    mode: int = 0
    tables_hash: bytes = NO_TABLES

    def encode(self, codes: Codes) -> bytes:
        """``packed_size(Q, L, codeword_bits)`` bytes."""
        return pack(codes, self.codeword_bits)

    def decode(self, data: bytes, n_codebooks: int, n_frames: int) -> Codes:
        """The inverse of `encode`; raises `BitstreamError` as `unpack` does."""
        return unpack(data, n_codebooks=n_codebooks, n_frames=n_frames, codeword_bits=self.codeword_bits)

    def encode_all(self, packets: Sequence[Codes]) -> list[bytes]:
        """See `PacketCoder.encode_all`."""
        return [self.encode(codes) for codes in packets]

    def decode_all(
        self, packets: Sequence[tuple[bytes, int]], n_codebooks: int
    ) -> list[Codes | BitstreamError]:
        """See `PacketCoder.decode_all`."""
        found: list[Codes | BitstreamError] = []
        for data, n_frames in packets:
            try:
                found.append(self.decode(data, n_codebooks, n_frames))
            except BitstreamError as error:
                found.append(error)
        return found
