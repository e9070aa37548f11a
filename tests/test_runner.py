"""The runner: rates from bytes on the disk, estimates from files, one row for every clip and rate."""

import dataclasses
import math

import numpy as np
import pytest
import soundfile

from telucodec.bitstream.container import summarize
from telucodec.errors import ConfigError, TelucodecError
from telucodec.evaluate.metrics import FAST, snr_db
from telucodec.evaluate.report import Row
from telucodec.evaluate.runner import Plan, find_clips
from telucodec.evaluate.runner import evaluate as evaluate_plan
from telucodec.pipeline import Failure

RATE_HZ = 16_000


@pytest.fixture
def corpus(tmp_path):
    """Two folders of half a second each: 16 kHz mono, and 24 kHz stereo."""
    folder = tmp_path / "corpus"
    generator = np.random.default_rng(0)
    for name, rate_hz, n_channels in (("te/a.wav", RATE_HZ, 1), ("en/b.flac", 24_000, 2)):
        (folder / name).parent.mkdir(parents=True)
        soundfile.write(folder / name, 0.1 * generator.standard_normal((rate_hz // 2, n_channels)), rate_hz)
    return folder


def evaluate(codec, clips, rates, *, overwrite=False, resume=None, **plan):
    return evaluate_plan(codec, clips, Plan(rates=tuple(rates), **plan), overwrite=overwrite, resume=resume)


def rows_of(*arguments, **options):
    return list(evaluate(*arguments, **options))


def test_there_is_one_row_for_every_clip_and_rate(codec, corpus):
    rows = rows_of(codec, find_clips([corpus]), [0.5, 2.0])
    found = [(row.clip, row.folder, row.kbps_wanted, row.n_codebooks, row.seconds) for row in rows]
    assert found == [
        ("en/b.flac", "en", 0.5, 1, 0.5),
        ("en/b.flac", "en", 2.0, 4, 0.5),
        ("te/a.wav", "te", 0.5, 1, 0.5),
        ("te/a.wav", "te", 2.0, 4, 0.5),
    ]
    assert all(row.metrics.keys() | row.missing.keys() == set(FAST) for row in rows)
    assert all(row.encode_s > 0 and row.decode_s > 0 for row in rows)


def test_rates_and_metrics_come_from_the_files_that_are_kept(codec, corpus, tmp_path):
    (row,) = rows_of(codec, find_clips([corpus / "te"]), [2.0], keep=tmp_path / "kept")
    data = (tmp_path / "kept/a.codes").read_bytes()
    assert row.kbps == pytest.approx(len(data) * 8 / 0.5 / 1000)
    assert row.payload_kbps == pytest.approx(summarize(data).payload_bytes * 8 / 0.5 / 1000)
    assert row.payload_kbps < row.kbps
    reference, _ = soundfile.read(corpus / "te/a.wav")
    estimate, rate_hz = soundfile.read(tmp_path / "kept/a.wav")
    assert row.metrics["snr_db"] == pytest.approx(snr_db(reference, estimate, rate_hz), abs=1e-6)


def test_several_rates_are_kept_apart(codec, corpus, tmp_path):
    rows_of(codec, find_clips([corpus]), [0.5, 2.0], keep=tmp_path / "kept")
    kept = {p.relative_to(tmp_path / "kept").as_posix() for p in (tmp_path / "kept").rglob("*.*")}
    stems = {f"{rate}kbps/{name}" for rate in ("0.5", "2") for name in ("te/a", "en/b")}
    files = {stem + suffix for stem in stems for suffix in (".codes", ".wav")}
    assert kept - {"0.5kbps", "2kbps"} == files


def test_kept_files_are_not_overwritten_unasked(codec, corpus, tmp_path):
    clips = find_clips([corpus])
    rows_of(codec, clips, [2.0], keep=tmp_path / "kept")
    with pytest.raises(TelucodecError, match="pass --overwrite"):
        evaluate(codec, clips, [2.0], keep=tmp_path / "kept")
    assert len(rows_of(codec, clips, [2.0], keep=tmp_path / "kept", overwrite=True)) == 2


def test_a_recording_is_never_replaced_by_its_estimate(codec, corpus):
    before = (corpus / "te/a.wav").read_bytes()
    with pytest.raises(TelucodecError, match="keep the results in another folder"):
        evaluate(codec, find_clips([corpus]), [2.0], keep=corpus, overwrite=True)
    assert (corpus / "te/a.wav").read_bytes() == before


def test_two_clips_of_one_name_are_measured_but_not_kept_together(codec, corpus, tmp_path):
    (corpus / "en/a.wav").write_bytes((corpus / "te/a.wav").read_bytes())
    clips = find_clips([corpus / "te/a.wav", corpus / "en/a.wav"])
    assert [row.folder for row in rows_of(codec, clips, [2.0])] == ["te", "en"]
    with pytest.raises(TelucodecError, match="would both be kept"):
        evaluate(codec, clips, [2.0], keep=tmp_path / "kept")


def test_a_clip_that_cannot_be_used_is_a_failure_and_the_others_go_on(codec, corpus):
    (corpus / "en/broken.wav").write_bytes(b"not audio")
    results = rows_of(codec, find_clips([corpus]), [2.0])
    assert [type(result) for result in results] == [Row, Failure, Row]
    assert "broken.wav" in str(results[1].error)


def test_an_empty_clip_gives_a_row_without_figures(codec, corpus):
    soundfile.write(corpus / "te/empty.wav", np.zeros(0), RATE_HZ)
    (row,) = rows_of(codec, find_clips([corpus / "te/empty.wav"]), [2.0])
    assert row.seconds == 0
    assert math.isnan(row.kbps)
    assert all(math.isnan(value) for value in row.metrics.values())


def test_results_do_not_depend_on_the_order_of_clips(codec, corpus):
    def figures(clips):
        rows = rows_of(codec, clips, [2.0])
        return {row.clip: dataclasses.replace(row, encode_s=0.0, decode_s=0.0) for row in rows}

    clips = find_clips([corpus])
    assert figures(clips) == figures(clips[::-1])


def test_each_file_is_measured_once(corpus):
    assert len(find_clips([corpus, corpus / "te", corpus / "te/a.wav"])) == 2


def test_a_corpus_without_audio_is_refused(tmp_path):
    with pytest.raises(TelucodecError, match="no audio to measure"):
        find_clips([tmp_path])
    with pytest.raises(TelucodecError, match="does not exist"):
        find_clips([tmp_path / "nothing.wav"])


def test_a_rate_below_one_stage_is_refused_before_any_work(codec, corpus):
    with pytest.raises(ConfigError, match="less than one stage"):
        evaluate(codec, find_clips([corpus]), [2.0, 0.4])
