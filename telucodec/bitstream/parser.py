"""Bytes of a ``.codes`` stream, in pieces of any size, to packets; damage becomes a report, not an error.

What comes out depends on the bytes only, never on how they were cut into pieces. Bytes that are no packet
are skipped one by one until a packet that can be expected begins: its checksum covers its place in the
stream, so a match cannot be a packet of elsewhere. No more is kept than the largest packet the header
allows, and no gap is longer than `MAX_PACKET_FRAMES`. A damaged header is an error: nothing can be decoded
without it. Nothing here imports torch.
"""

import zlib
from dataclasses import dataclass
from typing import Any

from telucodec.bitstream.header import (
    FORMAT_VERSION,
    HEADER_BYTES,
    MAX_PACKET_FRAMES,
    Header,
    check_start,
    read_header,
)
from telucodec.bitstream.packet import Incomplete, Packet, read_packet, write_varint
from telucodec.bitstream.seek import MAX_TABLE_BYTES, sizes_checksum
from telucodec.errors import BitstreamError


@dataclass(frozen=True, slots=True)
class Damage:
    """A place where the stream is not whole: ``n_packets`` from ``first`` on are lost, perhaps none."""

    first: int
    n_packets: int
    n_frames: int  # that the lost packets held
    reason: str

    def __str__(self) -> str:
        if not self.n_packets:
            return self.reason
        last = self.first + self.n_packets - 1
        which = f"packet {self.first}" if self.n_packets == 1 else f"packets {self.first} to {last}"
        return f"{which} lost: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A whole stream as it was found; rates are counted from its bytes."""

    header: Header
    n_samples: int  # of the decoded signal
    n_packets: int  # that were read
    file_bytes: int
    payload_bytes: int  # code bytes of those packets alone
    damages: tuple[Damage, ...] = ()

    @property
    def seconds(self) -> float:
        """Duration of the decoded signal."""
        return self.n_samples / self.header.sample_rate_hz

    @property
    def file_kbps(self) -> float | None:
        """Rate of the stream as it lies on the disk, every byte counted; None for an empty signal."""
        return 8e-3 * self.file_bytes / self.seconds if self.n_samples else None

    @property
    def payload_kbps(self) -> float | None:
        """Rate of the coded codes alone; None for an empty signal."""
        return 8e-3 * self.payload_bytes / self.seconds if self.n_samples else None

    @property
    def n_lost(self) -> int:
        """Packets that are damaged or missing."""
        return sum(damage.n_packets for damage in self.damages)

    def describe(self) -> dict[str, Any]:
        """Everything worth showing, in plain JSON types."""
        return self.header.describe() | {
            "format_version": FORMAT_VERSION,
            "n_samples": self.n_samples,
            "is_length_in_header": self.header.n_samples is not None,
            "seconds": self.seconds,
            "n_packets": self.n_packets,
            "n_lost_packets": self.n_lost,
            "file_bytes": self.file_bytes,
            "payload_bytes": self.payload_bytes,
            "file_kbps": self.file_kbps,
            "payload_kbps": self.payload_kbps,
            "damage": [str(damage) for damage in self.damages],
        }


class StreamParser:
    """``push`` bytes as they come, ``finish`` when there are no more; packets and gaps come out in order."""

    def __init__(self) -> None:
        self.header: Header | None = None
        self.damages: list[Damage] = []
        self.is_ended = False  # the last packet was read
        self._buffer = bytearray()
        self._expected = 0  # index of the next packet
        self._n_frames = 0  # of the stream so far, lost packets included
        self._n_padding = 0
        self._n_packets = self._n_payload_bytes = self._n_bytes = 0
        self._skipping: str | None = None  # why the bytes before here are no packet
        self._sizes_crc = 0
        self._is_finished = False

    def push(self, data: bytes) -> list[Packet | Damage]:
        """What ``data`` completes.

        Raises:
            BitstreamError: the header is not one that this build reads.
            ValueError: the stream was finished before.
        """
        if self._is_finished:
            raise ValueError("push after finish; make a new parser for another stream")
        self._n_bytes += len(data)
        if self.is_ended and len(self._buffer) > MAX_TABLE_BYTES:
            return []  # no end of bytes after the end: they are counted, not kept
        self._buffer += data
        return self._advance(is_final=False)

    def finish(self) -> list[Packet | Damage]:
        """What is left when no more bytes come: a gap where the stream ends too early.

        Raises:
            BitstreamError: there is no header, or not a single packet.
        """
        if self._is_finished:
            return []
        found = self._advance(is_final=True)
        self._is_finished = True
        if self.header is None:
            read_header(bytes(self._buffer))
        if not self._n_packets:
            raise BitstreamError(
                f"truncated stream: no packet can be read in the {self._n_bytes} bytes; get a fresh copy"
            )
        if self.is_ended:
            self._check_trailer()
            return found
        return found + self._missing_end()

    def summary(self) -> Summary:
        """The stream so far; `ValueError` before its header has come."""
        if self.header is None:
            raise ValueError("the header has not been read yet")
        n_samples = max(0, self._n_frames * self.header.hop - self.header.delay - self._n_padding)
        if self.header.n_samples is not None:
            n_samples = min(n_samples, self.header.n_samples)
        return Summary(
            header=self.header,
            n_samples=n_samples,
            n_packets=self._n_packets,
            file_bytes=self._n_bytes,
            payload_bytes=self._n_payload_bytes,
            damages=tuple(self.damages),
        )

    def _advance(self, *, is_final: bool) -> list[Packet | Damage]:
        if self.header is None:
            check_start(bytes(self._buffer[:HEADER_BYTES]))
            if len(self._buffer) < HEADER_BYTES:
                return []
            self.header = read_header(bytes(self._buffer[:HEADER_BYTES]))
            del self._buffer[:HEADER_BYTES]
        found: list[Packet | Damage] = []
        at = 0
        while not self.is_ended and at < len(self._buffer):
            try:
                packet, end = read_packet(self._buffer, at, self.header)
                self._check_place(packet)
            except Incomplete:
                if not is_final:
                    break
                self._skipping = self._skipping or "the stream ends inside it"
                at += 1
            except BitstreamError as error:
                self._skipping = self._skipping or str(error)
                at += 1
            else:
                found += self._gap_before(packet)
                found.append(packet)
                self._take(packet, end - at)
                at = end
        del self._buffer[:at]
        return found

    def _check_place(self, packet: Packet) -> None:
        """Refuse what the checksum does not place among the packets that can come next."""
        assert self.header is not None
        ahead = packet.index - self._expected
        if not 0 <= ahead <= self.header.max_gap_packets:
            raise BitstreamError("its checksum does not match")
        total = self.header.n_packets
        if total is None:
            return
        padding = packet.n_padding
        if packet.index >= total or packet.is_last != (packet.index == total - 1):
            raise BitstreamError(f"it does not fit a stream of {total} packets")
        if padding is not None and (packet.n_frames, padding) != self._expected_end(self.header):
            raise BitstreamError(f"it does not end a stream of {self.header.n_samples} samples")

    @staticmethod
    def _expected_end(header: Header) -> tuple[int, int]:
        """Frames and padding of the last packet of a stream of known length."""
        assert header.n_frames is not None
        assert header.n_packets is not None
        assert header.n_samples is not None
        n_frames = header.n_frames - (header.n_packets - 1) * header.frames_per_packet
        n_decoded = header.n_frames * header.hop
        return n_frames, n_decoded - header.delay - header.n_samples if n_frames else 0

    def _gap_before(self, packet: Packet) -> list[Packet | Damage]:
        assert self.header is not None
        n_lost = packet.index - self._expected
        if not n_lost and self._skipping is None:
            return []
        reason = self._skipping or "missing from the stream"
        if not n_lost:
            reason = f"bytes that are no packet before packet {packet.index}"
        return [self._lose(n_lost, n_lost * self.header.frames_per_packet, reason)]

    def _lose(self, n_packets: int, n_frames: int, reason: str) -> Damage:
        damage = Damage(self._expected, n_packets, n_frames, reason)
        self.damages.append(damage)
        self._expected += n_packets
        self._n_frames += n_frames
        self._skipping = None
        return damage

    def _take(self, packet: Packet, n_bytes: int) -> None:
        self._expected = packet.index + 1
        self._n_frames += packet.n_frames
        self._n_padding = packet.n_padding or 0
        self._n_packets += 1
        self._n_payload_bytes += len(packet.payload)
        self._sizes_crc = zlib.crc32(write_varint(n_bytes), self._sizes_crc)
        self.is_ended = packet.is_last

    def _missing_end(self) -> list[Packet | Damage]:
        """The stream stops before its last packet; how much is missing is known only from the header."""
        assert self.header is not None
        reason = self._skipping or "the stream ends before it"
        if self.header.n_packets is None or self.header.n_frames is None:
            return [self._lose(1, 0, "the stream ends without its last packet")]
        n_packets = self.header.n_packets - self._expected
        n_frames = self.header.n_frames - self._n_frames
        if n_frames > MAX_PACKET_FRAMES:
            return [self._lose(n_packets, 0, f"{reason}; too many to bridge, the signal is cut")]
        self._n_padding = self._expected_end(self.header)[1]
        return [self._lose(n_packets, n_frames, reason)]

    def _check_trailer(self) -> None:
        if not self._buffer:
            return
        try:
            if sizes_checksum(bytes(self._buffer)) != self._sizes_crc and not self.damages:
                raise BitstreamError("the seek table is not that of these packets")
        except BitstreamError as error:
            self.damages.append(Damage(self._expected, 0, 0, f"after the last packet: {error}"))


def summarize(data: bytes) -> Summary:
    """Read a whole stream and check every checksum in it.

    Raises:
        BitstreamError: the header is damaged, or there is not a single packet.
    """
    parser = StreamParser()
    parser.push(data)
    parser.finish()
    return parser.summary()
