"""The shipped weights load, fit their tables, and old streams of theirs still sound right."""

import json
from pathlib import Path

import pytest
import torch

from telucodec.audio import read_audio
from telucodec.bitstream.container import read_header
from telucodec.coders import RATES
from telucodec.evaluate.metrics import snr_db
from telucodec.pipeline import PRETRAINED, choose_codebooks, decode_file, encode_file, open_codec

ROOT = Path(__file__).parents[1]
CLIP = ROOT / "data" / "clips" / "te-cv-42973999.flac"
GOLDEN = Path(__file__).parent / "golden" / "te-cv-42973999.codes"  # --kbps 6, written on 2026-11-20


@pytest.fixture(scope="module")
def shipped():
    return open_codec("speech-16k", device="cpu")


def snr_of(codec, wav_path):
    reference, _ = read_audio(CLIP, 16_000)
    estimate, _ = read_audio(wav_path, 16_000)
    assert estimate.shape == reference.shape
    return snr_db(reference[0].numpy(), estimate[0].numpy(), 16_000)


def test_everything_shipped_stays_below_20_mb():
    assert sum(path.stat().st_size for path in PRETRAINED.rglob("*") if path.is_file()) <= 20e6


def test_telugu_comes_through_a_file_above_14_db(shipped, tmp_path):
    n_codebooks = choose_codebooks(shipped, kbps=6.0)
    report = encode_file(shipped, CLIP, tmp_path / "a.codes", n_codebooks=n_codebooks)
    decode_file(shipped, tmp_path / "a.codes", tmp_path / "a.wav")
    assert report.header.entropy_mode == 1
    assert report.payload_kbps < 6.0
    assert snr_of(shipped, tmp_path / "a.wav") > 14


def test_a_stream_of_the_first_release_still_decodes_to_the_same_quality(shipped, tmp_path):
    header = read_header(GOLDEN.read_bytes())
    assert (header.model_id, header.n_codebooks) == (shipped.model_id, 14)
    report = decode_file(shipped, GOLDEN, tmp_path / "a.wav", is_strict=True)
    assert report.summary.damages == ()
    assert snr_of(shipped, tmp_path / "a.wav") == pytest.approx(14.49, abs=0.05)


def test_each_stage_lowers_the_error_of_the_clip(shipped):
    wav, _ = read_audio(CLIP, 16_000)
    codes = shipped.encode(wav[None])
    errors = [
        (shipped.decode(codes[:, :stages], n_samples=wav.shape[-1])[0] - wav).square().mean().item()
        for stages in (1, 2, 4, 8, 12, 18)
    ]
    assert errors == sorted(errors, reverse=True)


def test_digital_silence_stays_below_90_dbfs(shipped):
    out = shipped.decode(shipped.encode(torch.zeros(1, 1, 16_000)), n_samples=16_000)
    assert 10 * torch.log10(out.square().mean()) < -90


def test_a_rate_takes_the_most_stages_whose_measured_rate_fits(shipped):
    rates = json.loads((PRETRAINED / "speech-16k" / RATES).read_text())["kbps"]
    assert rates == sorted(rates)
    assert choose_codebooks(shipped, kbps=rates[7]) == 8
    assert choose_codebooks(shipped, kbps=rates[7] - 0.001) == 7
    assert choose_codebooks(shipped, kbps=rates[7], entropy="none") == int(rates[7] / 0.5)
