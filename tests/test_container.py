"""The container is frozen: these bytes must decode in every later version of the program."""

import dataclasses
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from telucodec.bitstream.container import HEADER_BYTES, Stream, read_header
from telucodec.errors import BitstreamError

STREAM = Stream(
    sample_rate_hz=16_000,
    hop=320,
    delay=320,
    n_codebooks=2,
    codeword_bits=10,
    n_samples=321,
    model_id=bytes(range(8)),
    codes=np.array([[0, 1023, 512], [1, 2, 3]], dtype=np.uint16),
)
GOLDEN = bytes.fromhex(
    "54454c55 01 0a 0200 803e0000 4001 4001 4101000000000000 0001020304050607 08000000 780c8d3c"
    "0000 1ffc 0280 0030"
)


def sealed(head: bytes, payload: bytes = b"") -> bytes:
    """36 header bytes and a payload under a checksum that is right."""
    return head + struct.pack("<I", zlib.crc32(payload, zlib.crc32(head))) + payload


def altered(offset: int, layout: str, value: object) -> bytes:
    """The golden stream with one header field replaced and the checksum made right again."""
    head = bytearray(GOLDEN[: HEADER_BYTES - 4])
    struct.pack_into(layout, head, offset, value)
    return sealed(bytes(head), GOLDEN[HEADER_BYTES:])


def test_version_1_bytes_never_change():
    assert STREAM.to_bytes().hex(" ") == GOLDEN.hex(" ")
    assert Stream.from_bytes(GOLDEN) == STREAM


def test_the_header_takes_no_more_than_48_bytes():
    assert HEADER_BYTES == 40


def test_the_header_alone_gives_sizes_and_rates():
    header = read_header(GOLDEN)
    assert (header.n_frames, header.payload_bytes, header.file_bytes) == (3, 8, len(GOLDEN))
    assert header.payload_kbps == pytest.approx(64 / 321 * 16)
    assert header.file_kbps == pytest.approx(48 * 8 / 321 * 16)
    assert header.describe()["model_id"] == "0001020304050607"


@pytest.mark.parametrize(
    ("n_samples", "n_frames"), [(0, 0), (1, 2), (319, 2), (320, 2), (321, 3), (16_000, 51)]
)
def test_frames_follow_from_samples_hop_and_delay(n_samples, n_frames):
    assert dataclasses.replace(read_header(GOLDEN), n_samples=n_samples).n_frames == n_frames


@pytest.mark.parametrize("cut", range(len(GOLDEN)))
def test_every_truncation_is_refused(cut):
    with pytest.raises(BitstreamError):
        Stream.from_bytes(GOLDEN[:cut])


def test_bytes_after_the_end_are_refused():
    with pytest.raises(BitstreamError, match="payload is 9 bytes, the header announces 8"):
        Stream.from_bytes(GOLDEN + b"\0")


@pytest.mark.parametrize("bit", range(8 * len(GOLDEN)))
def test_every_flipped_bit_is_noticed(bit):
    damaged = bytearray(GOLDEN)
    damaged[bit // 8] ^= 1 << bit % 8
    with pytest.raises(BitstreamError):
        Stream.from_bytes(bytes(damaged))


@given(st.binary(max_size=120))
def test_random_bytes_raise_nothing_but_a_bitstream_error(data):
    with pytest.raises(BitstreamError):
        Stream.from_bytes(data)


@given(st.binary(min_size=31, max_size=31), st.binary(max_size=40))
def test_random_fields_under_a_right_checksum_raise_nothing_but_a_bitstream_error(fields, payload):
    head = b"TELU\x01" + fields[:27] + struct.pack("<I", len(payload))
    try:
        stream = Stream.from_bytes(sealed(head, payload))
    except BitstreamError:
        return
    assert stream.to_bytes() == sealed(head, payload)  # what is accepted is spelled in one way only


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(b"RIFF\x24\0\0\0WAVE", "starts with b'RIFF', expected b'TELU'", id="a wav file"),
        pytest.param(
            altered(4, "B", 3), "version 3 is not supported; this build reads version 1", id="version"
        ),
        pytest.param(b"", "0 bytes, but the header alone takes 40", id="empty"),
        pytest.param(altered(5, "B", 0), "codeword_bits is 0; expected 1 to 16", id="no bits"),
        pytest.param(altered(5, "B", 17), "codeword_bits is 17; expected 1 to 16", id="too many bits"),
        pytest.param(altered(6, "<H", 0), "n_codebooks is 0; expected 1 to 65535", id="no codebooks"),
        pytest.param(altered(8, "<I", 0), "sample_rate_hz is 0; expected 1 to", id="no rate"),
        pytest.param(altered(12, "<H", 0), "hop is 0; expected 1 to 65535", id="no hop"),
        pytest.param(altered(16, "<Q", 10**6), "the payload is 8 bytes; 3126 frames", id="too many samples"),
        pytest.param(altered(16, "<Q", 2**64 - 1), "payload_bytes is .*; expected 0 to", id="absurd samples"),
        pytest.param(altered(16, "<Q", 0), "the payload is 8 bytes; 0 frames", id="no samples"),
        pytest.param(altered(32, "<I", 2**32 - 1), "the header announces 4294967295", id="absurd size"),
        pytest.param(sealed(GOLDEN[:36], GOLDEN[40:-1] + b"\x31"), "expected zeros", id="filling bits"),
        pytest.param(GOLDEN[:-1] + b"\x31", "checksum is .* get a fresh copy", id="damage"),
    ],
)
def test_a_refusal_says_what_was_found_and_expected(data, message):
    with pytest.raises(BitstreamError, match=message):
        Stream.from_bytes(data)


@given(
    n_samples=st.integers(0, 5000),
    n_codebooks=st.integers(1, 18),
    codeword_bits=st.integers(1, 16),
    hop=st.integers(1, 700),
    delay=st.integers(0, 700),
    model_id=st.binary(min_size=8, max_size=8),
)
def test_a_stream_survives_the_bytes(n_samples, n_codebooks, codeword_bits, hop, delay, model_id):
    n_frames = -(-(n_samples + delay) // hop) if n_samples else 0
    generator = np.random.default_rng(n_samples)
    stream = Stream(
        sample_rate_hz=16_000,
        hop=hop,
        delay=delay,
        n_codebooks=n_codebooks,
        codeword_bits=codeword_bits,
        n_samples=n_samples,
        model_id=model_id,
        codes=generator.integers(0, 1 << codeword_bits, (n_codebooks, n_frames)).astype(np.uint16),
    )
    data = stream.to_bytes()
    assert Stream.from_bytes(data) == stream
    assert len(data) == stream.file_bytes


def test_an_empty_signal_is_a_header_and_nothing_else():
    empty = dataclasses.replace(STREAM, n_samples=0, codes=np.zeros((2, 0), dtype=np.uint16))
    data = empty.to_bytes()
    assert len(data) == HEADER_BYTES
    assert Stream.from_bytes(data) == empty
    assert read_header(data).file_kbps is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hop": 0}, "hop is 0"),
        ({"delay": 2**16}, "delay is 65536; expected 0 to 65535"),
        ({"model_id": b"short"}, "model_id has 5 bytes; expected 8"),
        ({"n_samples": 16_000}, r"take \(2, 51\)"),
    ],
    ids=["hop", "delay", "model_id", "shape"],
)
def test_a_stream_that_cannot_be_written_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(STREAM, **change).to_bytes()


def test_streams_differ_when_one_code_differs():
    other = dataclasses.replace(STREAM, codes=STREAM.codes ^ np.uint16(1))
    assert other != STREAM
    assert STREAM != "a stream"
