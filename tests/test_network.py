"""The network that predicts codes: exact integers, fixed bytes, refusals, and training."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from test_tables import CODES, CODES_SHA256, SIZE, decoded_elsewhere, on_sheet, pattern, small_tables

from telucodec.bitstream.bitpack import ABSENT
from telucodec.bitstream.rangecoder import TOTAL
from telucodec.errors import DataError, ModelError
from telucodec.prior.coder import EntropyCoder
from telucodec.prior.depths import cut, depth_odds, depths_of
from telucodec.prior.fitting import fit_tables
from telucodec.prior.network import NETWORK, Network, read_codebooks
from telucodec.prior.predictor import NetworkPredictor
from telucodec.prior.tables import TABLES
from telucodec.train.preflight.likelihood import check_likelihood
from telucodec.train.prior import PriorNetwork, _Corpus, _mean_bits, _rounded, _train, fit_network

WIDTH = 4
CODEBOOKS = pattern(3, SIZE, WIDTH, low=-90, high=90) / 64


def small_network(**changes):
    """Three stages, five and six hidden units, frames before and behind; integers by formula."""
    integers = {
        "offsets": np.array([-1, 0, 2], dtype=np.int8),
        "digits": np.array([5], dtype=np.uint8),
        "first": pattern(3, WIDTH + 4, 5, low=-127, high=127).astype(np.int8),
        "first_bias": pattern(3, 5, low=4000, high=20_000).astype(np.int32),
        "first_shifts": np.array([7, 8, 7, 8, 8], dtype=np.uint8),
        "second": pattern(5, 6, low=-127, high=127).astype(np.int8),
        "second_bias": pattern(3, 6, low=10_000, high=40_000).astype(np.int32),
        "second_shifts": np.array([7, 8, 8, 7, 8, 8], dtype=np.uint8),
        "third": pattern(3, 6, 2, low=-127, high=127).astype(np.int8),
        "third_shifts": pattern(3, 2, low=4, high=5).astype(np.uint8),
    }
    return Network(**integers | changes)


def small_coder(**changes):
    return EntropyCoder.from_network(small_tables(), small_network(**changes), CODEBOOKS)


CODER = small_coder()
GOLDEN = bytes.fromhex(
    "f0f553a454942c85283fe4a786b3bd636514e7cc6862b805d6660e6401a43133bbb3b051b480d1e80000585308f05829cb15bff4fed7bb76aff71ff85923f86324c7726b0683ae2bd86647f6ceb4aa01dcc9af00000186162fe45cd8659f74ecc65bbfd200039cc0a5d43fb7b83d4ffbd5b9d6000000418008f898e712b0024e5fc14921ad000970e8578b66a714da62fef4fb616b37c468e79fb317e0000000000300fa93250a13ed9145854c848aba71ecf9463e11ce090ef55103d5729ab166b914bd89ea30b68ab6d2fce9fac3f10459698a6d48c217a1538398be9b12b67c8de48549b6870c43435f46db"
)


def test_the_bytes_of_known_codes_and_the_hash_of_known_networks_never_change():
    assert small_network().hash.hex() == "76acdb19f6161f30"
    assert CODER.tables_hash.hex() == "a730b50956cbe49b"
    assert CODER.encode(CODES) == GOLDEN
    np.testing.assert_array_equal(CODER.decode(GOLDEN, 3, 25), CODES)


@pytest.fixture
def folder(tmp_path):
    """Tables, network and codebooks as they lie beside weights."""
    small_tables().save(tmp_path / TABLES)
    small_network().save(tmp_path / NETWORK)
    save_file({"quantizer.codebooks": CODEBOOKS.astype(np.float16)}, tmp_path / "model.safetensors")
    return tmp_path


@pytest.mark.parametrize("n_threads", ["1", "3"])
def test_another_process_with_other_threads_decodes_the_same(folder, n_threads):
    assert decoded_elsewhere(folder, GOLDEN, n_threads) == [CODES_SHA256, GOLDEN.hex(), "False"]


DEPTHS = 1 + pattern(25, low=0, high=2)
UNEVEN = np.where(np.arange(3)[:, None] < DEPTHS, CODES, ABSENT).astype(np.uint16)


@pytest.mark.parametrize("is_told", [True, False])
@pytest.mark.parametrize(("stage", "frame"), [(2, 0), (2, 7), (2, 24), (1, 12), (0, 0), (0, 9)])
def test_the_odds_are_those_of_the_page_that_specifies_them(stage, frame, is_told):
    """docs/entropy.md, one code in plain integers, in streams that tell depths and others."""
    tables, network = small_tables(), small_network()
    codes = UNEVEN if is_told else CODES
    inputs = []
    for offset in network.offsets.tolist():
        at = frame + offset
        known = [q for q in range(max(stage, 1)) if 0 <= at < 25 and codes[q, at] != ABSENT]
        if stage == 0 and offset >= 0:
            known = []
        words = [CODEBOOKS[q, codes[q, at]] * 32 for q in known]
        told = [0, 0, 0, 0]
        if not 0 <= at < 25:
            told[0] = 32
        elif is_told:
            told[DEPTHS[at]] = 32
        inputs.append([sum(round(word[d]) for word in words) for d in range(WIDTH)] + told)

    def layer(sums, shifts):
        return [min(max(total >> int(shift), 0), 255) for total, shift in zip(sums, shifts, strict=True)]

    first = [
        int(network.first_bias[stage, h])
        + sum(inputs[o][d] * int(network.first[o, d, h]) for o in range(3) for d in range(WIDTH + 4))
        for h in range(5)
    ]
    hidden = layer(first, network.first_shifts)
    second = [
        int(network.second_bias[stage, e]) + sum(hidden[h] * int(network.second[h, e]) for h in range(5))
        for e in range(6)
    ]
    hidden = layer(second, network.second_shifts)
    assert len({*hidden}) > 2, "a test of units that are all silent or full would test little"
    vector = [
        sum(hidden[e] * int(network.third[stage, e, r]) for e in range(6))
        >> int(network.third_shifts[stage, r])
        for r in range(2)
    ]
    scores = [
        int(tables.bias[stage, k]) + sum(vector[r] * int(tables.basis[stage, r, k]) for r in range(2))
        for k in range(SIZE, SIZE + 6)
    ]
    steps = [max(scores) - score >> int(tables.fractions[stage]) - 6 for score in scores]
    weights = [int(tables.powers[min(step, len(tables.powers) - 1)]) for step in steps]
    ends = [sum(weights[:i]) * (TOTAL - 6) // sum(weights) for i in range(7)]
    predictor = NetworkPredictor(tables, network, CODEBOOKS)
    sheet, columns = on_sheet(predictor, np.where(codes == ABSENT, SIZE, codes))
    if is_told:
        sheet.depths[columns] = DEPTHS
    found = predictor.odds(sheet, [(stage, columns)]).groups[frame]
    assert found.tolist() == [high - low for low, high in pairwise(ends)]


@settings(max_examples=25)
@given(n_codebooks=st.integers(1, 3), lengths=st.lists(st.integers(1, 300), min_size=1, max_size=5))
def test_packets_side_by_side_have_the_bytes_and_codes_of_each_alone(n_codebooks, lengths):
    packets = [pattern(3, n, low=0, high=SIZE - 1)[:n_codebooks].astype(np.uint16) for n in lengths]
    data = CODER.encode_all(packets)
    assert data == [CODER.encode(codes) for codes in packets]
    found = CODER.decode_all(list(zip(data, lengths, strict=True)), n_codebooks)
    for codes, back in zip(packets, found, strict=True):
        np.testing.assert_array_equal(back, codes)


def test_frames_of_different_depth_come_back_and_their_depths_are_told():
    coder = EntropyCoder.from_network(small_tables(), small_network(), CODEBOOKS, is_variable=True)
    data = coder.encode(UNEVEN)
    np.testing.assert_array_equal(coder.decode(data, 3, 25), UNEVEN)
    first = small_network().first.copy()
    first[:, WIDTH + 1 :] = 0
    deaf = EntropyCoder.from_network(small_tables(), small_network(first=first), CODEBOOKS, is_variable=True)
    assert deaf.encode(UNEVEN) != data
    assert small_coder(first=first).encode(CODES) == GOLDEN, "where depths are not told, they have no say"


@pytest.mark.parametrize("stage", [0, 2])
def test_a_prediction_uses_only_what_is_decoded_by_then(stage):
    """In stage 0 the frames before; elsewhere all frames of the stages before."""
    predictor = NetworkPredictor(small_tables(), small_network(), CODEBOOKS)
    (sheet, columns), first_unknown = on_sheet(predictor, CODES), max(stage, 1)
    part = [(stage, columns[9:10])]
    expected = predictor.odds(sheet, part).groups
    other = CODES.copy()
    other[first_unknown:] = SIZE - 1 - other[first_unknown:]
    if stage == 0:
        other[0, 9:] = SIZE - 1 - other[0, 9:]
    np.testing.assert_array_equal(predictor.odds(on_sheet(predictor, other)[0], part).groups, expected)
    other[first_unknown - 1, :9] = SIZE - 1 - other[first_unknown - 1, :9]
    assert (predictor.odds(on_sheet(predictor, other)[0], part).groups != expected).any()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        pytest.param({"first": np.zeros((3, 5), np.int8)}, "axes of arrays", id="axes"),
        pytest.param({"first": np.zeros((3, 4, 5), np.int8)}, "4 rows; expected more than", id="no width"),
        pytest.param({"first": np.zeros((3, 0, 5), np.int8)}, "none empty", id="empty"),
        pytest.param({"first": np.zeros((3, 8, 5))}, "first is float64", id="floats"),
        pytest.param({"second": np.zeros((5, 7), np.int8)}, "second has shape", id="shape"),
        pytest.param({"digits": np.array([31], np.uint8)}, "more than 30 digits", id="shift"),
        pytest.param({"second_bias": np.full((3, 6), 1 << 24, np.int32)}, "could reach", id="too large"),
    ],
)
def test_networks_that_could_not_be_exact_are_refused(change, complaint):
    with pytest.raises(ModelError, match=complaint):
        small_network(**change)


@pytest.mark.parametrize(
    ("codebooks", "complaint"),
    [
        pytest.param(CODEBOOKS[:2], "for 3 codebooks of width 4; the weights have 2", id="stages"),
        pytest.param(CODEBOOKS[..., :3], "have 3 of width 3", id="width"),
        pytest.param(1e6 * CODEBOOKS, "words of up to 45000000", id="too large"),
    ],
)
def test_codebooks_that_a_network_does_not_fit_are_refused(codebooks, complaint):
    with pytest.raises(ModelError, match=complaint):
        EntropyCoder.from_network(small_tables(), small_network(), codebooks)


def test_a_network_whose_scores_could_leave_their_range_is_refused():
    with pytest.raises(ModelError, match="a score could reach"):
        small_coder(third_shifts=np.zeros((3, 2), dtype=np.uint8))


def test_networks_survive_the_disk_and_damage_is_refused(folder):
    assert EntropyCoder.load(folder).tables_hash == CODER.tables_hash
    assert read_codebooks(folder).tolist() == CODEBOOKS.tolist()
    (folder / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ModelError, match="cannot read the codebooks"):
        EntropyCoder.load(folder)
    (folder / NETWORK).write_bytes(b"nothing")
    with pytest.raises(ModelError, match=r"prior\.npz"):
        EntropyCoder.load(folder)
    (folder / NETWORK).unlink()
    assert EntropyCoder.load(folder).tables_hash == small_tables().hash


N_WORDS = 32
WORDS = torch.randn(2, N_WORDS, 3, generator=torch.Generator().manual_seed(0))


def chained_codes(n_clips, n_frames=100, seed=0):
    """Stage 0 at random; stage 1 says where its frame and its neighbors add up to, but for some noise."""
    generator = np.random.default_rng(seed)
    first = generator.integers(0, N_WORDS, (n_clips, n_frames))
    latents = WORDS[0, first].numpy()
    sums = latents.copy()
    sums[:, 1:] += latents[:, :-1]
    sums[:, :-1] += latents[:, 1:]
    distances = ((sums[:, :, None] - 1.5 * WORDS[1].numpy()) ** 2).sum(axis=-1)  # [N, L, K]
    second = (distances + generator.exponential(0.2, distances.shape)).argmin(axis=-1)
    return list(np.stack([first, second], axis=1).astype(np.uint16))


@pytest.fixture(scope="module")
def alone():
    return fit_tables(chained_codes(100), codebook_size=N_WORDS, packet_frames=100)


def mean_bits(coder, stage):
    """Of the codes of a stage, the last, of packets that nothing was fitted to."""
    packets = chained_codes(20, seed=1)
    with_it, without = (
        sum(map(len, coder.encode_all([codes[:n] for codes in packets]))) for n in (stage + 1, stage)
    )
    return 8 * (with_it - without) / 2000


def test_a_trained_network_finds_what_tables_of_single_codes_cannot_and_rounding_costs_little(alone):
    corpus = _Corpus(chained_codes(100), [], N_WORDS, 100)
    torch.manual_seed(0)
    model = PriorNetwork(WORDS, alone)
    _train(model, corpus, n_epochs=20)
    tables, network = _rounded(model, alone, corpus, torch.arange(2000))
    coder = EntropyCoder.from_network(tables, network, WORDS.numpy())
    unseen = _Corpus(chained_codes(20, seed=1), [], N_WORDS, 100)
    with torch.no_grad():
        bits = _mean_bits(model, unseen, torch.arange(unseen.n_frames), torch.tensor([1])).item()
    assert mean_bits(EntropyCoder.from_tables(alone), 1) > 1.5
    assert mean_bits(coder, 1) < 0.9
    assert mean_bits(coder, 1) == pytest.approx(bits, abs=0.03)


def test_a_network_learns_what_the_code_before_and_the_depth_of_a_frame_say_about_stage_0():
    """A code is the one before, plus one, four times of five; frames of two stages have the upper half."""
    generator = np.random.default_rng(0)
    first = generator.integers(0, N_WORDS, (60, 100))
    for frame in range(1, 100):
        goes_on = generator.random(60) < 0.8
        first[:, frame] = np.where(goes_on, (first[:, frame - 1] + 1) % N_WORDS, first[:, frame])
    even = list(np.stack([first, generator.integers(0, N_WORDS, first.shape)], axis=1).astype(np.uint16))
    uneven = [cut(codes, 1 + codes[0] // 16) for codes in even]
    tables = fit_tables(even, codebook_size=N_WORDS, packet_frames=100)
    corpus = _Corpus(even[:40], uneven[:40], N_WORDS, 100)
    torch.manual_seed(0)
    model = PriorNetwork(WORDS / 8, tables)
    _train(model, corpus, n_epochs=10)
    found = *_rounded(model, tables, corpus, torch.arange(2000)), WORDS.numpy() / 8
    coder = EntropyCoder.from_network(*found)
    n_bits = 8 * sum(map(len, coder.encode_all([codes[:1] for codes in even[40:]]))) / 2000
    assert n_bits < 3.2, "far below 5, which codes of a stage by themselves take"
    told = _Corpus([], uneven[40:], N_WORDS, 100)
    with torch.no_grad():
        frames = torch.arange(told.n_frames)
        bits, of_all = (_mean_bits(model, told, frames, torch.arange(n)).item() for n in (1, 2))
    assert bits < n_bits - 0.1, "knowing the half takes 0.45 bits off what an ideal model needs"
    coder = EntropyCoder.from_network(*found, is_variable=True)
    taken = 8 * sum(map(len, coder.encode_all(uneven[40:])))
    for codes in uneven[40:]:
        depths = depths_of(codes)
        shares = depth_odds(depths, 2)[np.arange(100), depths - 1] / TOTAL
        taken += np.log2(shares).sum()
    n_codes = sum((codes != ABSENT).sum() for codes in uneven[40:])
    assert taken / n_codes == pytest.approx(of_all, abs=0.05), "integers are told the same"


def test_groups_and_places_are_a_likelihood_for_vectors_of_every_size():
    codes = [pattern(2, 200, low=0, high=SIZE - 1).astype(np.uint16)]
    model = PriorNetwork(torch.from_numpy(CODEBOOKS[:2]).float(), fit_tables(codes, codebook_size=SIZE))

    def log_likelihood(raw, targets):
        return -math.log(2) * model.bits_at(raw[None], targets[None], torch.tensor([1]))[0]

    assert check_likelihood(log_likelihood, n_parameters=model.basis.shape[1], n_levels=SIZE) == []


def test_training_twice_gives_the_same_network():
    codes = chained_codes(3)
    tables = fit_tables(codes, codebook_size=N_WORDS)
    uneven = [cut(clip, np.full(100, 1)) for clip in codes]
    once, again, other = (
        fit_network(codes, some, tables, WORDS, packet_frames=25) for some in (uneven, uneven, codes)
    )
    assert (once[0].hash, once[1].hash) == (again[0].hash, again[1].hash)
    assert (once[0].hash, once[1].hash) != (other[0].hash, other[1].hash), "taught by frames that end early"


@pytest.mark.parametrize("n_frames", [1, 3, 40])
def test_the_smallest_corpus_still_gives_a_network_that_codes_everything(n_frames):
    codes = [np.zeros((2, n_frames), dtype=np.uint16)]
    tables = fit_tables(codes, codebook_size=N_WORDS)
    found = fit_network(codes, codes, tables, WORDS, packet_frames=25)
    coder = EntropyCoder.from_network(*found, WORDS.numpy())
    some = pattern(2, 25, low=0, high=N_WORDS - 1).astype(np.uint16)
    np.testing.assert_array_equal(coder.decode(coder.encode(some), 2, 25), some)


def test_no_codes_are_refused():
    tables = fit_tables(chained_codes(1), codebook_size=N_WORDS)
    with pytest.raises(DataError, match="no codes"):
        fit_network([np.zeros((2, 0), np.uint16)], [], tables, WORDS, packet_frames=25)
