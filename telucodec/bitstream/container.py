"""The ``.codes`` container: header, packets, seek table. Written packet by packet, or a whole one at once.

``docs/format.md`` is the specification; `telucodec.bitstream.header`, `.packet` and `.seek` hold its three
parts, `telucodec.bitstream.parser` reads streams that may be damaged. Nothing here imports torch.

Shapes: Q codebooks, L frames.
"""

import dataclasses
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Self

import numpy as np

from telucodec.bitstream.bitpack import Codes
from telucodec.bitstream.coder import FixedWidthCoder, PacketCoder
from telucodec.bitstream.header import HEADER_BYTES, Header, read_header
from telucodec.bitstream.packet import Packet, write_packet
from telucodec.bitstream.parser import Damage, StreamParser, Summary, summarize
from telucodec.bitstream.seek import write_table
from telucodec.errors import BitstreamError

__all__ = ["HEADER_BYTES", "Header", "Summary", "read_header", "summarize"]


class PacketWriter:
    """Bytes of a stream, packet by packet; counts them, and keeps their sizes for the seek table."""

    def __init__(self, header: Header, coder: PacketCoder, *, has_seek_table: bool = False) -> None:
        if (coder.mode, coder.tables_hash) != (header.entropy_mode, header.tables_hash):
            raise ValueError("the coder is not the one that the header names")
        self.header = header
        self._coder = coder
        self.n_packets = 0
        self.n_payload_bytes = 0
        self._sizes = array("I") if has_seek_table else None

    def begin(self) -> bytes:
        """The header, which comes first."""
        return self.header.to_bytes()

    def packet(self, codes: Codes, n_padding: int | None = None) -> bytes:
        """One packet of codes ``[Q, L]``; ``n_padding`` makes it the last, and the seek table follows."""
        n_frames = codes.shape[1]
        if n_padding is None and n_frames != self.header.frames_per_packet:
            raise ValueError(f"a packet of {n_frames} frames; only the last may be short")
        return self.coded_packet(n_frames, self._coder.encode(codes) if n_frames else b"", n_padding)

    def coded_packet(self, n_frames: int, payload: bytes, n_padding: int | None = None) -> bytes:
        """The same of ``n_frames`` frames that the coder made ``payload`` of."""
        data = write_packet(Packet(self.n_packets, n_frames, payload, n_padding))
        self.n_packets += 1
        self.n_payload_bytes += len(payload)
        if self._sizes is None:
            return data
        self._sizes.append(len(data))
        return data if n_padding is None else data + write_table(self._sizes)


@dataclass(frozen=True, kw_only=True, eq=False)
class Stream(Header):
    """A whole stream in memory: the header and the codes ``[Q, L]`` as uint16."""

    codes: Codes

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Stream):
            return NotImplemented
        return self.header == other.header and np.array_equal(self.codes, other.codes)

    __hash__ = None  # type: ignore[assignment]  # the codes are a mutable array

    @property
    def header(self) -> Header:
        """The header alone."""
        return Header(**{f.name: getattr(self, f.name) for f in fields(Header)})

    def to_bytes(self, coder: PacketCoder | None = None, *, has_seek_table: bool = False) -> bytes:
        """Serialize; the same stream always gives the same bytes. The plain coder if None.

        Raises:
            ValueError: a field is out of its range, or ``codes`` is not ``[n_codebooks, n_frames]``.
        """
        header = self.header
        begin = header.to_bytes()
        n_frames, n_packets = header.n_frames, header.n_packets
        if n_frames is None or n_packets is None or self.n_samples is None:
            raise ValueError("a whole stream has a known n_samples")
        if self.codes.shape != (self.n_codebooks, n_frames):
            raise ValueError(
                f"codes have shape {self.codes.shape}; {self.n_samples} samples in {self.n_codebooks} "
                f"codebooks take {(self.n_codebooks, n_frames)}"
            )
        writer = PacketWriter(
            header, coder or FixedWidthCoder(self.codeword_bits), has_seek_table=has_seek_table
        )
        n_padding = n_frames * self.hop - self.delay - self.n_samples if n_frames else 0
        step = self.frames_per_packet
        parts = [
            writer.packet(self.codes[:, i * step : (i + 1) * step], n_padding if i == n_packets - 1 else None)
            for i in range(n_packets)
        ]
        return begin + b"".join(parts)

    @classmethod
    def from_bytes(cls, data: bytes, coder: PacketCoder | None = None) -> Self:
        """Parse a whole stream; `BitstreamError` for any damage at all."""
        parser = StreamParser()
        found = parser.push(data) + parser.finish()
        header, summary = parser.summary().header, parser.summary()
        if summary.damages:
            raise BitstreamError(f"damaged stream: {summary.damages[0]}; get a fresh copy")
        coder = coder or FixedWidthCoder(header.codeword_bits)
        check_coder(header, coder)
        codes = [np.zeros((header.n_codebooks, 0), dtype=np.uint16)]
        codes += [
            coder.decode(item.payload, header.n_codebooks, item.n_frames)
            for item in found
            if isinstance(item, Packet) and item.n_frames
        ]
        header = dataclasses.replace(header, n_samples=summary.n_samples)
        return cls(**{f.name: getattr(header, f.name) for f in fields(Header)}, codes=np.hstack(codes))


def check_coder(header: Header, coder: PacketCoder) -> None:
    """Refuse to read a stream with other tables than those it was written with."""
    if coder.mode != header.entropy_mode:
        raise BitstreamError(f"entropy mode {header.entropy_mode} in the stream; the coder's is {coder.mode}")
    if coder.tables_hash != header.tables_hash:
        raise BitstreamError(
            f"the stream was coded with tables {header.tables_hash.hex()}, those at hand are "
            f"{coder.tables_hash.hex()}; "
            "use the weights that made it or, if they are these, the version of telucodec that did"
        )


def truncate(pieces: Iterable[bytes], coder: PacketCoder, n_codebooks: int) -> Iterator[bytes]:
    """The stream in ``pieces`` with its first ``n_codebooks`` stages only, piece by piece.

    No network is needed: later stages only refine what the earlier ones say. A stream of fewer stages
    keeps those it has; a seek table is not carried over.

    Raises:
        BitstreamError: the stream is damaged anywhere, or was not written with ``coder``.
    """
    parser = StreamParser()
    writer: PacketWriter | None = None
    n_kept = n_codebooks

    def converted(found: Iterable[Packet | Damage]) -> Iterator[bytes]:
        nonlocal writer, n_kept
        if parser.header is None:
            return
        if writer is None:
            check_coder(parser.header, coder)
            n_kept = min(n_codebooks, parser.header.n_codebooks)
            writer = PacketWriter(dataclasses.replace(parser.header, n_codebooks=n_kept), coder)
            yield writer.begin()
        for item in found:
            if isinstance(item, Damage):
                raise BitstreamError(f"damaged stream: {item}; get a fresh copy before truncating it")
            codes = np.zeros((n_kept, 0), dtype=np.uint16)
            if item.n_frames:
                codes = coder.decode(item.payload, parser.header.n_codebooks, item.n_frames)[:n_kept]
            yield writer.packet(codes, item.n_padding)

    for piece in pieces:
        yield from converted(parser.push(piece))
    yield from converted(parser.finish())
    if parser.damages:
        raise BitstreamError(f"damaged stream: {parser.damages[0]}; get a fresh copy before truncating it")
