"""The seek table: the size of every packet, after the last one, for a reader that wants to jump.

    4       magic, b"SEEK"
    4       n_packets
    -       n_packets varints, the bytes each packet takes
    4       CRC-32 of all the above
    4       bytes of the whole table, these four included: where it begins, seen from the end

Optional, and never needed to decode. Nothing here imports torch.
"""

import struct
import zlib
from collections.abc import Iterable

from telucodec.bitstream.packet import Incomplete, read_varint, write_varint
from telucodec.errors import BitstreamError

MAX_TABLE_BYTES = 1 << 20
_MAGIC = b"SEEK"
_START, _U32 = struct.Struct("<4sI"), struct.Struct("<I")


def write_table(sizes: Iterable[int]) -> bytes:
    """The table for packets of ``sizes`` bytes, in order."""
    sizes = list(sizes)
    body = _START.pack(_MAGIC, len(sizes)) + b"".join(map(write_varint, sizes))
    return body + _U32.pack(zlib.crc32(body)) + _U32.pack(len(body) + 2 * _U32.size)


def read_table(data: bytes) -> list[int]:
    """Sizes of the packets from the table that ``data`` is.

    Raises:
        BitstreamError: it is not a table, or not a whole one.
    """
    n_body = len(data) - 2 * _U32.size
    if n_body < _START.size or data[: len(_MAGIC)] != _MAGIC or len(data) > MAX_TABLE_BYTES:
        raise BitstreamError(f"{len(data)} bytes that are no seek table")
    crc, n_bytes = _U32.unpack_from(data, n_body)[0], _U32.unpack_from(data, n_body + _U32.size)[0]
    if n_bytes != len(data) or crc != zlib.crc32(data[:n_body]):
        raise BitstreamError("the seek table is damaged: its size or checksum does not match")
    sizes, at = [], _START.size
    try:
        while at < n_body:
            size, at = read_varint(data[:n_body], at)
            sizes.append(size)
    except Incomplete:
        raise BitstreamError("the seek table ends inside a number") from None
    if len(sizes) != _START.unpack_from(data)[1]:
        raise BitstreamError(f"the seek table holds {len(sizes)} sizes; it announces another number")
    return sizes


def sizes_checksum(data: bytes) -> int:
    """CRC-32 of the sizes as they are spelled in the table ``data``; raises as `read_table`."""
    return zlib.crc32(b"".join(map(write_varint, read_table(data))))
