"""The second layer of high rates: coefficients that add up, packets of two layers, shares of a rate."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_fuzz import MAX_SAMPLES, mutated
from test_tables import CODES, small_tables

from telucodec.allocation import plan_stages
from telucodec.bitstream.coder import ENTROPY_MODES, N_LEVEL_STAGES
from telucodec.bitstream.container import HEADER_BYTES, PacketWriter, summarize
from telucodec.bitstream.parser import StreamParser
from telucodec.coders import REFINED_KBPS, base_kbps, build_coder, refined_stages
from telucodec.errors import BitstreamError, ConfigError, ModelError
from telucodec.evaluate.waveform import snr_db
from telucodec.ladders import CLOSE, StepLadder, within_budget
from telucodec.model.lattice import UNIT_STEP
from telucodec.model.levels import N_BANDS, N_POINTS
from telucodec.model.refinement import LOUDER, Refinement
from telucodec.pipeline import PRETRAINED, open_codec
from telucodec.prior.coder import EntropyCoder
from telucodec.prior.layered import N_BASE, LayeredCoder, joined
from telucodec.refining import Refiner, refinement_of
from telucodec.streaming import StreamDecoder, StreamEncoder
from telucodec.truncate import truncate_file

HOP, N = 80, 24
BASE = EntropyCoder.from_tables(small_tables(), is_variable=True)
BEHIND = EntropyCoder.from_tables(small_tables(size=33))
CODER = LayeredCoder(BASE, BEHIND)
BOTH = np.vstack([CODES, CODES % 33])
FINE = UNIT_STEP - 48  # a 64th of the usual step


def noise(n_frames=12, seed=0, level=0.1):
    return level * torch.randn(1, 1, n_frames * HOP, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def refinement():
    return Refinement(hop=HOP, n_refined=N)


def residuals(refinement, wav, decoded):
    """What was ``decoded``, one hop late, leaves of the coefficients of ``wav``, in units of steps."""
    targets, _ = refinement.targets(wav, refinement.initial_state(wav))
    return refinement.residuals(decoded, targets, refinement.initial_state(decoded))[0][:, N_BANDS:]


def without_levels(codes):
    """Codes of coefficients as those of a refinement."""
    return torch.cat([codes[:, :1], torch.full_like(codes[:, :N_LEVEL_STAGES], -1), codes[:, 1:]], dim=1)


def refined(refinement, decoded, codes):
    return refinement.step(decoded, codes, refinement.initial_state(decoded))[0] / LOUDER


def late(wav, n_hops=1):
    return torch.nn.functional.pad(wav, (n_hops * HOP, 0))[..., : wav.shape[-1]]


def low_part(refinement, wav):
    """What of ``wav`` the refined coefficients hold."""
    coefficients, _ = refinement.analysis.step(wav, refinement.analysis.initial_state(wav))
    return coefficients


def encoded(codec, wav, **settings):
    encoder = StreamEncoder(codec, **{"is_held": True, **settings})
    return encoder.push(wav) + encoder.flush()


def decoded(codec, data):
    decoder = StreamDecoder(codec)
    return np.concatenate([decoder.push(data), decoder.flush()]), decoder.damages


def test_fine_steps_give_the_low_band_back_and_leave_the_rest(refinement):
    wav = noise()
    base = late(wav + noise(seed=1, level=0.003))
    codes = refinement.quantizer.encode_at(residuals(refinement, wav, base), torch.tensor([FINE]))
    out = refined(refinement, base, without_levels(codes))
    wanted = low_part(refinement, late(wav, 2))[..., 3:]
    before = (low_part(refinement, late(base))[..., 3:] - wanted).square().mean()
    after = (low_part(refinement, out)[..., 3:] - wanted).square().mean()
    assert after < before / 50
    untouched = out - late(base)
    everything = Refinement(hop=HOP, n_refined=HOP)
    assert low_part(everything, untouched)[:, N:].abs().max() < 1e-5


def test_without_codes_the_base_comes_one_frame_late(refinement):
    base = noise()
    torch.testing.assert_close(refined(refinement, base, None), late(base))


def test_codes_of_fewer_stages_refine_the_lowest_coefficients(refinement):
    wav, base = noise(), late(noise(seed=1))
    codes = refinement.quantizer.encode_at(residuals(refinement, wav, base), torch.tensor([UNIT_STEP]))
    added = refined(refinement, base, without_levels(codes)[:, : N_LEVEL_STAGES + 5]) - late(base)
    assert low_part(refinement, added)[:, :8].abs().max() > 0.01
    assert low_part(refinement, added)[:, 8:].abs().max() < 1e-5


def test_absent_codes_add_nothing(refinement):
    base = noise()
    codes = torch.full((1, refinement.n_codebooks, 12), -1)
    torch.testing.assert_close(refined(refinement, base, codes), late(base))


@given(cut=st.integers(1, 11))
def test_pieces_give_what_the_whole_gives(refinement, cut):
    wav, base = noise(), noise(seed=1)
    codes = torch.randint(0, 9, (1, refinement.n_codebooks, 12), generator=torch.Generator().manual_seed(2))
    codes[:, 0] = UNIT_STEP
    codes[:, 1:4, ::5] += 128  # levels as a whole
    whole = refined(refinement, base, codes)
    state, parts = refinement.initial_state(base), []
    for part, some in ((slice(0, cut), codes[..., :cut]), (slice(cut, 12), codes[..., cut:])):
        out, state = refinement.step(base[..., part.start * HOP : part.stop * HOP], some, state)
        parts.append(out)
    torch.testing.assert_close(torch.cat(parts, dim=-1) / LOUDER, whole)
    heard, first = refinement.initial_state(wav), []
    for part in (slice(0, cut), slice(cut, 12)):
        targets, heard = refinement.targets(wav[..., part.start * HOP : part.stop * HOP], heard)
        first.append(targets)
    expected, _ = refinement.targets(wav, refinement.initial_state(wav))
    torch.testing.assert_close(torch.cat(first, dim=-1), expected)


def test_loud_parts_have_coarser_steps_than_quiet_ones(refinement):
    base = noise()
    _, loud, _ = refinement.decoded(base, refinement.initial_state(base))
    _, quiet, _ = refinement.decoded(base / 100, refinement.initial_state(base))
    ratio = (loud / quiet)[..., 1:]
    assert ratio.min() > 2
    assert ratio.max() <= 10.01, "the square root of 100"


def test_packets_of_two_layers_come_back_whole_and_in_part():
    data = CODER.encode(BOTH)
    np.testing.assert_array_equal(CODER.decode(data, 6, 25), BOTH)
    assert CODER.encode(BOTH[:3]) == joined(BASE.encode(CODES), b"")
    for n_stages in range(1, 7):
        part = CODER.encode(BOTH[:n_stages])
        np.testing.assert_array_equal(CODER.decode(part, n_stages, 25), BOTH[:n_stages])
    many = CODER.decode_all([(data, 25)] * 3, 6)
    assert all(np.array_equal(codes, BOTH) for codes in many)


def test_each_layer_has_its_say_in_the_hash():
    assert CODER.tables_hash != LayeredCoder(BASE, BASE).tables_hash
    assert CODER.tables_hash != LayeredCoder(BEHIND, BEHIND).tables_hash
    assert CODER.mode == ENTROPY_MODES["refined"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0 bytes of two layers end inside the number"),
        (b"\x80", "1 bytes of two layers end inside the number"),
        (b"\x05", "a first layer of 5 bytes is announced; 0 follow"),
        (b"\x80\x00" + CODER.encode(BOTH)[1:], "spelled longer than it need be"),
        (CODER.encode(BOTH)[:20], "is announced; 19 follow"),
        (CODER.encode(BOTH) + b"\x00", "not what their 75 codes are written as"),
    ],
    ids=["empty", "no number", "short", "long number", "end missing", "end too long"],
)
def test_what_no_coder_wrote_is_refused(data, message):
    with pytest.raises(BitstreamError, match=message):
        CODER.decode(data, 6, 25)


def test_one_damaged_packet_costs_no_other():
    data = CODER.encode(BOTH)
    found = CODER.decode_all([(data, 25), (data[:20], 25), (data, 25)], 6)
    assert isinstance(found[1], BitstreamError)
    np.testing.assert_array_equal(found[0], BOTH)
    np.testing.assert_array_equal(found[2], BOTH)
    with pytest.raises(BitstreamError, match="bytes of a refinement in a stream that has no stages of one"):
        CODER.decode(data, 3, 25)


def test_steps_fill_a_budget(shipped):
    coder = build_coder(ENTROPY_MODES["refined"], 10, shipped.folder).refinement
    layer = refinement_of(shipped)
    refiner, generator = Refiner(shipped, layer.n_codebooks, 6.0), np.random.default_rng(0)
    packets = []
    for _ in range(12):
        levels = np.where(generator.random((N_LEVEL_STAGES, 25)) < 0.2, 1, 0)
        levels[:, 0] = N_POINTS
        left = 2.0 ** generator.uniform(-3, 1) * generator.standard_normal((layer.n_refined, 25))
        packets.append(np.vstack([levels, left]).astype("f4"))

    class Counted:
        n_coded = 0

        def encode_all(self, packets):
            self.n_coded += len(packets)
            return coder.encode_all(packets)

    for budget in (9_000, 15_000, 30_000):
        counted = Counted()
        ladder = StepLadder(packets, refiner.codes_at, n_fixed=N_LEVEL_STAGES)
        codes, payloads = within_budget(counted, ladder, 12, budget)
        taken = 8 * sum(map(len, payloads))
        assert 0.97 * budget < taken <= budget
        assert coder.encode_all(codes) == payloads
        assert counted.n_coded <= 60


def test_the_refinement_has_what_the_network_leaves_of_the_whole(shipped, clip, monkeypatch):
    asked = []

    def noted(coder, ladder, n_packets, budget, **settings):
        found = within_budget(coder, ladder, n_packets, budget, **settings)
        asked.append((budget, 8 * sum(map(len, found[1])), settings))
        return found

    monkeypatch.setattr("telucodec.allocation.within_budget", noted)
    data = encoded(shipped, clip, kbps=6.0)
    whole = 6.0 * 1000 * len(clip) / 16_000
    (share, base, first), (left, _, second) = asked
    assert first == {"enough": 0, "limit": pytest.approx(1.04 * share)}
    assert whole - base - 16 * summarize(data).n_packets <= left < whole - base
    assert second == {"enough": pytest.approx(left - (1 - CLOSE) * whole)}


class Estimated:
    """A ladder of 40 rungs on which each packet has its size over 1.1 to the power of the rung."""

    n_rungs, far = 40, 2

    def __init__(self, sizes):
        self.sizes = np.array(sizes, dtype=float)

    def codes(self, places, rung):
        return [np.array([[place, rung]]) for place in places]

    def estimates(self, rung):
        return self.sizes / 1.1**rung

    def cheapest(self, places, budget):
        return next((r for r in range(39) if self.estimates(r)[places].sum() <= budget), 39)


class Sized:
    """What an `Estimated` packet takes: ``errors`` times its estimate; notes what is coded."""

    def __init__(self, ladder, errors):
        self.ladder, self.errors, self.coded, self.rungs = ladder, errors, [], {}

    def encode_all(self, codes):
        self.coded.append([int(place) for ((place, _),) in codes])
        self.rungs |= {int(place): int(rung) for ((place, rung),) in codes}
        return [
            bytes(round(self.errors[place] * self.ladder.estimates(rung)[place] / 8))
            for ((place, rung),) in codes
        ]


def test_a_small_part_is_coded_again_for_a_small_miss():
    ladder = Estimated([4000] * 8 + [400] * 8)
    coder = Sized(ladder, [1.0] * 15 + [3.0])
    within_budget(coder, ladder, 16, 12_000)
    first, again = coder.coded[:5], coder.coded[5:]
    assert sorted(place for part in first for place in part) == list(range(16))
    assert [len(part) for part in first] == [4, 6, 3, 2, 1]
    assert again
    assert max(map(len, again)) < 4
    rungs = list(coder.rungs.values())
    assert max(rungs) - min(rungs) <= 4


def test_a_file_that_all_stages_nearly_fit_is_not_coded_on_the_last_rung():
    ladder = Estimated([1000] * 5)
    coder = Sized(ladder, [1.0, 1.0, 1.7, 1.0, 1.0])  # the third is coded last, and is a surprise
    _, payloads = within_budget(coder, ladder, 5, 5_600)
    assert 0.95 * 5_600 < 8 * sum(map(len, payloads)) <= 5_600


def test_what_may_be_missing_or_exceeded_is_up_to_the_caller():
    ladder = Estimated([1000] * 16)
    figures = {}
    for name, settings in {
        "close": {},
        "less": {"enough": 5_000.0},
        "more": {"enough": 0.0, "limit": 1e5},
    }.items():
        coder = Sized(ladder, [1.0] * 8 + [1.15] * 8)
        _, payloads = within_budget(coder, ladder, 16, 8_000, **settings)
        figures[name] = 8 * sum(map(len, payloads)), sum(map(len, coder.coded))
    assert CLOSE * 8_000 <= figures["close"][0] <= 8_000
    assert 5_000 <= figures["less"][0] <= 8_000
    assert figures["less"][1] <= figures["close"][1]
    assert figures["more"][1] == 16


def test_a_layer_that_leaves_bits_to_another_is_coded_once():
    class Counted:
        n_coded = 0

        def encode_all(self, packets):
            self.n_coded += len(packets)
            return [bytes(10)] * len(packets)

    residuals = [np.full((4, 25), 100.0, dtype=np.float32)] * 8
    counts = []
    for settings in ({}, {"enough": 0.0, "limit": 5_200.0}):
        ladder = StepLadder(residuals, lambda residual, step: np.zeros((3, residual.shape[1]), np.uint16))
        coder = Counted()
        within_budget(coder, ladder, 8, 5_000, **settings)
        counts.append(coder.n_coded)
    assert counts[0] > counts[1] == 8


def test_any_rate_above_the_lowest_is_planned(shipped):
    for kbps in (2.5, 5.1, 1e6, float("inf")):
        plan = plan_stages(shipped.config, shipped.folder, kbps=kbps, entropy="refined")
        assert N_BASE + N_LEVEL_STAGES < plan.n_codebooks <= N_BASE + N_LEVEL_STAGES + 41


def test_shares_and_stages_grow_with_the_rate():
    rates = np.linspace(REFINED_KBPS, 20, 30)
    shares = [base_kbps(rate) for rate in rates]
    assert shares == sorted(shares)
    assert all(0.4 < share / rate < 0.9 for share, rate in zip(shares, rates, strict=True))
    stages = [refined_stages(rate, 41 + N_LEVEL_STAGES) - N_LEVEL_STAGES for rate in rates]
    assert stages == sorted(stages)
    assert (stages[0], stages[-1]) == (12, 41)


def test_files_are_refined_from_their_rate_on_and_live_streams_never(shipped):
    def entropy(**settings):
        return plan_stages(shipped.config, shipped.folder, **settings).entropy

    assert entropy(kbps=REFINED_KBPS, is_held=True) == "refined"
    assert entropy(kbps=REFINED_KBPS - 0.1, is_held=True) == "variable"
    assert entropy(kbps=9.2) == "variable"
    assert entropy(is_held=True) == "static"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kbps": 9.2, "entropy": "refined", "is_held": False}, "needs packets for files, held back"),
        ({"kbps": 9.2, "entropy": "refined", "frames_per_packet": 1}, "needs packets for files, held back"),
        ({"kbps": 9.2, "entropy": "refined", "n_codebooks": 8}, "has its own codebooks"),
        ({"entropy": "refined"}, "needs a rate"),
        ({"kbps": 1.0, "entropy": "refined"}, r"expected 2\.2\d* kbps or more"),
        ({"kbps": float("nan"), "entropy": "refined"}, r"expected 2\.2\d* kbps or more"),
    ],
)
def test_what_cannot_be_refined_is_refused_with_a_remedy(shipped, settings, message):
    with pytest.raises(ConfigError, match=message):
        StreamEncoder(shipped, **{"is_held": True, **settings})


def test_weights_without_its_tables_name_the_remedy(tmp_path):
    with pytest.raises(ModelError, match="fit-entropy"):
        build_coder(ENTROPY_MODES["refined"], 10, tmp_path)


@pytest.mark.parametrize("kbps", [6.0, 9.2, 12.0])
def test_a_refined_file_keeps_to_its_rate_and_beats_more_stages(shipped, clip, kbps):
    figures = []
    for entropy in ("variable", "refined"):
        data = encoded(shipped, clip, kbps=kbps, entropy=entropy)
        summary = summarize(data)
        assert summary.payload_kbps <= kbps
        out, damages = decoded(shipped, data)
        assert (len(out), damages) == (len(clip), [])
        figures.append(snr_db(clip, out, 16_000))
    assert summary.payload_kbps > 0.97 * kbps
    assert figures[1] > figures[0] + (0.3 if kbps > 6 else -0.3)


@pytest.mark.parametrize("n_samples", [0, 1, 319, 320, 321, 640, 8_000, 8_001])
def test_every_length_comes_back_exactly(shipped, clip, n_samples):
    wav = clip[8_000 : 8_000 + n_samples]
    data = encoded(shipped, wav, kbps=9.2)
    assert data[7] == ENTROPY_MODES["refined"]
    out, damages = decoded(shipped, data)
    assert (len(out), damages) == (n_samples, [])


def test_bytes_do_not_depend_on_the_pieces_and_neither_do_samples(shipped, clip):
    wav = clip[:24_000]
    whole = encoded(shipped, wav, kbps=9.2)
    encoder = StreamEncoder(shipped, kbps=9.2, is_held=True)
    pieces = b"".join(encoder.push(wav[at : at + 777]) for at in range(0, len(wav), 777)) + encoder.flush()
    assert pieces == whole
    decoder = StreamDecoder(shipped)
    parts = [decoder.push(whole[at : at + 333]) for at in range(0, len(whole), 333)] + [decoder.flush()]
    np.testing.assert_allclose(np.concatenate(parts), decoded(shipped, whole)[0], atol=1e-5)


def test_held_minutes_are_refined_as_one_signal(shipped, clip, monkeypatch):
    monkeypatch.setattr("telucodec.streaming.HELD_FRAMES", 100)
    data = encoded(shipped, clip, kbps=9.2)
    out, damages = decoded(shipped, data)
    assert damages == []
    assert summarize(data).payload_kbps <= 9.2
    assert snr_db(clip, out, 16_000) > 15.5


def test_silence_stays_silent_and_a_loud_square_wave_stays_in_range(shipped):
    out, _ = decoded(shipped, encoded(shipped, np.zeros(16_000, dtype=np.float32), kbps=9.2))
    assert 10 * np.log10(np.mean(out**2) + 1e-12) < -80
    square = np.sign(np.sin(np.arange(16_000) * 0.05)).astype(np.float32)
    out, _ = decoded(shipped, encoded(shipped, square, kbps=9.2))
    assert np.abs(out).max() <= 1


def test_a_lost_packet_is_bridged_and_the_next_ones_are_refined_again(shipped, clip):
    data = encoded(shipped, clip, kbps=9.2)
    clean, _ = decoded(shipped, data)
    at = HEADER_BYTES + 800  # inside the second packet
    out, damages = decoded(shipped, data[:at] + bytes([data[at] ^ 255]) + data[at + 1 :])
    assert (len(out), len(damages)) == (len(clip), 1)
    tail = slice(3 * 8_000, None)
    assert snr_db(clean[tail], out[tail], 16_000) > 25, "the network's memory of the gap fades"


def test_random_damage_gives_bounded_finite_samples_or_a_stream_error(shipped, clip):
    data, generator = encoded(shipped, clip[:16_000], kbps=9.2), np.random.default_rng(1)
    n_heard = 0
    for _ in range(20):
        try:
            out, _ = decoded(shipped, mutated(data, generator))
        except (BitstreamError, ModelError):
            continue
        n_heard += 1
        assert len(out) <= MAX_SAMPLES
        assert np.isfinite(out).all()
        assert np.abs(out).max(initial=0) <= 1
    assert n_heard > 5


def test_a_refined_stream_is_cut_down_to_the_networks_stages(shipped, clip, tmp_path):
    source = tmp_path / "a.codes"
    source.write_bytes(encoded(shipped, clip, kbps=9.2))
    whole, _ = decoded(shipped, source.read_bytes())
    found = []
    for n_codebooks in (N_BASE + N_LEVEL_STAGES + 10, N_BASE, 6):
        target = tmp_path / f"{n_codebooks}.codes"
        truncate_file(source, target, n_codebooks=n_codebooks, model_folder=shipped.folder)
        out, damages = decoded(shipped, target.read_bytes())
        assert (len(out), damages) == (len(clip), [])
        found.append(snr_db(clip, out, 16_000))
    assert snr_db(clip, whole, 16_000) > found[0] > found[1] > found[2] > 5


def test_another_decoder_refuses_what_was_refined_for_this_one(shipped, clip, tmp_path):
    data = encoded(shipped, clip[:8_000], kbps=9.2)
    other = open_codec("speech-16k", device="cpu")
    other.weights_id = bytes(range(8))
    with pytest.raises(ModelError, match="0001020304050607"):
        decoded(other, data)
    plain = encoded(shipped, clip[:8_000], kbps=3.0)
    assert len(decoded(other, plain)[0]) == 8_000


def test_the_shipped_tables_fit_the_refinement_of_the_shipped_weights(shipped):
    coder = build_coder(ENTROPY_MODES["refined"], 10, PRETRAINED / "speech-16k")
    assert coder.refinement.n_codebooks == refinement_of(shipped).n_codebooks


def test_short_packets_of_a_refined_stream_sound_like_long_ones(shipped, clip):
    """Nothing writes them; the format allows them."""
    data = encoded(shipped, clip, kbps=9.2)
    parser = StreamParser()
    packets = parser.push(data)
    coder = build_coder(ENTROPY_MODES["refined"], 10, shipped.folder)
    coded = [(packet.payload, packet.n_frames) for packet in packets]
    codes = np.hstack(coder.decode_all(coded, parser.header.n_codebooks))
    writer = PacketWriter(replace(parser.header, frames_per_packet=10), coder)
    out = writer.begin()
    for at in range(0, codes.shape[1], 10):
        part, is_last = codes[:, at : at + 10], at + 10 >= codes.shape[1]
        payload = coder.encode(part)
        out += writer.coded_packet(part.shape[1], payload, packets[-1].n_padding if is_last else None)
    heard, damages = decoded(shipped, out)
    assert damages == []
    np.testing.assert_allclose(heard, decoded(shipped, data)[0], rtol=0, atol=1e-5)
