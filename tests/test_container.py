"""The container is frozen: these bytes must decode in every later version of the program."""

import dataclasses
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telucodec.bitstream.coder import FixedWidthCoder
from telucodec.bitstream.container import HEADER_BYTES, Stream, read_header, summarize, truncate
from telucodec.bitstream.packet import (
    Incomplete,
    Packet,
    read_packet,
    read_varint,
    recover_index,
    write_packet,
    write_varint,
)
from telucodec.bitstream.seek import read_table, write_table
from telucodec.errors import BitstreamError

STREAM = Stream(
    sample_rate_hz=16_000,
    hop=320,
    delay=320,
    n_codebooks=2,
    codeword_bits=10,
    n_samples=321,
    model_id=bytes(range(8)),
    frames_per_packet=2,
    codes=np.array([[0, 1023, 512], [1, 2, 3]], dtype=np.uint16),
)
GOLDEN = bytes.fromhex(
    "54454c55 01 01 0a 00 0200 0200 4001 4001 803e0000 0001020304050607 0000000000000000 4101000000000000"
    "53ac6728"
    "0a 003ff00402 c1926a2d"  # two frames: 0000000000 1111111111 | 0000000001 0000000010
    "07 01 bf02 800030 71f20de9"  # the last: one frame, 319 samples of padding
)
HEAD, FIRST, LAST = GOLDEN[:44], GOLDEN[48:58], GOLDEN[58:]


def altered(offset: int, layout: str, value: object) -> bytes:
    """The golden stream with one header field replaced and the checksum made right again."""
    head = bytearray(HEAD)
    struct.pack_into(layout, head, offset, value)
    return bytes(head) + struct.pack("<I", zlib.crc32(head)) + GOLDEN[HEADER_BYTES:]


def codes_for(stream: dict, seed: int = 0) -> Stream:
    """A stream of random codes with the fields ``stream``."""
    n_samples, hop, delay = (stream[name] for name in ("n_samples", "hop", "delay"))
    n_frames = -(-(n_samples + delay) // hop) if n_samples else 0
    shape = (stream["n_codebooks"], n_frames)
    codes = np.random.default_rng(seed).integers(0, 1 << stream["codeword_bits"], shape).astype(np.uint16)
    return Stream(sample_rate_hz=16_000, model_id=bytes(8), codes=codes, **stream)


STREAMS = st.fixed_dictionaries(
    {
        "n_samples": st.integers(0, 5000),
        "n_codebooks": st.integers(1, 18),
        "codeword_bits": st.integers(1, 16),
        "hop": st.integers(40, 700),
        "delay": st.integers(0, 700),
        "frames_per_packet": st.integers(1, 40),
    }
)


def test_version_1_bytes_never_change():
    assert STREAM.to_bytes().hex(" ") == GOLDEN.hex(" ")
    assert Stream.from_bytes(GOLDEN) == STREAM


def test_the_header_takes_48_bytes_and_a_packet_of_half_a_second_six_more_than_its_codes():
    assert HEADER_BYTES == 48
    assert len(write_packet(Packet(3, 25, bytes(188)))) == 188 + 6


def test_a_summary_gives_sizes_and_rates():
    summary = summarize(GOLDEN)
    assert (summary.n_packets, summary.payload_bytes, summary.file_bytes) == (2, 8, len(GOLDEN))
    assert summary.payload_kbps == pytest.approx(64 / 321 * 16)
    assert summary.file_kbps == pytest.approx(len(GOLDEN) * 8 / 321 * 16)
    assert summary.describe()["model_id"] == "0001020304050607"
    assert summary.damages == ()


@pytest.mark.parametrize(
    ("n_samples", "n_frames", "n_packets"),
    [(0, 0, 1), (1, 2, 1), (319, 2, 1), (320, 2, 1), (321, 3, 2), (16_000, 51, 26)],
)
def test_frames_and_packets_follow_from_samples_hop_and_delay(n_samples, n_frames, n_packets):
    header = dataclasses.replace(read_header(GOLDEN), n_samples=n_samples)
    assert (header.n_frames, header.n_packets) == (n_frames, n_packets)


@pytest.mark.parametrize("cut", range(len(GOLDEN)))
def test_every_truncation_is_noticed(cut):
    with pytest.raises(BitstreamError):
        Stream.from_bytes(GOLDEN[:cut])


@pytest.mark.parametrize("bit", range(8 * len(GOLDEN)))
def test_every_flipped_bit_is_noticed(bit):
    damaged = bytearray(GOLDEN)
    damaged[bit // 8] ^= 1 << bit % 8
    with pytest.raises(BitstreamError):
        Stream.from_bytes(bytes(damaged))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(b"RIFF\x24\0\0\0WAVE", "starts with b'RIFF', expected b'TELU'", id="a wav file"),
        pytest.param(
            altered(4, "B", 3), "version 3 is not supported; this build reads version 1", id="version"
        ),
        pytest.param(b"", "0 bytes, but the header alone takes 48", id="empty"),
        pytest.param(GOLDEN[:47], "47 bytes, but the header alone takes 48", id="half a header"),
        pytest.param(GOLDEN[:48], "no packet can be read in the 48 bytes", id="a header alone"),
        pytest.param(altered(5, "B", 2), "channels is 2; expected 1 to 1", id="stereo"),
        pytest.param(altered(6, "B", 0), "codeword_bits is 0; expected 1 to 16", id="no bits"),
        pytest.param(altered(6, "B", 17), "codeword_bits is 17; expected 1 to 16", id="too many bits"),
        pytest.param(altered(7, "B", 9), "entropy mode 9 in the stream; the coder's is 0", id="entropy mode"),
        pytest.param(altered(8, "<H", 0), "n_codebooks is 0; expected 1 to 65535", id="no codebooks"),
        pytest.param(altered(10, "<H", 0), "frames_per_packet is 0; expected 1 to 3000", id="no frames"),
        pytest.param(altered(8, "<H", 65535), "no packet can be read", id="many codebooks"),
        pytest.param(altered(12, "<H", 0), "hop is 0; expected 1 to 65535", id="no hop"),
        pytest.param(altered(16, "<I", 0), "sample_rate_hz is 0; expected 1 to", id="no rate"),
        pytest.param(altered(28, "B", 1), "tables_hash is 01.* without entropy coding", id="tables"),
        pytest.param(
            altered(36, "<Q", 10**6), "packets 1 to 1562 lost: it does not fit", id="too many samples"
        ),
        pytest.param(altered(36, "<Q", 2**63), "n_samples is 9223372036854775808", id="absurd samples"),
        pytest.param(GOLDEN[:20] + b"\xff" + GOLDEN[21:], "checksum of its header is", id="header damage"),
        pytest.param(GOLDEN[:-1] + b"\x31", "packet 1 lost: its checksum does not match", id="damage"),
        pytest.param(
            GOLDEN + b"\0", "after the last packet: 1 bytes that are no seek table", id="more bytes"
        ),
        pytest.param(
            GOLDEN[:58] + b"??" + LAST, "bytes that are no packet before packet 1", id="bytes between"
        ),
    ],
)
def test_a_refusal_says_what_was_found_and_expected(data, message):
    with pytest.raises(BitstreamError, match=message):
        Stream.from_bytes(data)


@settings(max_examples=40)
@given(STREAMS, st.booleans())
def test_a_stream_survives_the_bytes(fields, has_seek_table):
    stream = codes_for(fields)
    data = stream.to_bytes(has_seek_table=has_seek_table)
    assert Stream.from_bytes(data) == stream
    assert summarize(data).file_bytes == len(data)


@settings(max_examples=40)
@given(STREAMS, st.integers(1, 18))
def test_truncating_gives_the_bytes_of_fewer_stages(fields, n_kept):
    stream = codes_for(fields)
    n_kept = min(n_kept, stream.n_codebooks)
    data, coder = stream.to_bytes(), FixedWidthCoder(stream.codeword_bits)
    pieces = [data[i : i + 37] for i in range(0, len(data), 37)]
    few = dataclasses.replace(stream, n_codebooks=n_kept, codes=stream.codes[:n_kept])
    assert b"".join(truncate(pieces, coder, n_kept)) == few.to_bytes()


def test_a_damaged_stream_is_not_truncated():
    with pytest.raises(BitstreamError, match="get a fresh copy before truncating"):
        list(truncate([GOLDEN[:50] + b"!" + GOLDEN[51:]], FixedWidthCoder(10), 1))
    with pytest.raises(BitstreamError, match="after the last packet"):
        list(truncate([GOLDEN + b"?"], FixedWidthCoder(10), 1))


def test_an_empty_signal_is_a_header_and_an_empty_last_packet():
    empty = dataclasses.replace(STREAM, n_samples=0, codes=np.zeros((2, 0), dtype=np.uint16))
    data = empty.to_bytes()
    assert len(data) == HEADER_BYTES + 3 + 4
    assert Stream.from_bytes(data) == empty
    assert summarize(data).file_kbps is None


def test_a_length_that_was_not_known_comes_from_the_last_packet():
    data = dataclasses.replace(STREAM.header, n_samples=None).to_bytes() + FIRST + LAST
    assert read_header(data).n_samples is None
    assert summarize(data).n_samples == 321
    assert Stream.from_bytes(data) == STREAM


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hop": 0}, "hop is 0"),
        ({"delay": 2**16}, "delay is 65536; expected 0 to 65535"),
        ({"model_id": b"short"}, "model_id has 5 bytes; expected 8"),
        ({"frames_per_packet": 3000, "n_codebooks": 100}, "packet_codes is 300000; expected 1 to 262144"),
        ({"n_samples": 16_000}, r"take \(2, 51\)"),
        ({"n_samples": None}, "a whole stream has a known n_samples"),
        ({"entropy_mode": 1}, "the coder is not the one that the header names"),
    ],
    ids=["hop", "delay", "model_id", "packet", "shape", "unknown", "coder"],
)
def test_a_stream_that_cannot_be_written_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(STREAM, **change).to_bytes()


def test_streams_differ_when_one_code_differs():
    other = dataclasses.replace(STREAM, codes=STREAM.codes ^ np.uint16(1))
    assert other != STREAM
    assert STREAM != "a stream"


@given(st.integers(0, 2**28 - 1))
def test_a_number_survives_the_bytes_in_one_spelling_only(value):
    data = write_varint(value)
    assert read_varint(data, 0) == (value, len(data))
    longer = data[:-1] + bytes([data[-1] | 0x80, 0])
    with pytest.raises(BitstreamError, match=r"longer than it need be|more than 4 bytes"):
        read_varint(longer, 0)
    with pytest.raises(Incomplete):
        read_varint(data[:-1], 0)


@given(st.binary(max_size=300), st.integers(0, 2**32 - 1))
def test_a_checksum_gives_the_index_away(body, index):
    crc = zlib.crc32(body)
    assert recover_index(zlib.crc32(struct.pack("<I", index), crc), crc) == index


def test_a_packet_knows_its_place():
    packet, end = read_packet(FIRST, 0, read_header(GOLDEN))
    assert (packet, end) == (Packet(0, 2, bytes.fromhex("003ff00402")), len(FIRST))
    moved = write_packet(dataclasses.replace(packet, index=70_000))
    assert read_packet(moved, 0, read_header(GOLDEN))[0].index == 70_000


@given(st.lists(st.integers(5, 2**21), max_size=40))
def test_a_seek_table_survives_the_bytes_and_nothing_else_is_one(sizes):
    data = write_table(sizes)
    assert read_table(data) == sizes
    for cut in range(len(data)):
        with pytest.raises(BitstreamError):
            read_table(data[:cut])


def test_a_seek_table_of_another_stream_is_noticed():
    whole = STREAM.to_bytes(has_seek_table=True)
    assert read_table(whole[len(GOLDEN) :]) == [10, 11]
    with pytest.raises(BitstreamError, match="the seek table is not that of these packets"):
        Stream.from_bytes(GOLDEN + write_table([10, 12]))
