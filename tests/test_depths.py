"""Frames of different depth: their odds, their choice, and their bytes."""

import numpy as np
import pytest
from test_tables import CODES, small_tables

from telucodec.allocation import Budgeted, Priced
from telucodec.bitstream.bitpack import ABSENT
from telucodec.bitstream.rangecoder import TOTAL
from telucodec.errors import BitstreamError
from telucodec.ladders import CLOSE, Frames
from telucodec.prior.coder import EntropyCoder
from telucodec.prior.depths import (
    CHANGE_BITS,
    MIN_DEPTH,
    choose_depths,
    cut,
    depth_odds,
    depths_of,
    estimated_bits,
)

VARIABLE = EntropyCoder.from_tables(small_tables(), is_variable=True)
STATIC = EntropyCoder.from_tables(small_tables())
GOLDEN = (
    "51bd36b991a51c5a2db4847555275fa21bdcb20cfa2aedbde32e793aeb79"
    "a93031bc54ec5f19ff659eb3bb21c08807e2c264dc33b28dedae43b8ba16"
)
BITS = np.arange(1, 9) * 6.0  # of 1 to 8 stages


def falling_errors(loudness):
    """``[1, 9, L]``: each stage leaves half of the error of a frame."""
    return (np.asarray(loudness)[None, :] * 0.5 ** np.arange(9)[:, None])[None]


def random_depths(seed, n_frames=25, n_codebooks=3):
    return np.random.default_rng(seed).integers(1, n_codebooks + 1, n_frames)


@pytest.mark.parametrize("seed", range(5))
def test_what_was_cut_comes_back_from_the_bytes(seed):
    codes = cut(CODES, random_depths(seed))
    found = VARIABLE.decode(VARIABLE.encode(codes), *codes.shape)
    np.testing.assert_array_equal(found, codes)
    np.testing.assert_array_equal(depths_of(found), random_depths(seed))


def test_frames_of_full_depth_cost_little_more_than_with_the_static_coder():
    assert len(STATIC.encode(CODES)) <= len(VARIABLE.encode(CODES)) <= len(STATIC.encode(CODES)) + 3


def test_dropping_stages_of_a_packet_gives_the_packet_of_fewer_stages():
    codes = cut(CODES, random_depths(7))
    kept = VARIABLE.decode(VARIABLE.encode(codes), *codes.shape)[:2]
    np.testing.assert_array_equal(depths_of(kept), np.minimum(random_depths(7), 2))
    np.testing.assert_array_equal(VARIABLE.decode(VARIABLE.encode(kept), *kept.shape), kept)


def test_the_bytes_of_a_packet_never_change():
    depths = 1 + np.arange(25) * 7 % 11 % 3
    assert VARIABLE.encode(cut(CODES, depths)).hex() == GOLDEN


@pytest.mark.parametrize("hole", [(0, 3), (1, 4)])
def test_codes_with_a_hole_are_not_written(hole):
    codes = CODES.copy()
    codes[hole] = ABSENT
    with pytest.raises(ValueError, match="absent"):
        VARIABLE.encode(codes)


def test_the_static_coder_writes_no_absent_codes():
    with pytest.raises(ValueError, match="too large"):
        STATIC.encode(cut(CODES, random_depths(0)))


@pytest.mark.parametrize("seed", range(40))
def test_damaged_bytes_are_refused_or_give_codes_that_spell_them(seed):
    data = bytearray(VARIABLE.encode(cut(CODES, random_depths(1))))
    rng = np.random.default_rng(seed)
    data[rng.integers(len(data))] ^= 1 << rng.integers(8)
    try:
        codes = VARIABLE.decode(bytes(data), *CODES.shape)
    except BitstreamError:
        return
    assert VARIABLE.encode(codes) == bytes(data)


@pytest.mark.parametrize("n_codebooks", [1, 2, 18, 64])
def test_every_depth_can_follow_every_other(n_codebooks):
    before = np.repeat(np.arange(1, n_codebooks + 1), 2)
    odds = depth_odds(before, n_codebooks).astype(np.int64) + 1
    assert odds.shape == (2 * n_codebooks, n_codebooks)
    assert odds.min() >= 1
    np.testing.assert_array_equal(odds.sum(axis=1), TOTAL)


def test_loud_frames_get_more_stages_than_quiet_ones():
    loudness = np.repeat([1.0, 1e4], 20)
    depths = choose_depths(falling_errors(loudness), BITS, np.array([1.0]))[0, 0]
    assert depths[:20].max() == MIN_DEPTH
    assert depths[20:].min() == 8


@pytest.mark.parametrize("n_frames", [1, 25])
def test_a_bit_that_costs_nothing_is_always_spent_and_a_dear_one_never(n_frames):
    errors = falling_errors(np.ones(n_frames))
    free, dear = choose_depths(errors, BITS, np.array([0.0, 1e9]))[:, 0]
    assert (free == 8).all()
    assert (dear == MIN_DEPTH).all()


def test_no_other_depths_are_cheaper():
    rng = np.random.default_rng(3)
    errors, price = falling_errors(10.0 ** rng.uniform(0, 3, 4)), 0.7
    chosen = choose_depths(errors, BITS, np.array([price]))[0, 0]

    def cost(depths):
        changes = (np.diff(depths) != 0).sum() * CHANGE_BITS
        return errors[0][depths, np.arange(4)].sum() + price * (BITS[depths - 1].sum() + changes)

    every = np.stack(np.meshgrid(*[np.arange(MIN_DEPTH, 9)] * 4), axis=-1).reshape(-1, 4)
    assert cost(chosen) == pytest.approx(min(cost(depths) for depths in every))


def test_a_lower_price_never_takes_fewer_bits():
    errors = falling_errors(10.0 ** np.random.default_rng(0).uniform(-2, 3, 50))
    prices = 2.0 ** np.arange(-8, 8)
    estimates = estimated_bits(choose_depths(errors, BITS, prices), BITS)[:, 0]
    assert (np.diff(estimates) <= CHANGE_BITS).all()
    assert estimates[0] > 1.5 * estimates[-1]


def packets(n, seed=0):
    """Packets of 25 frames, the last of 9; loud and quiet ones take turns."""
    rng = np.random.default_rng(seed)
    sizes = [25] * (n - 1) + [9]
    return [
        Frames(
            rng.integers(0, 40, (3, size)).astype(np.uint16),
            (10.0 ** rng.uniform(-1, 2) * 0.5 ** np.arange(4)[:, None] * np.ones(size)).astype(np.float32),
        )
        for size in sizes
    ]


@pytest.fixture
def any_depth(monkeypatch):
    """With three stages in all, let frames take fewer than `MIN_DEPTH`."""
    monkeypatch.setattr("telucodec.prior.depths.MIN_DEPTH", 1)


@pytest.mark.usefixtures("any_depth")
@pytest.mark.parametrize("kbps", [0.45, 0.6])
def test_a_budget_is_kept_and_used(kbps):
    held, seconds = packets(12), 12 / 2
    taken = 8 * sum(map(len, Budgeted(VARIABLE, BITS[:3], 1.0, kbps).payloads(held, seconds)))
    assert 0.9 * kbps * 1000 * seconds < taken <= kbps * 1000 * seconds


@pytest.mark.usefixtures("any_depth")
@pytest.mark.parametrize("n_packets", [1, 2, 3, 5, 9, 100])
@pytest.mark.parametrize("share", [1.0, 1.1, 1.6, 3.0])
def test_a_budget_is_kept_wherever_the_fewest_stages_keep_it(n_packets, share):
    held = packets(n_packets, seed=n_packets)
    sizes = [
        8 * sum(map(len, Priced(VARIABLE, BITS[:3], price).payloads(held, 1.0))) for price in (1e9, 1e-9)
    ]
    budget = min(share * sizes[0], 2.0 * sizes[1])
    taken = 8 * sum(map(len, Budgeted(VARIABLE, BITS[:3], 1.0, budget / 1000).payloads(held, 1.0)))
    assert taken <= budget
    if n_packets == 100:
        assert taken >= min(CLOSE * budget, sizes[1])


@pytest.mark.usefixtures("any_depth")
@pytest.mark.parametrize("kbps", [0.7, 1.0])
def test_few_packets_are_coded_more_than_once(kbps):
    n_coded = 0

    class Counting(EntropyCoder):
        def encode_all(self, packets):
            nonlocal n_coded
            n_coded += len(packets)
            return super().encode_all(packets)

    coder = Counting.from_tables(small_tables(), is_variable=True)
    Budgeted(coder, BITS[:3], 1.0, kbps).payloads(packets(100), 50.0)
    assert 100 <= n_coded <= 150


@pytest.mark.usefixtures("any_depth")
def test_a_budget_that_nothing_fits_in_gives_the_fewest_stages():
    held = packets(3)
    payloads = Budgeted(VARIABLE, BITS[:3], 1.0, 0.0).payloads(held, 1.5)
    for payload, packet in zip(payloads, held, strict=True):
        assert (depths_of(VARIABLE.decode(payload, *packet.codes.shape)) == 1).all()


@pytest.mark.usefixtures("any_depth")
def test_payloads_come_in_the_order_of_the_packets():
    held = packets(5)
    payloads = Priced(VARIABLE, BITS[:3], 0.0).payloads(held, 2.5)
    for payload, packet in zip(payloads, held, strict=True):
        np.testing.assert_array_equal(VARIABLE.decode(payload, *packet.codes.shape), packet.codes)
