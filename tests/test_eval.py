"""Evaluation as a whole: several processes, interruption, other codecs, languages, comparing two files."""

import dataclasses
import json
import math
import os
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from telucodec.cli import app
from telucodec.errors import ConfigError, TelucodecError
from telucodec.evaluate import anchors, jobs
from telucodec.evaluate.languages import language_of
from telucodec.evaluate.metrics import snr_db
from telucodec.evaluate.report import row_from_object, row_object
from telucodec.evaluate.runner import Plan, evaluate, find_clips
from telucodec.pipeline import Failure

RATE_HZ = 16_000
QUICK = ("snr_db", "delay_ms", "estoi")


@pytest.fixture
def corpus(tmp_path, write_noise):
    """Three clips of half a second in two folders, and one that is broken."""
    folder = tmp_path / "corpus"
    for index, name in enumerate(("te/a.wav", "te/b.wav", "en/c.wav")):
        write_noise(folder / name, RATE_HZ // 2 + 100 * index)
    (folder / "te" / "broken.wav").write_bytes(b"not audio")
    return folder


@pytest.fixture
def invoke():
    return lambda *arguments: CliRunner().invoke(app, list(map(str, arguments)))


def timeless(results):
    """Results without what differs between two runs: times, and how many were worked on at once."""
    return [
        (result.source, str(result.error))
        if isinstance(result, Failure)
        else dataclasses.replace(result, encode_s=0.0, decode_s=0.0, n_jobs=1)
        for result in results
    ]


def test_several_processes_give_the_same_results_in_the_same_order(codec, corpus, monkeypatch):
    monkeypatch.setattr(codec.quantizer, "search_width", 1)  # not what the weights say
    clips = find_clips([corpus])
    plan = Plan(rates=(0.5, 2.0), metrics=QUICK)
    alone = list(evaluate(codec, clips, plan))
    together = list(evaluate(codec, clips, dataclasses.replace(plan, n_jobs=2)))
    assert timeless(together) == timeless(alone)
    assert [type(result).__name__ for result in alone] == ["Row"] * 6 + ["Failure"]
    assert [row.n_jobs for row in together[:6]] == [2] * 6


def test_an_interrupted_run_goes_on_where_it_stopped(codec, corpus, tmp_path, monkeypatch):
    clips, rows_file = find_clips([corpus]), tmp_path / "rows.jsonl"
    plan = Plan(rates=(0.5, 2.0), metrics=("snr_db",))
    whole = list(evaluate(codec, clips, plan))
    first = evaluate(codec, clips, plan, resume=rows_file)
    kept = [next(first) for _ in range(3)]  # interrupted in the second clip
    first.close()
    rows_file.write_bytes(rows_file.read_bytes() + b'{"clip": "te/b')  # killed while writing
    again = list(evaluate(codec, clips, plan, resume=rows_file))
    assert timeless(again) == timeless(whole)
    assert again[:3] == kept  # times too: not measured again
    monkeypatch.setattr("telucodec.evaluate.runner.Bench.code", None)  # from now on nothing may be measured
    assert list(evaluate(codec, clips, plan, resume=rows_file))[:6] == again[:6]


def test_rows_of_another_search_are_refused(codec, corpus, tmp_path, monkeypatch):
    clips, plan = find_clips([corpus / "en"]), Plan(rates=(2.0,), metrics=("snr_db",))
    list(evaluate(codec, clips, plan, resume=tmp_path / "rows.jsonl"))
    monkeypatch.setattr(codec.quantizer, "search_width", 1)
    with pytest.raises(TelucodecError, match=r"rows of other settings .*search_width.*name another file"):
        list(evaluate(codec, clips, plan, resume=tmp_path / "rows.jsonl"))


def test_a_rate_added_later_is_all_that_is_measured(codec, corpus, tmp_path):
    clips, rows_file = find_clips([corpus / "en"]), tmp_path / "rows.jsonl"
    (old,) = evaluate(codec, clips, Plan(rates=(2.0,), metrics=("snr_db",)), resume=rows_file)
    rows = list(evaluate(codec, clips, Plan(rates=(0.5, 2.0), metrics=("snr_db",)), resume=rows_file))
    assert [row.system for row in rows] == ["telucodec 0.5", "telucodec 2"]
    assert rows[1] == old


def test_rows_of_other_metrics_or_of_no_run_at_all_are_not_gone_on_with(codec, corpus, tmp_path):
    clips, rows_file = find_clips([corpus / "en"]), tmp_path / "rows.jsonl"
    list(evaluate(codec, clips, Plan(rates=(2.0,), metrics=("snr_db",)), resume=rows_file))
    with pytest.raises(TelucodecError, match="holds rows of other settings"):
        evaluate(codec, clips, Plan(rates=(2.0,), metrics=("stoi",)), resume=rows_file)
    rows_file.write_text("clip,kbps\n")
    with pytest.raises(TelucodecError, match="not a file of rows"):
        evaluate(codec, clips, Plan(rates=(2.0,)), resume=rows_file)


def test_a_row_comes_back_from_its_json_line_whatever_its_figures(codec, corpus):
    (row,) = evaluate(codec, find_clips([corpus / "en"]), Plan(rates=(2.0,), metrics=("snr_db", "pesq_wb")))
    row = dataclasses.replace(
        row,
        metrics={"snr_db": math.inf, "si_sdr_db": -math.inf, "stoi": 0.5},
        missing={"pesq_wb": "too short"},
    )
    line = json.dumps(row_object(row), allow_nan=False)
    assert row_from_object(json.loads(line)) == row
    old = {name: value for name, value in json.loads(line).items() if name not in ("system", "not_finite")}
    assert row_from_object(old).system == "telucodec 2"
    with pytest.raises(TelucodecError, match="not a row"):
        row_from_object({"clip": "a.wav"})


def test_few_clips_are_not_worth_several_processes():
    assert jobs.default_jobs(15) == 1
    assert 1 <= jobs.default_jobs(16) <= 2


@pytest.mark.parametrize(
    ("path", "language"),
    [
        ("DEV/te/a.wav", "Telugu"),
        ("DEV/te/b.wav", "Sanskrit"),
        ("DEV/ml/x/c.wav", "Malayalam"),
        ("DEV/d.wav", ""),
    ],
)
@pytest.mark.parametrize("source", ["DEV", "itself"])
def test_the_longest_path_of_the_nearest_table_names_the_language(tmp_path, path, language, source):
    (tmp_path / "DEV").mkdir()
    (tmp_path / "DEV/languages.csv").write_text(
        "path,language\nte,Telugu\nte/b.wav,Sanskrit\nml/,Malayalam\n", encoding="utf-8"
    )
    found_in = tmp_path / path if source == "itself" else tmp_path / source
    if path == "DEV/ml/x/c.wav" and source == "itself":
        language = ""  # the table lies two folders above what was named
    assert language_of(tmp_path / path, found_in) == language


def test_a_table_of_languages_without_its_columns_is_refused(tmp_path):
    (tmp_path / "languages.csv").write_text("folder,tongue\nte,Telugu\n")
    with pytest.raises(TelucodecError, match="expected path, language"):
        language_of(tmp_path / "te" / "a.wav", tmp_path)


def test_means_by_language_are_shown(invoke, corpus, model_folder):
    (corpus / "languages.csv").write_text("path,language\nen,English\nte,Telugu\n")
    (corpus / "te/broken.wav").unlink()
    result = invoke("eval", corpus, "--kbps", 2, "--model", model_folder, "--metrics", "snr_db", "--json")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    groups = [(line["by"], line["summary_of"], line["n_clips"]) for line in lines if "summary_of" in line]
    assert groups == [
        ("all", "all", 3),
        ("folder", "en", 1),
        ("folder", "te", 2),
        ("language", "English", 1),
        ("language", "Telugu", 2),
    ]
    assert "pesq_wb" not in lines[0]


@pytest.mark.parametrize("text", ["opus:5", "opus", "opus:x", "codec2:9600", "lyra:6"])
def test_an_anchor_that_does_not_exist_is_refused_with_those_that_do(text):
    with pytest.raises(ConfigError, match=r"expected opus:KBPS with 6 to 256 kbps, or codec2:MODE"):
        anchors.parse_anchors(text)


def test_a_program_that_is_missing_is_named_with_its_package(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(ConfigError, match=r"c2enc is not installed; .* in the package codec2"):
        anchors.parse_anchors("codec2:3200")


def test_anchors_are_made_once_and_named_by_rate(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda program: program)
    found = anchors.parse_anchors("opus:8, codec2:700C,opus:8.0")
    assert [(anchor.name, anchor.kbps) for anchor in found] == [("opus 8", 8.0), ("codec2 0.7", 0.7)]


@dataclasses.dataclass(frozen=True)
class Late:
    """A codec that keeps everything, 5 ms late and 20 samples short; or fails."""

    is_broken: bool = False
    name = "late 1"
    kbps = 1.0

    def run(self, reference, rate_hz, target):
        if self.is_broken:
            raise TelucodecError("it failed")
        late = np.concatenate([np.zeros(80), reference])[: reference.size - 20]
        return anchors.Coded(estimate=late, file_bytes=100, payload_bytes=60, encode_s=1.0, decode_s=0.5)


def test_an_anchor_is_measured_after_its_delay_is_taken_back_and_told(codec, corpus, monkeypatch):
    monkeypatch.setattr(codec, "weights_id", b"anothers")  # that decode the same codes
    plan = Plan(rates=(2.0,), anchors=(Late(),), metrics=QUICK)
    ours, late = evaluate(codec, find_clips([corpus / "en"]), plan)
    assert (ours.system, late.system, late.kbps_wanted) == ("telucodec 2", "late 1", 1.0)
    assert late.metrics["delay_ms"] == 5.0
    assert late.metrics["snr_db"] > 15  # 100 samples of noise at the end are lost
    assert ours.metrics["delay_ms"] != 5.0
    assert (late.kbps, late.payload_kbps) == (0.8 / late.seconds, 0.48 / late.seconds)
    assert (late.encode_s, late.decode_s) == (1 / late.seconds, 0.5 / late.seconds)
    assert late.model_id == ""
    assert ours.model_id == b"anothers".hex() != codec.model_id.hex()


def test_an_anchor_that_fails_is_shown_as_missing_with_its_reason(codec, corpus):
    plan = Plan(rates=(2.0,), anchors=(Late(is_broken=True),), metrics=("snr_db",))
    ours, late = evaluate(codec, find_clips([corpus / "en"]), plan)
    assert "snr_db" in ours.metrics
    assert late.missing == {"snr_db": "late 1: it failed"}
    assert math.isnan(late.kbps)


@pytest.mark.skipif(not shutil.which("opusenc"), reason="opus-tools is not installed")
def test_opus_runs_live_near_its_rate_without_delay(codec, corpus, tmp_path):
    plan = Plan(rates=(2.0,), anchors=(anchors.Opus(24.0),), metrics=QUICK, keep=tmp_path / "kept")
    _, opus = evaluate(codec, find_clips([corpus / "en"]), plan)
    assert 10 < opus.payload_kbps < opus.kbps < 60
    assert opus.metrics["delay_ms"] == 0.0
    assert (tmp_path / "kept/opus-24/c.opus").stat().st_size * 8e-3 / opus.seconds == pytest.approx(opus.kbps)
    estimate, _ = soundfile.read(tmp_path / "kept/opus-24/c.wav")
    reference, _ = soundfile.read(corpus / "en/c.wav")
    assert snr_db(reference, estimate, RATE_HZ) == pytest.approx(opus.metrics["snr_db"], abs=1e-6)


@pytest.mark.skipif(not shutil.which("c2enc"), reason="codec2 is not installed")
def test_codec2_runs_live_at_its_rate(codec, corpus):
    plan = Plan(rates=(2.0,), anchors=(anchors.Codec2("3200"),), metrics=QUICK)
    _, codec2 = evaluate(codec, find_clips([corpus / "en"]), plan)
    assert codec2.kbps == codec2.payload_kbps == pytest.approx(3.2, rel=0.1)


def test_the_payload_of_an_ogg_file_is_its_packets_without_the_two_headers():
    def page(*packets):
        lacing = [size for p in packets for size in [255] * (len(p) // 255) + [len(p) % 255]]
        return b"OggS" + bytes(22) + bytes([len(lacing), *lacing]) + b"".join(packets)

    data = page(b"OpusHead") + page(b"OpusTags") + page(b"x" * 255, b"y" * 300, b"z") + page(b"w")
    assert anchors.ogg_payload_bytes(data) == 255 + 300 + 1 + 1
    with pytest.raises(TelucodecError, match="no whole page at byte 36"):
        anchors.ogg_payload_bytes(data[:60])


def test_a_program_that_fails_is_quoted(tmp_path):
    with pytest.raises(TelucodecError, match="false failed: status 1"):
        anchors._run("false")


def test_stored_anchors_join_the_clips_that_were_measured(codec, corpus, tmp_path):
    rows = list(evaluate(codec, find_clips([corpus / "en"]), Plan(rates=(2.0,), metrics=("snr_db", "stoi"))))
    table = tmp_path / "anchors.csv"
    table.write_text("codec,clip,kbps,snr\nlyra-v2@3.2,c,3.25,4.5\nlyra-v2@3.2,other,3.2,1\n")
    (stored,) = anchors.read_stored(table, [Path("en/c.wav")]).rows_for(rows)
    assert (stored.system, stored.kbps_wanted, stored.payload_kbps) == ("lyra-v2 3.2", 3.2, 3.25)
    assert (stored.clip, stored.folder, stored.metrics) == ("c.wav", "en", {"snr_db": 4.5})
    assert stored.missing.keys() == {"stoi"}
    assert anchors.unmatched([*rows, dataclasses.replace(rows[0], clip="d.wav")], [stored]) == {
        "lyra-v2 3.2": 1
    }
    live = dataclasses.replace(rows[0], system="lyra-v2 3.2")
    (marked,) = anchors.read_stored(table, [Path("en/c.wav")]).rows_for([*rows, live])
    assert marked.system == "lyra-v2 (table) 3.2"  # its mean is not mixed with that of the live one
    table.write_text("codec,clip,kbps,snr\nlyra-v2@3.2,c,3.2,loud\n")
    with pytest.raises(TelucodecError, match="could not convert string to float: 'loud'; correct the table"):
        anchors.read_stored(table, [Path("c.wav")]).rows_for(rows)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "not a table of anchors"),
        ("codec,clip,kbps\nx@6,no,6\n", "none of the clips .* such as c"),
    ],
)
def test_a_table_of_anchors_that_does_not_fit_is_refused_before_any_work(tmp_path, text, message):
    (tmp_path / "anchors.csv").write_text(text)
    with pytest.raises(TelucodecError, match=message):
        anchors.read_stored(tmp_path / "anchors.csv", [Path("en/c.wav")])


def test_the_command_shows_ours_and_stored_anchors_side_by_side(invoke, corpus, model_folder, tmp_path):
    (tmp_path / "anchors.csv").write_text("codec,clip,kbps,snr\nlyra-v2@3.2,c,3.2,4.5\n")
    arguments = ["eval", corpus / "en", corpus / "te/a.wav", "--model", model_folder, "--kbps", 2]
    result = invoke(*arguments, "--against-csv", tmp_path / "anchors.csv", "--metrics", "snr_db")
    assert result.exit_code == 0
    assert "lacks 1 of the clips for lyra-v2 3.2" in " ".join(result.stderr.split())
    header = next(line for line in result.stdout.splitlines() if line.startswith("mean of"))
    assert header.index("telucodec 2") < header.index("lyra-v2 3.2")
    assert "PESQ" not in result.stdout


def test_two_files_are_compared_whatever_their_rates_and_lengths(invoke, tmp_path):
    t = np.arange(24_000) / 24_000
    tone = 0.3 * np.sin(2 * np.pi * 440 * t) * np.sin(2 * np.pi * 2 * t) ** 2
    soundfile.write(tmp_path / "a.wav", tone, 24_000)
    late = np.concatenate([np.zeros(160), tone[::3]])  # 20 ms at 8 kHz
    soundfile.write(tmp_path / "b.wav", 0.5 * late, 8_000)
    result = invoke("compare", tmp_path / "a.wav", tmp_path / "b.wav", "--metrics", "fast", "--json")
    found = json.loads(result.stdout)
    assert found["rate_hz"] == 24_000
    assert found["delay_ms"] == pytest.approx(20.0, abs=0.1)
    assert found["rms_ratio_db"] == pytest.approx(-6.02, abs=0.05)
    assert found["si_sdr_db"] > 30
    assert "resampled from 8000 Hz to 24000 Hz" in " ".join(result.stderr.split())
    table = invoke("compare", tmp_path / "a.wav", tmp_path / "a.wav", "--metrics", "snr_db,mrstft_distance")
    assert [line.split()[0] for line in table.stdout.splitlines()][-2:] == ["snr_db", "mrstft_distance"]


def test_comparing_with_a_silent_file_says_what_is_missing_and_why(invoke, tmp_path, write_noise):
    write_noise(tmp_path / "a.wav", RATE_HZ)
    soundfile.write(tmp_path / "b.wav", np.zeros(RATE_HZ), RATE_HZ)
    result = invoke("compare", tmp_path / "a.wav", tmp_path / "b.wav", "--metrics", "stoi,delay_ms", "--json")
    found = json.loads(result.stdout, parse_constant=pytest.fail)
    assert found["stoi"] is None
    assert found["delay_ms"] is None
    assert "stoi is missing: the estimate is silent" in result.stderr


def test_a_worker_that_dies_is_told_from_a_bug():
    with pytest.raises(TelucodecError, match="try fewer --jobs"):
        list(jobs.in_order(partial(os._exit, 1), [1, 2], 2))
