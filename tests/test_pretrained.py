"""The shipped weights load, fit their tables, and old streams of theirs still sound right."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from telucodec.allocation import plan_stages
from telucodec.audio import read_audio
from telucodec.bitstream.coder import ENTROPY_MODES
from telucodec.bitstream.container import read_header, summarize
from telucodec.cli import app
from telucodec.coders import RATES
from telucodec.errors import BitstreamError, ConfigError, ModelError
from telucodec.evaluate.metrics import snr_db
from telucodec.frames import trim_delay
from telucodec.pipeline import PRETRAINED, EncodeOptions, decode_file, encode_file, open_codec
from telucodec.streaming import StreamDecoder, StreamEncoder, id_of
from telucodec.train.perceptual import DisturbanceLoss
from telucodec.truncate import truncate_file

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
import buzz  # noqa: E402

CLIP = ROOT / "data" / "clips" / "te-cv-42973999.flac"
GOLDEN = Path(__file__).parent / "golden" / "te-cv-42973999.codes"  # by 0.15.0, --kbps 6 --entropy variable
REFINED = GOLDEN.with_name("te-cv-42973999-refined.codes")  # by 0.15.0, at the same rate


def snr_of(codec, wav_path):
    reference, _ = read_audio(CLIP, 16_000)
    estimate, _ = read_audio(wav_path, 16_000)
    assert estimate.shape == reference.shape
    return snr_db(reference[0].numpy(), estimate[0].numpy(), 16_000)


def test_everything_shipped_stays_below_20_mb():
    assert sum(path.stat().st_size for path in PRETRAINED.rglob("*") if path.is_file()) <= 20e6


def test_telugu_comes_through_a_file_above_15_db(shipped, tmp_path):
    report = encode_file(shipped, CLIP, tmp_path / "a.codes", options=EncodeOptions(kbps=6.0))
    decode_file(shipped, tmp_path / "a.codes", tmp_path / "a.wav")
    assert report.header.entropy_mode == ENTROPY_MODES["refined"]
    assert snr_of(shipped, tmp_path / "a.wav") > 15


def test_no_buzz_of_the_frame_rate_is_left_above_2400_hz(shipped):
    found = buzz.measure(shipped, sorted(CLIP.parent.glob("te-*.flac")), 12)
    is_high = [low >= 2400 for low, _ in buzz.BANDS_HZ]
    ripple, lines = np.array(found["ripple_db"])[is_high], np.array(found["lines_db"])[is_high]
    assert ripple.max() < 4, "12 in version 0.4.0"
    assert lines[:, -1].max() < 15, "at 400 Hz, 29 in version 0.4.0"


@pytest.mark.parametrize(
    ("kbps", "least_db"), [(16.0, 25.0), (24.0, 40.0), pytest.param(48.0, 45.0, marks=pytest.mark.slow)]
)
def test_the_transparent_weights_keep_the_waveform_at_their_rate(tmp_path, kbps, least_db):
    codec = open_codec("transparent-16k", device="cpu")
    report = encode_file(codec, CLIP, tmp_path / "a.codes", options=EncodeOptions(kbps=kbps))
    decode_file(codec, tmp_path / "a.codes", tmp_path / "a.wav")
    assert 0.95 * kbps < report.payload_kbps <= kbps
    assert snr_of(codec, tmp_path / "a.wav") > least_db


@pytest.mark.parametrize("kbps", [1.5, 3.0, 5.0, 7.0])
def test_a_file_keeps_to_its_rate_and_uses_it(shipped, tmp_path, kbps):
    report = encode_file(shipped, CLIP, tmp_path / "a.codes", options=EncodeOptions(kbps=kbps))
    assert 0.98 * kbps < report.payload_kbps <= kbps


def test_more_paths_sound_better(shipped, tmp_path):
    figures = []
    for width in ("1", "16"):
        coded, wav = tmp_path / f"{width}.codes", tmp_path / f"{width}.wav"
        arguments = ["encode", str(CLIP), str(coded), "--kbps", "3.2", "--search-width", width]
        assert CliRunner().invoke(app, arguments).exit_code == 0
        decode_file(shipped, coded, wav)
        figures.append(snr_of(shipped, wav))
    assert figures[1] > figures[0] + 0.15


def test_a_search_without_a_path_is_refused():
    with pytest.raises(ConfigError, match="search width is 0; expected 1 path or more"):
        open_codec("speech-16k", search_width=0)


def test_a_width_is_refused_where_nothing_is_searched():
    with pytest.raises(ConfigError, match="transparent-16k are known without a search; leave its width out"):
        open_codec("transparent-16k", search_width=8)


def test_frames_of_variable_depth_beat_even_ones_by_half_a_decibel_at_3_kbps(shipped, tmp_path):
    figures = []
    for name, entropy in (("a", "static"), ("b", "variable")):
        options = EncodeOptions(kbps=3.0, entropy=entropy)
        encode_file(shipped, CLIP, tmp_path / f"{name}.codes", options=options)
        decode_file(shipped, tmp_path / f"{name}.codes", tmp_path / f"{name}.wav")
        figures.append(snr_of(shipped, tmp_path / f"{name}.wav"))
    assert figures[1] > figures[0] + 0.5


@pytest.mark.parametrize(
    ("golden", "mode", "n_codebooks", "snr"),
    [(GOLDEN, "variable", 24, 15.51), (REFINED, "refined", 37, 15.39)],
)
def test_a_stream_written_today_decodes_to_the_same_quality(
    shipped, tmp_path, golden, mode, n_codebooks, snr
):
    header = read_header(golden.read_bytes())
    is_refined = mode == "refined"
    model_id = shipped.weights_id if is_refined else shipped.model_id
    assert (header.model_id, header.n_codebooks) == (model_id, n_codebooks)
    assert header.entropy_mode == ENTROPY_MODES[mode]
    report = decode_file(shipped, golden, tmp_path / "a.wav", is_strict=True)
    assert report.summary.damages == ()
    assert snr_of(shipped, tmp_path / "a.wav") == pytest.approx(snr, abs=0.05)


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("first", "fd7c0d4cf3ee2cb3"),
        ("second", "596251d880c27480"),
        ("third", "83f13dfedda07014"),
        ("fourth", "c79a28d9047cabc1"),
        ("fifth", "c59d2a6df910ea02"),
    ],
)
def test_streams_of_earlier_releases_are_read_whole_and_refused_by_the_name_of_their_weights(
    shipped, tmp_path, name, weights
):
    path = GOLDEN.with_name(f"{name}-release.codes")  # the same clip at the same rate by 0.1.0 to 0.5.0
    summary = summarize(path.read_bytes())
    assert (summary.damages, summary.n_packets, summary.n_samples) == ((), 7, 50_240)
    with pytest.raises(ModelError, match=weights):
        decode_file(shipped, path, tmp_path / "a.wav")


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        *((name, "4a42820ef567a781") for name in ("seventh", "eighth", "ninth", "tenth")),
        ("eleventh", "6bdf307f4a019e97"),
    ],
)
def test_what_was_refined_for_another_decoder_is_refused_by_the_name_of_that(
    shipped, tmp_path, name, weights
):
    path = GOLDEN.with_name(f"{name}-release-refined.codes")  # by 0.7.0 to 0.10.0 before the enhancer, 0.11.0
    assert summarize(path.read_bytes()).header.model_id.hex() == weights != shipped.weights_id.hex()
    with pytest.raises(ModelError, match=rf"{weights}.* for one decoder: or use the version"):
        decode_file(shipped, path, tmp_path / "a.wav")


@pytest.mark.parametrize(
    ("name", "model", "tables"),
    [
        ("sixth-release", "speech-16k", "c889ab30730952b8"),
        ("tenth-release-transparent", "transparent-16k", "721c60eb356f26b0"),
        ("twelfth-release-refined", "speech-16k", "24e9a9ebd678e73a"),
        ("thirteenth-release", "speech-16k", "479f74cee4e96eec"),
        ("thirteenth-release-refined", "speech-16k", "884592b2d8e58d9a"),
        ("fourteenth-release", "speech-16k", "c56fc4646d1275ea"),
        ("fourteenth-release-refined", "speech-16k", "8f389ef30e983afd"),
    ],
)
def test_streams_of_the_same_weights_with_earlier_tables_are_refused_by_the_name_of_these(
    tmp_path, name, model, tables
):
    path, codec = GOLDEN.with_name(f"{name}.codes"), open_codec(model, device="cpu")  # by 0.6 to 0.14
    header = summarize(path.read_bytes()).header
    assert header.model_id == id_of(codec, header.entropy_mode)
    with pytest.raises(BitstreamError, match=f"tables {tables}.* the version of telucodec that did"):
        decode_file(codec, path, tmp_path / "a.wav")


def test_the_enhancer_leaves_less_to_be_heard(shipped):
    wav = read_audio(CLIP, 16_000)[0]
    disturbance, heard = DisturbanceLoss(16_000), []
    for n_stages in (4, 8, 12):
        decoded = shipped.decoder(shipped.quantizer.decode(shipped.encode(wav[None], n_codebooks=n_stages)))
        depths = torch.full((1, decoded.shape[-1] // shipped.config.hop), n_stages)
        plain, enhanced = (
            disturbance(trim_delay(out, wav.shape[-1], shipped.config.delay)[0], wav)
            for out in (decoded, shipped.enhancer(decoded, depths))
        )
        heard.append((enhanced / plain).item())
    assert max(heard) < 0.95


def test_each_stage_lowers_the_error_of_the_clip(shipped):
    wav, _ = read_audio(CLIP, 16_000)
    codes = shipped.encode(wav[None])
    errors = [
        (shipped.decode(codes[:, :stages], n_samples=wav.shape[-1])[0] - wav).square().mean().item()
        for stages in (1, 2, 4, 8, 12, 18, 24)
    ]
    assert errors == sorted(errors, reverse=True)


def test_digital_silence_stays_below_80_dbfs(shipped):
    out = shipped.decode(shipped.encode(torch.zeros(1, 1, 16_000)), n_samples=16_000)
    assert 10 * torch.log10(out.square().mean()) < -80


@pytest.mark.parametrize(
    ("model", "kbps", "most"),
    [("speech-16k", 1.6, 0.3), ("speech-16k", 6.0, 1.5), ("transparent-16k", 24.0, 0.05)],
)
def test_digital_silence_takes_few_bits(model, kbps, most):
    encoder = StreamEncoder(open_codec(model, device="cpu"), kbps=kbps, is_held=True)
    encoder.push(np.zeros(48_000, dtype=np.float32))
    encoder.flush()
    assert encoder.summary().payload_kbps < most


def test_a_rate_takes_the_most_stages_whose_measured_rate_fits(shipped):
    rates = json.loads((PRETRAINED / "speech-16k" / RATES).read_text())["kbps"]
    assert rates == sorted(rates)

    def n_stages(kbps, entropy):
        return plan_stages(shipped.config, shipped.folder, kbps=kbps, entropy=entropy).n_codebooks

    assert n_stages(rates[7], "static") == 8
    assert n_stages(rates[7] - 0.001, "static") == 7
    assert n_stages(rates[7], "none") == int(rates[7] / 0.5)


@pytest.mark.parametrize("kbps", [-1.0, 0.0, 0.5, float("nan")])
def test_a_rate_too_low_for_variable_depth_is_refused_with_the_lowest(shipped, kbps):
    with pytest.raises(ConfigError, match=r"less than frames of variable depth take; expected 1\.\d+ kbps"):
        plan_stages(shipped.config, shipped.folder, kbps=kbps, entropy="variable")


@pytest.mark.parametrize("frames_per_packet", [1, 25])
def test_bytes_at_a_rate_do_not_depend_on_the_pieces_the_signal_comes_in(shipped, frames_per_packet):
    wav = read_audio(CLIP, 16_000)[0][0, :24_000].numpy()
    streams = []
    for size in (24_000, 977):
        encoder = StreamEncoder(shipped, kbps=3.0, frames_per_packet=frames_per_packet)
        pieces = [encoder.push(wav[at : at + size]) for at in range(0, len(wav), size)]
        streams.append(b"".join(pieces) + encoder.flush())
    assert streams[0] == streams[1]
    decoder = StreamDecoder(shipped)
    parts = [decoder.push(streams[0][at : at + 100]) for at in range(0, len(streams[0]), 100)]
    out = np.concatenate([*parts, decoder.flush()])
    assert out.shape == wav.shape
    assert snr_db(wav, out, 16_000) > 8


def test_a_stream_of_variable_depth_is_truncated_to_a_rate_and_never_sounds_better(shipped, tmp_path):
    encode_file(shipped, CLIP, tmp_path / "a.codes", options=EncodeOptions(kbps=6.0))
    figures = []
    for number, kbps in enumerate((1.2, 2.0, 3.0, 4.0)):
        short = tmp_path / f"{number}.codes"
        done = truncate_file(tmp_path / "a.codes", short, kbps=kbps, model_folder=shipped.folder)
        assert 0.7 * kbps < done.after.payload_kbps <= kbps
        decode_file(shipped, short, tmp_path / f"{number}.wav")
        figures.append(snr_of(shipped, tmp_path / f"{number}.wav"))
    assert figures == sorted(figures)


@pytest.mark.parametrize("seed", range(10))
def test_damaged_streams_of_variable_depth_are_refused_or_bridged(shipped, seed):
    encoder = StreamEncoder(shipped, kbps=3.0)
    stream = bytearray(encoder.push(np.sin(np.arange(30_000) / 9) / 4) + encoder.flush())
    rng = np.random.default_rng(seed)
    stream[rng.integers(len(stream))] ^= 1 << rng.integers(8)
    decoder = StreamDecoder(shipped)
    try:
        out = np.concatenate([decoder.push(bytes(stream)), decoder.flush()])
    except (BitstreamError, ModelError):
        return
    assert np.isfinite(out).all()
    assert decoder.damages
