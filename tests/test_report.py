"""Reports: intervals that cover, tables that hide nothing, JSON that parses."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest

from telucodec.evaluate.report import (
    BRIEF,
    FULL,
    Row,
    clip_table,
    mean_interval,
    reasons,
    summarize,
    summary_table,
    to_json_lines,
)


def make_row(clip="a.wav", folder="te", kbps_wanted=6.0, **changes):
    metrics = {"snr_db": 7.0, "si_sdr_db": 6.5, "range_ratio": 0.9, "rms_ratio_db": -0.5, "dc_offset": 0.0}
    metrics |= {"mrstft_distance": 1.2, "stoi": 0.88} | changes.pop("metrics", {})
    return Row(
        clip=clip,
        folder=folder,
        seconds=2.0,
        n_codebooks=12,
        kbps_wanted=kbps_wanted,
        kbps=6.2,
        payload_kbps=6.0,
        metrics=metrics,
        missing={"pesq_wb": "the package pesq is not installed"},
        encode_s=0.01,
        decode_s=0.02,
        **changes,
    )


def test_the_interval_covers_the_true_mean_about_95_times_in_100():
    generator = np.random.default_rng(0)
    trials = [mean_interval(list(generator.normal(3.0, 1.0, 40)), n_resamples=300) for _ in range(200)]
    covered = sum(interval.low <= 3.0 <= interval.high for interval in trials)
    assert 0.88 <= covered / len(trials) <= 0.99


def test_the_interval_is_the_same_for_the_same_rows():
    values = list(np.random.default_rng(1).normal(size=20))
    assert mean_interval(values) == mean_interval(values)
    assert mean_interval(values) != mean_interval(values, seed=1)


def test_the_interval_narrows_as_clips_are_added():
    values = list(np.random.default_rng(2).normal(size=400))
    widths = [(i := mean_interval(values[:n])).high - i.low for n in (25, 100, 400)]
    assert widths[0] > widths[1] > widths[2]


@pytest.mark.parametrize("values", [[], [math.nan, math.inf]])
def test_nothing_to_average_is_nan_over_no_clips(values):
    interval = mean_interval(values)
    assert interval.n == 0
    assert math.isnan(interval.mean)


def test_one_clip_has_a_mean_and_no_interval():
    interval = mean_interval([4.0, math.nan])
    assert (interval.mean, interval.n) == (4.0, 1)
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)


def test_summaries_cover_all_clips_then_each_folder_at_each_rate():
    rows = [make_row(folder=folder, kbps_wanted=kbps) for kbps in (6.0, 3.0) for folder in ("te", "en", "te")]
    found = [(s.kbps_wanted, s.folder, s.n_clips) for s in summarize(rows)]
    assert found == [(3, "all", 3), (3, "en", 1), (3, "te", 2), (6, "all", 3), (6, "en", 1), (6, "te", 2)]


def test_a_single_folder_is_not_summarized_twice():
    assert [s.folder for s in summarize([make_row(), make_row()])] == ["all"]


def test_a_missing_metric_shows_as_a_dash_with_its_reason():
    rows = [make_row(), make_row(clip="b.wav")]
    table = clip_table(rows, BRIEF)
    column = table.header.index("PESQ-WB")
    assert [line[column] for line in table.cells] == ["-", "-"]
    assert reasons(rows) == ["pesq_wb is missing for 2 of the results: the package pesq is not installed"]


def test_a_mean_over_fewer_clips_says_over_how_many():
    rows = [make_row(), make_row(), make_row(metrics={"snr_db": math.nan})]
    cells = {figure: mean for _, figure, mean in summary_table(summarize(rows), BRIEF).cells}
    assert cells["SNR dB"] == "7.00 [7.00, 7.00] (2)"
    assert cells["SI-SDR dB"] == "6.50 [6.50, 6.50]"
    assert cells["PESQ-WB"] == "- (0)"


def test_the_summary_has_a_column_per_rate_and_a_block_per_folder():
    rows = [
        make_row(folder=folder, kbps_wanted=kbps) for folder, kbps in (("te", 3.0), ("te", 6.0), ("en", 6.0))
    ]
    table = summary_table(summarize(rows), BRIEF)
    assert table.header == ("mean of (clips)", "figure", "at 3 kbps", "at 6 kbps")
    assert [line[0] for line in table.cells if line[0]] == ["all (2)", "te (1)", "en (1)"]
    assert len(table.cells) == 3 * len(BRIEF)
    assert {line[2] for line in table.cells[-len(BRIEF) :]} == {"-"}


def test_json_lines_hold_every_row_and_summary_as_strict_json():
    rows = [make_row(metrics={"si_sdr_db": -math.inf}), make_row(clip="b.wav")]
    text = to_json_lines(rows, summarize(rows))
    objects = [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]
    assert [o.get("clip") for o in objects] == ["a.wav", "b.wav", None]
    assert objects[0]["si_sdr_db"] is None
    assert objects[0]["pesq_wb"] is None
    assert objects[0]["missing"].keys() == {"pesq_wb"}
    assert objects[2]["summary_of"] == "all"
    assert objects[2]["snr_db"]["n"] == 2


def test_markdown_lines_have_as_many_cells_as_the_header():
    rows = [make_row(clip="odd|name.wav"), make_row()]
    lines = clip_table(rows, FULL).to_markdown().splitlines()
    assert len(lines) == 4
    for line in lines:
        assert line.replace("\\|", "").count("|") == len(FULL) + 2


def test_no_rows_make_an_empty_report():
    assert summarize([]) == []
    assert to_json_lines([]) == ""


def test_the_report_needs_no_torch():
    probe = "import sys, telucodec.evaluate.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", probe], check=False).returncode == 0
