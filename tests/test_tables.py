"""Entropy tables: exact packets of codes, fixed bytes, honest refusals, a fit that finds what is there."""

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from telucodec.bitstream.rangecoder import TOTAL, RangeWriter
from telucodec.errors import BitstreamError, DataError, ModelError
from telucodec.prior.coder import EntropyCoder
from telucodec.prior.fitting import fit_tables
from telucodec.prior.predictor import TablePredictor, blank_sheet
from telucodec.prior.tables import UNUSED, Tables, group_size, n_groups, symbol_dtype


def pattern(*shape, low, high):
    """The same integers everywhere, from ``low`` to ``high``, without a random generator."""
    count = int(np.prod(shape))
    return (low + (np.arange(count) * 7919 + 104_729) % 9973 % (high - low + 1)).reshape(shape)


SIZE = 45  # codewords in 6 groups of 8, the last short of 3


def small_tables(size=SIZE):
    """Three stages of ``size`` codewords with all kinds of contexts; integers by formula."""
    n_columns = size + n_groups(size)
    return Tables(
        stages=np.array([[0, 0, UNUSED], [0, 0, UNUSED], [1, 0, 1]], dtype=np.int8),
        offsets=np.array([[-1, -2, 0], [0, 1, 0], [0, 0, -1]], dtype=np.int8),
        classes=pattern(3, 3, size + 1, low=0, high=4).astype(np.uint8),
        vectors=pattern(3, 3, 5, 2, low=-30, high=30).astype(np.int16),
        symbols=np.argsort(pattern(3, size, low=0, high=9972), axis=1).astype(symbol_dtype(size)),
        basis=pattern(3, 2, n_columns, low=-127, high=127).astype(np.int8),
        bias=pattern(3, n_columns, low=-4000, high=0).astype(np.int32),
        fractions=np.array([10, 11, 12], dtype=np.uint8),
        powers=np.array([1 << 20 >> step // 64 for step in range(64 * 20)] + [1], dtype=np.int32),
    )


CODER = EntropyCoder.from_tables(small_tables())
CODES = pattern(3, 25, low=0, high=SIZE - 1).astype(np.uint16)
CODES_SHA256 = hashlib.sha256(CODES.tobytes()).hexdigest()
GOLDEN = bytes.fromhex(
    "e56ea5fe3b5c876bfaeaa4b1b035ca4fce8767bdc0654671d3275a753f12a51ce11e2883965bb81397edfb28ce0843647bbc75c3c7e9bad20c7bb47711b2ee4e"
)
GOLDEN_ONE_FRAME = bytes.fromhex("e5c6")


def test_the_bytes_of_known_codes_and_the_hash_of_known_tables_never_change():
    assert CODER.tables_hash.hex() == "81bba1af45f02467"
    assert CODER.encode(CODES) == GOLDEN
    assert CODER.encode(CODES[:2, :1]) == GOLDEN_ONE_FRAME
    np.testing.assert_array_equal(CODER.decode(GOLDEN, 3, 25), CODES)
    np.testing.assert_array_equal(CODER.decode(GOLDEN_ONE_FRAME, 2, 1), CODES[:2, :1])


def decoded_elsewhere(folder, data, n_threads):
    """What a process with so many threads makes of ``data``: codes, bytes again, is torch there."""
    probe = (
        "import hashlib, pathlib, sys; from telucodec.prior.coder import EntropyCoder;"
        "coder = EntropyCoder.load(pathlib.Path(sys.argv[1]));"
        "codes = coder.decode(bytes.fromhex(sys.argv[2]), 3, 25);"
        "print(hashlib.sha256(codes.tobytes()).hexdigest(), coder.encode(codes).hex());"
        "print('torch' in sys.modules)"
    )
    threads = dict.fromkeys(["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"], n_threads)
    done = subprocess.run(
        [sys.executable, "-c", probe, str(folder), data.hex()],
        env=os.environ | threads, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.split()


@pytest.mark.parametrize("n_threads", ["1", "3"])
def test_another_process_with_other_threads_decodes_the_same(tmp_path, n_threads):
    small_tables().save(tmp_path / "entropy.npz")
    assert decoded_elsewhere(tmp_path, GOLDEN, n_threads) == [CODES_SHA256, GOLDEN.hex(), "False"]


@given(
    n_codebooks=st.integers(1, 3),
    n_frames=st.integers(1, 30),
    size=st.sampled_from([1, 2, 32, 45, 65, 300]),
    seed=st.integers(0, 999),
)
def test_every_packet_of_codes_comes_back(n_codebooks, n_frames, size, seed):
    coder = EntropyCoder.from_tables(small_tables(size))
    codes = np.random.default_rng(seed).integers(0, size, (n_codebooks, n_frames)).astype(np.uint16)
    back = coder.decode(coder.encode(codes), n_codebooks, n_frames)
    assert back.dtype == np.uint16
    np.testing.assert_array_equal(back, codes)


def test_a_packet_longer_than_a_batch_comes_back():
    codes = pattern(3, 700, low=0, high=SIZE - 1).astype(np.uint16)
    np.testing.assert_array_equal(CODER.decode(CODER.encode(codes), 3, 700), codes)


LENGTHS = [1, 25, 3, 300, 2, 130, 129, 1]
SEVERAL = [pattern(3, n, low=0, high=SIZE - 1).astype(np.uint16) for n in LENGTHS]


def test_packets_side_by_side_have_the_bytes_and_codes_of_each_alone():
    data = CODER.encode_all(SEVERAL)
    assert data == [CODER.encode(codes) for codes in SEVERAL]
    found = CODER.decode_all(list(zip(data, LENGTHS, strict=True)), 3)
    for codes, back in zip(SEVERAL, found, strict=True):
        np.testing.assert_array_equal(back, codes)
    assert CODER.encode_all([]) == CODER.decode_all([], 3) == []


@pytest.mark.parametrize("seed", range(20))
def test_a_damaged_packet_is_refused_and_those_beside_it_are_not(seed):
    rng = np.random.default_rng(seed)
    data = [bytearray(item) for item in CODER.encode_all(SEVERAL)]
    places = rng.choice(len(data), 2, replace=False).tolist()
    data[places[0]][-1:] = rng.bytes(4)
    data[places[1]][0] ^= 255
    packets = [(bytes(item), n) for item, n in zip(data, LENGTHS, strict=True)]
    packets.insert(3, (b"\0", 0))
    found = CODER.decode_all(packets, 3)
    for (item, n_frames), codes in zip(packets, found, strict=True):
        if isinstance(codes, BitstreamError):
            with pytest.raises(BitstreamError) as alone:
                CODER.decode(item, 3, n_frames)
            assert str(codes) == str(alone.value)
        else:
            assert CODER.encode(codes) == item
    intact = [i for i in range(len(SEVERAL)) if i not in places]
    for i in intact:
        np.testing.assert_array_equal(found[i + (i >= 3)], SEVERAL[i])


@pytest.mark.parametrize(
    ("size", "shape"), [(1, (1, 1)), (2, (2, 1)), (40, (8, 5)), (256, (16, 16)), (1024, (32, 32))]
)
def test_groups_are_about_as_many_as_each_has_symbols(size, shape):
    assert (group_size(size), n_groups(size)) == shape


def test_the_odds_are_those_of_the_page_that_specifies_them():
    """docs/entropy.md, one frame of stage 2 in plain integers."""
    tables, frame, stage = small_tables(), 7, 2
    vector = [0, 0]
    for j, (source, offset) in enumerate([(1, 0), (0, 0), (1, -1)]):
        word = tables.vectors[stage, j, tables.classes[stage, j, CODES[source, frame + offset]]]
        vector = [total + int(number) for total, number in zip(vector, word, strict=True)]

    def frequencies(columns, n_symbols):
        scores = [
            int(tables.bias[stage, k])
            + sum(h * int(b) for h, b in zip(vector, tables.basis[stage, :, k], strict=True))
            for k in columns
        ]
        steps = [max(scores) - score >> int(tables.fractions[stage]) - 6 for score in scores]
        weights = [int(tables.powers[min(step, len(tables.powers) - 1)]) for step in steps]
        weights += [0] * (n_symbols - len(weights))
        ends = [sum(weights[:i]) * (TOTAL - n_symbols) // sum(weights) for i in range(n_symbols + 1)]
        return [high - low for low, high in pairwise(ends)]

    predictor = TablePredictor(tables)
    sheet, columns = on_sheet(predictor, CODES)
    odds = predictor.odds(sheet, [(stage, columns)])
    assert odds.groups[frame].tolist() == frequencies(range(SIZE, SIZE + 6), 6)
    for group in range(6):
        places = range(8 * group, min(8 * group + 8, SIZE))
        assert odds.inside(np.full(25, group))[frame].tolist() == frequencies(places, 8)
    assert predictor.codewords[stage, tables.symbols[stage, CODES[stage, frame]]] == CODES[stage, frame]


def test_a_symbol_that_no_codeword_has_is_refused_and_the_packet_beside_it_is_not():
    predictor, writer = TablePredictor(small_tables()), RangeWriter()
    sheet, columns = on_sheet(predictor, CODES[:, :1])
    odds = predictor.odds(sheet, [(0, columns)])
    writer.write(np.array([5]), odds.groups)
    writer.write(np.array([SIZE % 8]), odds.inside(np.array([5])))
    found = CODER.decode_all([(writer.finish(), 2), (GOLDEN, 25)], 3)
    assert "stage 0 has a symbol beyond those of its 45 codewords" in str(found[0])
    np.testing.assert_array_equal(found[1], CODES)


def test_every_codeword_of_every_stage_can_be_coded():
    codes = np.tile(np.arange(SIZE, dtype=np.uint16), (3, 1))
    np.testing.assert_array_equal(CODER.decode(CODER.encode(codes), 3, SIZE), codes)


def on_sheet(predictor, codes):
    """A sheet with one packet on it, and the columns of its frames."""
    n_codebooks, n_frames = codes.shape
    sheet, (start,) = blank_sheet([n_frames], predictor)
    sheet.codes[start : start + n_frames, :n_codebooks] = codes.T
    return sheet, start + np.arange(n_frames)


def test_the_size_is_the_entropy_of_the_model_within_a_tenth_of_a_percent_and_64_bits():
    codes, predictor, bits = (
        pattern(3, 900, low=0, high=SIZE - 1).astype(np.uint16),
        TablePredictor(small_tables()),
        0.0,
    )
    sheet, columns = on_sheet(predictor, codes)
    for stage in range(3):
        for some in predictor.batches(stage, columns):
            odds, symbols = (
                predictor.odds(sheet, [(stage, some)]),
                predictor.symbols[stage, sheet.codes[some, stage]],
            )
            rows, (groups, places) = np.arange(len(symbols)), np.divmod(symbols, predictor.group_size)
            bits -= np.log2((odds.groups[rows, groups].astype(float) + 1) / TOTAL).sum()
            bits -= np.log2((odds.inside(groups)[rows, places].astype(float) + 1) / TOTAL).sum()
    assert abs(8 * len(CODER.encode(codes)) - bits) <= 0.001 * bits + 64


def test_a_prediction_uses_only_what_is_decoded_by_then():
    predictor = TablePredictor(small_tables())
    later = CODES.copy()
    later[1, 10:] = SIZE - 1 - later[1, 10:]
    later[2] = SIZE - 1 - later[2]
    (sheet, columns), (other, _) = on_sheet(predictor, CODES), on_sheet(predictor, later)
    for part in ((0, columns[9:10]), (1, columns)):
        odds, same = predictor.odds(sheet, [part]), predictor.odds(other, [part])
        np.testing.assert_array_equal(odds.groups, same.groups)
        groups = np.arange(len(part[1])) % 5
        np.testing.assert_array_equal(odds.inside(groups), same.inside(groups))


@given(data=st.binary(max_size=200), n_codebooks=st.integers(0, 5), n_frames=st.integers(0, 30))
def test_random_bytes_are_refused_or_are_the_one_spelling_of_their_codes(data, n_codebooks, n_frames):
    try:
        codes = CODER.decode(data, n_codebooks, n_frames)
    except BitstreamError:
        return
    assert CODER.encode(codes) == data


@pytest.mark.parametrize("tail", [b"\0", b"\1", b"\xff" * 9, bytes(10**6)])
def test_bytes_that_go_on_after_the_last_code_are_refused(tail):
    with pytest.raises(BitstreamError, match="bytes of coded symbols"):
        CODER.decode(GOLDEN + tail, 3, 25)


@pytest.mark.parametrize(("n_codebooks", "n_frames"), [(4, 25), (0, 25), (3, 0), (3, -1), (3, 10**9)])
def test_a_shape_that_no_packet_has_is_refused_before_anything_is_allocated(n_codebooks, n_frames):
    with pytest.raises(BitstreamError, match=r"expected 1 to|know 1 to"):
        CODER.decode(GOLDEN, n_codebooks, n_frames)


@pytest.mark.parametrize(
    "codes", [np.zeros((4, 2)), np.zeros((0, 2)), np.zeros((3, 0)), np.full((3, 2), SIZE)]
)
def test_codes_that_the_tables_do_not_know_cannot_be_encoded(codes):
    with pytest.raises(ValueError, match=r"know|0 frames"):
        CODER.encode(codes.astype(np.uint16))


def test_tables_survive_the_disk(tmp_path):
    small_tables().save(tmp_path / "entropy.npz")
    assert Tables.load(tmp_path / "entropy.npz").hash == small_tables().hash


def test_one_changed_integer_changes_the_hash():
    bias = small_tables().bias.copy()
    bias[2, SIZE - 1] += 1
    assert replace(small_tables(), bias=bias).hash != small_tables().hash


def test_damaged_tables_are_refused_or_others(tmp_path):
    small_tables().save(tmp_path / "entropy.npz")
    whole, rng, n_refused = (tmp_path / "entropy.npz").read_bytes(), np.random.default_rng(0), 0
    for _ in range(300):
        data = bytearray(whole)
        data[rng.integers(len(data))] ^= 1 << rng.integers(8)
        (tmp_path / "entropy.npz").write_bytes(data)
        try:
            assert Tables.load(tmp_path / "entropy.npz").n_codebooks == 3
        except ModelError:
            n_refused += 1
    assert n_refused > 200


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 not a zip", b"\x93NUMPY"])
def test_a_file_that_holds_no_tables_is_refused_by_name(tmp_path, content):
    path = tmp_path / "entropy.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=r"entropy\.npz"):
        Tables.load(path)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        pytest.param(
            {"vectors": np.full((3, 3, 5, 2), 32_000, np.int16)}, "a score could reach", id="too large"
        ),
        pytest.param({"bias": np.zeros((3, SIZE), np.int32)}, "bias has shape", id="shape"),
        pytest.param({"basis": np.zeros((3, 2, SIZE), np.int8)}, "basis has shape", id="no groups"),
        pytest.param({"symbols": np.zeros((3, SIZE), np.uint8)}, "each number once", id="symbols"),
        pytest.param({"symbols": np.zeros((), np.uint8)}, "axes of arrays", id="no axes"),
        pytest.param({"stages": np.zeros((), np.int8)}, "axes of arrays", id="no stages"),
        pytest.param({"bias": np.zeros((3, SIZE + 6))}, "bias is float64", id="floats"),
        pytest.param({"classes": np.full((3, 3, SIZE + 1), 5, np.uint8)}, "class 5 of 5", id="class"),
        pytest.param({"stages": np.full((3, 3), 2, np.int8)}, "not known by then", id="from the future"),
        pytest.param({"powers": np.zeros(9, np.int32)}, "powers do not fall", id="no weight"),
        pytest.param({"fractions": np.full(3, 5, np.uint8)}, "fractions run", id="fraction"),
    ],
)
def test_tables_that_could_not_be_exact_are_refused(change, complaint):
    with pytest.raises(ModelError, match=complaint):
        replace(small_tables(), **change)


def chained_codes(n_clips=60, n_frames=100, size=32, seed=0):
    """Stage 0 walks in small steps; stage 1 follows from stage 0 but for a little noise."""
    generator = np.random.default_rng(seed)
    steps = generator.integers(-1, 2, (n_clips, n_frames))
    first = np.cumsum(steps, axis=1) % size
    second = (first * 5 + generator.integers(0, 2, first.shape)) % size
    return list(np.stack([first, second], axis=1).astype(np.uint16))


@pytest.fixture(scope="module")
def fitted():
    return fit_tables(chained_codes(), codebook_size=32, n_classes=32)


def test_fitted_tables_find_the_order_in_the_codes(fitted):
    coder = EntropyCoder.from_tables(fitted)
    sizes = [
        len(coder.encode(clip[:, start : start + 25]))
        for clip in chained_codes(20, seed=1)
        for start in (0, 25)
    ]
    # log2(3) + 1 bits a frame after the first frame, of 10 in fixed width
    assert 8 * np.mean(sizes) / 25 < 3.4


def test_fitting_twice_gives_the_same_tables(fitted):
    assert fit_tables(chained_codes(), codebook_size=32, n_classes=32).hash == fitted.hash


@pytest.mark.parametrize("n_frames", [1, 3, 40])
def test_the_smallest_corpus_still_gives_tables_that_code_everything(n_frames):
    tables = fit_tables([np.zeros((4, n_frames), dtype=np.uint16)], codebook_size=64)
    codes = pattern(4, 25, low=0, high=63).astype(np.uint16)
    coder = EntropyCoder.from_tables(tables)
    np.testing.assert_array_equal(coder.decode(coder.encode(codes), 4, 25), codes)


@pytest.mark.parametrize(
    ("clips", "complaint"),
    [
        pytest.param([], "no codes", id="nothing"),
        pytest.param([np.zeros((2, 0), np.uint16)], "no codes", id="empty"),
        pytest.param([np.zeros((2, 3), np.uint16), np.zeros((3, 3), np.uint16)], "one number", id="stages"),
        pytest.param([np.full((2, 3), 32, np.uint16)], "code 32", id="too large"),
    ],
)
def test_codes_that_no_table_fits_are_refused(clips, complaint):
    with pytest.raises(DataError, match=complaint):
        fit_tables(clips, codebook_size=32)
