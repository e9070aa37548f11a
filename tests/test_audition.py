"""What is heard in the listening report: clips from every folder, aligned sound, the codes that were sent."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from telucodec.audio import read_audio
from telucodec.cli import app
from telucodec.evaluate import anchors
from telucodec.evaluate.audition import audition, choose_clips, codes_of
from telucodec.evaluate.metrics import snr_db
from telucodec.evaluate.runner import Clip, Plan, evaluate, find_clips
from telucodec.pipeline import EncodeOptions, encode_file


@dataclasses.dataclass(frozen=True)
class Late:
    """A codec that keeps everything, 5 ms late."""

    name = "late 1"
    kbps = 1.0

    def run(self, reference, rate_hz, target):
        late = np.concatenate([np.zeros(80), reference])
        return anchors.Coded(estimate=late, file_bytes=100, payload_bytes=60, encode_s=1.0, decode_s=0.5)


def test_clips_come_from_every_folder_in_turn():
    clips = [Clip(Path(name), Path(name)) for name in ("a/1.wav", "a/2.wav", "a/3.wav", "b/1.wav", "c/1.wav")]
    assert [str(clip.name) for clip in choose_clips(clips, 4)] == ["a/1.wav", "b/1.wav", "c/1.wav", "a/2.wav"]
    assert len(choose_clips(clips, 99)) == 5


def test_what_is_heard_is_what_was_measured(codec, tmp_path, write_noise):
    write_noise(tmp_path / "te" / "a.wav", 8_000)
    write_noise(tmp_path / "te" / "empty.wav", 0)
    clips, plan = find_clips([tmp_path]), Plan(rates=(0.5, 2.0), anchors=(Late(),), metrics=("snr_db",))
    (heard,) = audition(codec, clips, plan)
    assert list(heard.estimates) == ["telucodec 0.5", "telucodec 2", "late 1"]
    for row in evaluate(codec, clips[:1], plan):
        found = snr_db(heard.reference, heard.estimates[row.system], heard.rate_hz)
        assert found == pytest.approx(row.metrics["snr_db"], abs=1e-4)
    assert (heard.clip, heard.folder) == ("te/a.wav", "te")
    assert heard.codes.shape == (4, 26)  # of the highest rate: half a second, and a frame for the delay


def test_the_codes_shown_are_those_in_the_stream(codec, tmp_path, write_noise):
    source = write_noise(tmp_path / "a.wav", 16_000)
    encode_file(codec, source, tmp_path / "a.codes", options=EncodeOptions(n_codebooks=3))
    wav, _ = read_audio(source, codec.config.sample_rate_hz)
    expected = codec.encode(wav[None], n_codebooks=3)[0]
    np.testing.assert_array_equal(codes_of(codec, tmp_path / "a.codes"), expected)


def test_the_command_writes_a_page_and_replaces_none_unasked(tmp_path, model_folder, write_noise):
    pytest.importorskip("jinja2")
    write_noise(tmp_path / "te" / "a.wav", 8_000)
    page = tmp_path / "report.html"
    arguments = ["eval", tmp_path / "te", "--model", model_folder, "--kbps", 2, "--metrics", "snr_db"]
    arguments = [*map(str, arguments), "--report", str(page), "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0
    assert json.loads(result.stdout.splitlines()[0])["clip"] == "a.wav"
    assert "telucodec 2" in page.read_text(encoding="utf-8")
    assert "pass --overwrite" in CliRunner().invoke(app, arguments).stderr
