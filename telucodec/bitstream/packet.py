"""One packet as bytes: length, payload, and a checksum that also knows the packet's place.

    varint  2 * payload_bytes + is_last
    varint  n_frames                      in the last packet only
    varint  n_padding                     in the last packet only: decoded samples after the signal's end
    bytes   payload
    4       CRC-32 of all the above followed by the packet's index as 4 bytes

The index is not stored: a reader knows which packet it expects. When one is missing the checksum gives
the index away, because a CRC can be run backwards over its last four bytes; see `recover_index`.

A varint holds 7 bits a byte, low bits first, the top bit set on all bytes but the last; the shortest
spelling is the only legal one. Nothing here imports torch.
"""

import struct
import zlib
from dataclasses import dataclass

from telucodec.bitstream.bitpack import packed_size
from telucodec.bitstream.header import Header
from telucodec.errors import BitstreamError

CRC_BYTES = 4
_U32 = struct.Struct("<I")
_MAX_VARINT_BYTES = 4
_ONES = 0xFFFF_FFFF


class Incomplete(Exception):
    """The bytes at hand end before the packet does; not an error in a stream that is still arriving."""


@dataclass(frozen=True, slots=True)
class Packet:
    """Frames ``[index * frames_per_packet, ... + n_frames)`` of the stream, still coded."""

    index: int
    n_frames: int
    payload: bytes
    n_padding: int | None = None  # None in every packet but the last

    @property
    def is_last(self) -> bool:
        return self.n_padding is not None


def write_packet(packet: Packet) -> bytes:
    """The bytes of ``packet``."""
    body = write_varint(2 * len(packet.payload) + packet.is_last)
    if packet.n_padding is not None:
        body += write_varint(packet.n_frames) + write_varint(packet.n_padding)
    body += packet.payload
    return body + _U32.pack(zlib.crc32(_U32.pack(packet.index), zlib.crc32(body)))


def read_packet(data: bytes | bytearray, start: int, header: Header) -> tuple[Packet, int]:
    """The packet at ``data[start:]`` and the offset after it.

    The index comes out of the checksum: damaged bytes give a packet with an absurd index rather than an
    error, and it is for the caller to compare it with those it can expect.

    Raises:
        Incomplete: the bytes end too early.
        BitstreamError: no packet of this stream has such a length.
    """
    announced, at = read_varint(data, start)
    n_payload, is_last = announced >> 1, announced & 1
    n_frames, n_padding = header.frames_per_packet, None
    if is_last:
        n_frames, at = read_varint(data, at)
        n_padding, at = read_varint(data, at)
        if n_frames > header.frames_per_packet or n_padding >= (header.hop if n_frames else 1):
            raise BitstreamError(f"the last packet has {n_frames} frames and {n_padding} samples of padding")
    smallest, largest = _payload_limits(header, n_frames)
    if not smallest <= n_payload <= largest:
        raise BitstreamError(
            f"a payload of {n_payload} bytes for {n_frames} frames; expected {smallest} to {largest}"
        )
    end = at + n_payload
    if len(data) < end + CRC_BYTES:
        raise Incomplete
    (stored,) = _U32.unpack_from(data, end)
    index = recover_index(stored, zlib.crc32(memoryview(data)[start:end]))
    return Packet(index, n_frames, bytes(data[at:end]), n_padding), end + CRC_BYTES


def _payload_limits(header: Header, n_frames: int) -> tuple[int, int]:
    if not n_frames:
        return 0, 0
    if header.entropy_mode:
        return 1, header.max_payload_bytes
    exact = packed_size(header.n_codebooks, n_frames, header.codeword_bits)
    return exact, exact


def write_varint(value: int) -> bytes:
    """``value >= 0`` in 7-bit groups, low bits first."""
    groups = bytearray()
    while value > 0x7F:
        groups.append(0x80 | value & 0x7F)
        value >>= 7
    groups.append(value)
    return bytes(groups)


def read_varint(data: bytes | bytearray, at: int) -> tuple[int, int]:
    """The number at ``data[at:]`` and the offset after it.

    Raises:
        Incomplete: the bytes end inside it.
        BitstreamError: it is longer than 4 bytes, or than it need be.
    """
    value = 0
    for n_read in range(_MAX_VARINT_BYTES):
        if at + n_read >= len(data):
            raise Incomplete
        byte = data[at + n_read]
        value |= (byte & 0x7F) << 7 * n_read
        if not byte & 0x80:
            if n_read and not byte:
                raise BitstreamError("a number is spelled longer than it need be")
            return value, at + n_read + 1
    raise BitstreamError(f"a number takes more than {_MAX_VARINT_BYTES} bytes")


def _backward_table() -> list[int]:
    """For each top byte of a CRC register, what the step that led there had mixed in, and from where."""
    table = [0] * 256
    for byte in range(256):
        register = byte
        for _ in range(8):
            register = register >> 1 ^ (0xEDB8_8320 if register & 1 else 0)
        table[register >> 24] = (register << 8 & _ONES) ^ byte
    return table


_BACKWARD = _backward_table()


def recover_index(stored: int, body_crc: int) -> int:
    """The 32-bit number that, after a body of CRC ``body_crc``, gives the CRC ``stored``.

    Four bytes are as many as the register is wide, so there is exactly one: a forward step is undone by
    looking up which table entry the top byte came from.
    """
    register = stored ^ _ONES
    for _ in range(4):
        register = (register << 8 & _ONES) ^ _BACKWARD[register >> 24]
    return register ^ body_crc ^ _ONES
