"""The range coder: exact integers in the library, every symbol codable, hardly a bit lost, fixed bytes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from telucodec.bitstream.rangecoder import TOTAL, RangeReader, RangeWriter, frequencies
from telucodec.errors import BitstreamError


def weights_like(seed, n_rows, n_symbols):
    """Integer weights from flat to one symbol that is almost certain."""
    generator = np.random.default_rng(seed)
    shape = generator.random((n_rows, n_symbols)) ** generator.integers(1, 40, (n_rows, 1))
    return (shape * (1 << 20)).astype(np.int64) + 1


def coded(symbols, table):
    writer = RangeWriter()
    writer.write(symbols, table)
    return writer.finish()


@given(
    n_rows=st.integers(1, 40), n_symbols=st.sampled_from([1, 2, 31, 32, 33, 1024]), seed=st.integers(0, 99)
)
def test_frequencies_are_whole_positive_and_sum_to_the_total(n_rows, n_symbols, seed):
    free = frequencies(weights_like(seed, n_rows, n_symbols)).astype(np.int64)
    assert free.min() >= 0  # one less than the frequency
    assert (free.sum(axis=1) == TOTAL - n_symbols).all()


@given(weights=st.lists(st.integers(0, (1 << 24) - 1), min_size=1, max_size=32).filter(any))
def test_frequencies_are_those_of_integer_arithmetic(weights):
    ends, total, free = np.cumsum([0, *weights]).tolist(), sum(weights), TOTAL - len(weights)
    expected = np.diff([end * free // total for end in ends]).tolist()
    assert frequencies(np.array([weights]))[0].tolist() == expected


@pytest.mark.parametrize("total", [(1 << 29) - 1, (1 << 29) - 3, 536870909, (1 << 24) - 2])
def test_frequencies_do_not_round_up_next_to_an_integer(total):
    free = TOTAL - 2
    for quotient in (1, free // 2, free - 1):
        end = -(-quotient * total // free) - 1  # the largest below the integer
        assert frequencies(np.array([[end, total - end]]))[0, 0] == end * free // total == quotient - 1


@pytest.mark.parametrize("n_symbols", [2, 32, 1024])
def test_the_library_uses_exactly_our_integers(n_symbols):
    table = frequencies(weights_like(n_symbols, 20, n_symbols))
    for row in table:
        ends = np.concatenate([[0], np.cumsum(row.astype(np.int64) + 1)]).tolist()
        for symbol in (0, 1, n_symbols // 2, n_symbols - 1):
            writer = RangeWriter()
            writer.write(np.array([symbol]), row[None])
            writer._flush()
            _, (lower, width) = writer._coder.pos()
            unit = (2**64 - 1) // TOTAL  # of the first interval
            expected = unit * ends[symbol], unit * (ends[symbol + 1] - ends[symbol])
            assert (lower, width) in (expected, tuple(v << 32 for v in expected))  # a word may be out already


@given(n_rows=st.integers(1, 60), n_symbols=st.sampled_from([1, 2, 33, 1024]), seed=st.integers(0, 999))
def test_reading_returns_what_was_written(n_rows, n_symbols, seed):
    table = frequencies(weights_like(seed, n_rows, n_symbols))
    symbols = np.random.default_rng(seed).integers(0, n_symbols, n_rows)
    np.testing.assert_array_equal(RangeReader(coded(symbols, table)).read(table), symbols)


def test_every_symbol_can_be_coded_even_where_its_weight_is_least():
    weights = np.ones((1024, 1024), dtype=np.int64)
    weights[:, 7] = 1 << 28
    table, symbols = frequencies(weights), np.arange(1024)
    np.testing.assert_array_equal(RangeReader(coded(symbols, table)).read(table), symbols)


@pytest.mark.parametrize("n_rows", [1, 10, 2000])
def test_the_size_is_the_entropy_within_a_tenth_of_a_percent_and_64_bits(n_rows):
    table = frequencies(weights_like(3, n_rows, 32))
    shares = (table.astype(np.float64) + 1) / TOTAL
    generator = np.random.default_rng(4)
    symbols = np.array([generator.choice(32, p=row) for row in shares])
    bits = -np.log2(shares[np.arange(n_rows), symbols]).sum()
    assert 8 * len(coded(symbols, table)) <= 1.001 * bits + 64


def test_ending_costs_less_than_two_bytes_on_average():
    excess = []
    for seed in range(200):
        table = frequencies(weights_like(seed, 30, 32))
        shares = (table.astype(np.float64) + 1) / TOTAL
        symbols = np.random.default_rng(seed).integers(0, 32, 30)
        bits = -np.log2(shares[np.arange(30), symbols]).sum()
        excess.append(8 * len(coded(symbols, table)) - bits)
    assert np.mean(excess) < 8
    assert np.max(excess) < 16


def test_the_bytes_of_known_symbols_never_change():
    weights = 1 + (np.arange(6 * 5).reshape(6, 5) * 7919 + 13) % 97
    symbols = np.array([0, 4, 2, 2, 1, 3])
    assert coded(symbols, frequencies(weights)).hex() == "0f3aa6"


@given(data=st.binary(max_size=64))
def test_random_bytes_give_symbols_or_are_refused_by_name(data):
    table = frequencies(weights_like(5, 100, 32))
    try:
        symbols = RangeReader(data).read(table)
    except BitstreamError:
        return
    assert symbols.shape == (100,)
    assert 0 <= symbols.min() <= symbols.max() < 32


def test_bytes_beyond_every_interval_are_refused_by_name():
    with pytest.raises(BitstreamError, match="damaged"):
        RangeReader(b"\xff" * 16).read(frequencies(weights_like(5, 100, 32)))
