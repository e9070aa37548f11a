"""Fixed-width packing: exact bytes for a case small enough to do by hand, and an exact inverse."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from telucodec.bitstream.bitpack import pack, packed_size, unpack
from telucodec.errors import BitstreamError


def test_stages_come_in_order_each_frame_by_frame_high_bit_first():
    codes = np.array([[0b101, 0b111], [0b001, 0b010]], dtype=np.uint16)  # Q = 2, L = 2
    # stage 0: 101 111, stage 1: 001 010, four zero bits to fill the second byte
    assert pack(codes, 3) == bytes([0b10111100, 0b10100000])


@given(n_kept=st.integers(1, 6), n_frames=st.integers(1, 9), codeword_bits=st.integers(1, 16))
def test_the_first_stages_are_a_prefix_of_the_bits(n_kept, n_frames, codeword_bits):
    codes = np.random.default_rng(n_frames).integers(0, 1 << codeword_bits, (6, n_frames)).astype(np.uint16)
    n_bits = n_kept * n_frames * codeword_bits
    whole, part = (
        np.unpackbits(np.frombuffer(pack(table, codeword_bits), dtype=np.uint8))
        for table in (codes, codes[:n_kept])
    )
    np.testing.assert_array_equal(whole[:n_bits], part[:n_bits])


@given(
    codeword_bits=st.integers(1, 16),
    n_codebooks=st.integers(1, 18),
    n_frames=st.integers(0, 12),
    seed=st.integers(0, 99),
)
def test_unpacking_returns_every_table_of_codes(codeword_bits, n_codebooks, n_frames, seed):
    generator = np.random.default_rng(seed)
    codes = generator.integers(0, 1 << codeword_bits, (n_codebooks, n_frames)).astype(np.uint16)
    packed = pack(codes, codeword_bits)
    back = unpack(packed, n_codebooks=n_codebooks, n_frames=n_frames, codeword_bits=codeword_bits)
    assert len(packed) == packed_size(n_codebooks, n_frames, codeword_bits)
    assert back.dtype == np.uint16
    np.testing.assert_array_equal(back, codes)


def test_one_second_at_18_stages_of_10_bits_is_9_kbps():
    assert packed_size(18, 50, 10) * 8 == 9000


@pytest.mark.parametrize("dtype", [np.int64, np.uint16, np.int32])
def test_any_integer_type_gives_the_same_bytes(dtype):
    assert pack(np.array([[1023, 0, 512]], dtype=dtype), 10) == bytes.fromhex("ffc00800")


@pytest.mark.parametrize("value", [-1, 1024])
def test_a_code_that_does_not_fit_is_refused(value):
    with pytest.raises(ValueError, match="10 bits hold 0 to 1023"):
        pack(np.array([[value]]), 10)


@pytest.mark.parametrize("codeword_bits", [0, 17])
def test_an_impossible_width_is_refused(codeword_bits):
    with pytest.raises(ValueError, match="expected 1 to 16"):
        pack(np.zeros((1, 1), dtype=np.uint16), codeword_bits)
    with pytest.raises(ValueError, match="expected 1 to 16"):
        unpack(b"", n_codebooks=1, n_frames=0, codeword_bits=codeword_bits)


def test_codes_without_a_stage_axis_are_refused():
    with pytest.raises(ValueError, match=r"expected \[Q, L\]"):
        pack(np.zeros(4, dtype=np.uint16), 10)


@pytest.mark.parametrize("packed", [b"", b"\0", b"\0\0\0"], ids=["none", "short", "long"])
def test_a_wrong_number_of_bytes_is_refused(packed):
    with pytest.raises(BitstreamError, match="take 2"):
        unpack(packed, n_codebooks=1, n_frames=1, codeword_bits=10)


def test_filling_bits_that_are_not_zero_are_refused():
    with pytest.raises(BitstreamError, match="expected zeros"):
        unpack(b"\xff\xc1", n_codebooks=1, n_frames=1, codeword_bits=10)
