"""The listening report: one file that hides nothing, escapes everything and asks nobody for anything."""

import base64
import html.parser
import io
import itertools
import math
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import soundfile

from telucodec.bitstream.bitpack import ABSENT
from telucodec.errors import TelucodecError
from telucodec.evaluate.listening import ReportClip, write_report
from telucodec.evaluate.listening.pictures import (
    code_use,
    codes_uri,
    difference_uri,
    spectrogram_db,
    spectrogram_uri,
    waveform_path,
)
from telucodec.evaluate.listening.plots import family_indices, rate_plots
from telucodec.evaluate.listening.sound import flac_uri, low_anchor, matching_gains_db
from telucodec.evaluate.listening.systems import HEADLINE, columns_of, list_systems, table
from telucodec.evaluate.report import Row, summarize

RATE_HZ = 16_000
HOSTILE = '</script><img src=x onerror="alert(1)">&.wav'


def tone(hz=440.0, seconds=0.5, level=0.3):
    return (level * np.sin(2 * np.pi * hz * np.arange(int(seconds * RATE_HZ)) / RATE_HZ)).astype(np.float32)


def make_clip(clip="te/a.wav", names=("telucodec 3", "telucodec 6", "opus 8"), **changes):
    noise = np.random.default_rng(0).normal(0, 0.02, (len(names), RATE_HZ // 2)).astype(np.float32)
    codes = np.random.default_rng(1).integers(0, 1024, (4, 26))
    estimates = {name: tone() + line for name, line in zip(names, noise, strict=True)}
    fields = {"clip": clip, "folder": "te", "rate_hz": RATE_HZ, "reference": tone(), "codes": codes}
    return ReportClip(**fields | {"estimates": estimates} | changes)


def make_row(clip="te/a.wav", system="telucodec 6", kbps=6.0, folder="te", snr_db=7.0, missing=None, **more):
    return Row(
        clip=clip, folder=folder, seconds=0.5, n_codebooks=4, kbps_wanted=kbps, kbps=kbps + 0.5,
        payload_kbps=kbps, metrics={"snr_db": snr_db, "pesq_wb": 2.25, "stoi": 0.875},
        missing=missing or {}, encode_s=0.01, decode_s=0.02, system=system, **more,
    )  # fmt: skip


ROWS = [
    make_row(clip=f"te/{name}.wav", system=system, kbps=kbps, snr_db=kbps + shift)
    for name, shift in (("a", 0.0), ("b", 1.5), ("c", 2.25))
    for system, kbps in (("telucodec 3", 3.0), ("telucodec 6", 6.0), ("opus 8", 8.0), ("lyra-v2 6", 5.75))
]


class Page(html.parser.HTMLParser):
    """What a browser would see: elements with their attributes, and the cells of every table."""

    VOID = frozenset({"meta", "img", "input", "br", "link"})

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.rows, self.unclosed = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in {"td", "th"}:
            self.rows[-1].append("")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if self.open.pop() != tag:
            self.unclosed.append(tag)

    def handle_data(self, data):
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    def all(self, wanted, **attributes):
        return [a for tag, a in self.elements if tag == wanted and attributes.items() <= a.items()]


def write(path, clips=None, rows=ROWS, **changes):
    given = {"title": "Report", "model": "speech-16k"} | changes
    write_report(path, [make_clip()] if clips is None else clips, rows, **given)
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    clips = [make_clip(), make_clip(clip="te/b.wav", codes=None)]
    return write(tmp_path_factory.mktemp("report") / "report.html", clips)


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def test_every_element_is_closed_and_every_identifier_used_once(page):
    assert not page.open
    assert not page.unclosed
    names = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(names) == len(set(names))


def test_nothing_in_the_page_points_to_a_network(text, page):
    assert not re.search(r"https?://|//[a-z]+\.[a-z]+/|@import|url\(", text)
    sources = [a["src"] for _, a in page.elements if "src" in a]
    assert all(source.startswith("data:") for source in sources)
    assert not page.all("link")
    (policy,) = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert policy["content"].startswith("default-src 'none'")


def test_every_clip_and_system_with_sound_has_a_player_of_its_own(page):
    players = [a["aria-label"] for a in page.all("audio") if "controls" in a]
    wanted = ["Original", "telucodec 3", "telucodec 6", "opus 8"]
    assert players == [f"{name}, te/{clip}.wav" for clip in "ab" for name in wanted]


def test_every_take_shows_its_spectrogram_and_what_differs(page):
    pictures = [a["alt"] for a in page.all("img")]
    assert sum(alt.startswith("Spectrogram of") for alt in pictures) == 8
    assert sum(alt.startswith("Difference") for alt in pictures) == 6
    assert sum(alt.startswith("Codewords of 4 stages") for alt in pictures) == 1  # of the clip with codes


def test_the_table_holds_the_numbers_of_the_command_s_own_summaries(page):
    for system, kbps in (("telucodec 6", 6.0), ("lyra-v2 6", 5.75)):
        (summary,) = summarize([row for row in ROWS if row.system == system])
        line = next(row for row in page.rows if row[0] == system)
        for cell, column in zip(line[1:], HEADLINE, strict=False):
            found = summary.figures.get(column.name)
            if found is not None:
                assert cell.split()[0] == column.show(found.mean)
        snr = summary.figures["snr_db"]
        index = [column.name for column in HEADLINE].index("snr_db") + 1
        assert line[index].split() == [f"{kbps + 1.25:.2f}", f"{snr.low:.2f}", "to", f"{snr.high:.2f}"]


def test_systems_without_sound_are_in_tables_and_plots(page):
    assert ["lyra-v2 6no audio", "5.75", "2.25", "0.875"] in [
        [c.replace(" no", "no") for c in r[:4]] for r in page.rows
    ]
    titles = [a for a in page.all("svg", role="img") if a.get("aria-labelledby", "").startswith("plot-")]
    assert len(titles) == 3  # ViSQOL was not measured and says so


def test_a_metric_that_nobody_could_measure_is_named_with_its_reason(tmp_path):
    rows = [make_row(missing={"visqol": "the package is not installed"})]
    text = write(tmp_path / "r.html", [], rows)
    assert "Not measured: no system has ViSQOL." in text
    assert "visqol is missing for 1 of the results: the package is not installed" in text


def test_systems_measured_on_other_clips_are_pointed_out(tmp_path, text):
    rows = [make_row(), make_row(clip="te/b.wav", system="opus 8")]
    assert "do not compare one to one" in write(tmp_path / "r.html", [], rows)
    assert "do not compare one to one" not in text


def test_folders_have_tables_of_their_own_if_there_are_several(tmp_path, text):
    rows = [make_row(), make_row(clip="en/b.wav", folder="en", snr_db=9.0)]
    page = Page(write(tmp_path / "r.html", [], rows))
    assert ["telucodec 6", "9.00", "7.00"] in page.rows
    assert "By folder" not in text


def test_languages_have_tables_where_they_are_known(tmp_path):
    rows = [
        make_row(language="te"),
        make_row(clip="b.wav", language="ml", snr_db=9.0),
        make_row(clip="c.wav"),
    ]
    text = write(tmp_path / "r.html", [], rows)
    assert ["telucodec 6", "9.00", "7.00"] in Page(text).rows
    assert "By language" in text


def test_everything_that_the_page_is_made_of_is_packaged():
    root = Path(__file__).parents[1]
    settings = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = settings["tool"]["setuptools"]["package-data"]["telucodec"]
    assets = [
        path
        for path in (root / "telucodec" / "evaluate" / "listening").rglob("*")
        if path.suffix in {".html", ".css", ".js"}
    ]
    assert len(assets) >= 3
    for path in assets:
        assert any(path.relative_to(root / "telucodec").match(pattern) for pattern in patterns), path


def test_names_from_files_are_escaped_wherever_they_appear(tmp_path):
    clip = make_clip(clip=HOSTILE, folder=HOSTILE, names=(f"opus {HOSTILE}", "telucodec 6"))
    rows = [make_row(clip=HOSTILE, folder=HOSTILE, system=f"opus {HOSTILE}", missing={HOSTILE: HOSTILE})]
    text = write(tmp_path / "r.html", [clip], [*rows, make_row()], title=HOSTILE, model=HOSTILE)
    page = Page(text)
    assert not page.open
    assert "onerror" not in {name for _, attributes in page.elements for name in attributes}
    assert len(page.all("script")) == text.count("</script>") == 2
    assert page.all("article")[0]["data-clip"] == HOSTILE


def test_the_same_clips_and_rows_give_the_same_bytes(tmp_path):
    assert write(tmp_path / "a.html") == write(tmp_path / "b.html")


def test_another_take_gives_the_page_another_name_for_its_ratings(tmp_path):
    pages = [write(tmp_path / "r.html", [make_clip(names=names)]) for names in (("opus 6",), ("opus 8",))]
    names = [re.search(r'data-report="(\w{12})"', text).group(1) for text in pages]
    assert names[0] != names[1]


def test_a_page_without_clips_or_rows_still_stands(tmp_path):
    page = Page(write(tmp_path / "r.html", [], []))
    assert not page.all("article")
    assert not page.open


def test_one_result_of_one_clip_has_no_interval_and_is_plotted(tmp_path):
    text = write(tmp_path / "r.html", [make_clip()], [make_row()])
    assert "nan" not in text.split("<script>")[1].split("base64")[0]
    assert "telucodec 6: SNR dB 7.00 at 6.00 kbps." in text


def test_a_failure_leaves_the_page_of_before(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TelucodecError, match="cannot write"):
        write(tmp_path / "file" / "r.html")
    assert (tmp_path / "file").read_text() == ""


def test_a_missing_package_is_named_with_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    monkeypatch.delitem(sys.modules, "telucodec.evaluate.listening.page")
    with pytest.raises(TelucodecError, match=r"the report needs jinja2; pip install 'telucodec\[eval\]'"):
        write(tmp_path / "r.html")


def test_ten_clips_of_five_seconds_fit_into_15_megabytes(tmp_path):
    """Eight systems; noise so strong that FLAC needs the 6.3 bits a sample that it needs for speech."""
    generator = np.random.default_rng(0)
    names = [f"telucodec {n}" for n in range(8)]
    noise = generator.normal(0, 0.0006, (9, 5 * RATE_HZ)).astype(np.float32)
    clip = make_clip(names=(), reference=noise[0], estimates=dict(zip(names, noise[1:], strict=True)))
    path = tmp_path / "r.html"
    write(path, [clip])
    assert 10 * path.stat().st_size < 15e6


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"estimates": {"opus 8": tone(seconds=0.25)}}, id="other length"),
        pytest.param({"reference": tone()[None]}, id="two dimensions"),
        pytest.param({"reference": tone()[:0], "estimates": {}}, id="empty"),
        pytest.param({"estimates": {"opus 8": np.full(RATE_HZ // 2, np.nan, np.float32)}}, id="nan"),
        pytest.param({"codes": np.zeros(4)}, id="flat codes"),
    ],
)
def test_a_clip_that_cannot_be_shown_is_refused(changes):
    with pytest.raises(ValueError, match=r"te/a\.wav: "):
        make_clip(**changes)


def test_embedded_sound_is_the_signal_to_the_last_bit():
    pcm = np.random.default_rng(0).integers(-32_768, 32_768, 4_000).astype(np.int16)
    uri = flac_uri((pcm / 32_768).astype(np.float32), RATE_HZ)
    kind, _, data = uri.partition(";base64,")
    read, rate_hz = soundfile.read(io.BytesIO(base64.b64decode(data)), dtype="int16")
    assert (kind, rate_hz) == ("data:audio/flac", RATE_HZ)
    assert np.array_equal(read, pcm)


def test_matched_takes_are_equally_loud_and_none_clips():
    takes = [tone(level=0.5), tone(hz=300, level=0.05), tone(hz=200, level=0.9), np.zeros(8_000, np.float32)]
    takes[1][100] = 0.6  # a peak that the gain would push over full scale
    gains = matching_gains_db(takes, RATE_HZ)
    heard = [take * 10 ** (gain / 20) for take, gain in zip(takes, gains, strict=True)]
    levels = [20 * math.log10(np.sqrt(np.mean(take**2))) for take in heard[:3]]
    assert max(levels) - min(levels) < 0.1
    assert max(float(np.abs(take).max()) for take in heard) <= 0.981
    assert gains[3] == gains[0]  # silence keeps its level


def test_noise_in_pauses_does_not_count_as_loudness():
    speech = np.concatenate([tone(), np.zeros(RATE_HZ, np.float32)])
    noisy = speech.copy()
    noisy[RATE_HZ // 2 :] = 0.3
    gains = matching_gains_db([speech, noisy], RATE_HZ)
    assert gains[1] - gains[0] == pytest.approx(0.0, abs=0.05)


@pytest.mark.parametrize(
    ("hz", "lowest_db", "highest_db"), [(1_000, -0.1, 0.1), (3_400, -0.2, 0.2), (3_900, -200, -60)]
)
def test_the_low_anchor_keeps_what_lies_below_3500_hz_only(hz, lowest_db, highest_db):
    wav = tone(hz)
    inner = slice(500, -500)
    ratio = float(np.std(low_anchor(wav, RATE_HZ)[inner]) / np.std(wav[inner]))
    assert lowest_db <= 20 * math.log10(ratio) <= highest_db


def test_the_low_anchor_is_not_delayed():
    click = np.zeros(1_000, np.float32)
    click[400] = 1.0
    assert np.argmax(low_anchor(click, RATE_HZ)) == 400


def test_a_tone_is_a_line_at_its_frequency():
    decibels = spectrogram_db(tone(2_000), RATE_HZ)
    assert decibels.shape[0] == 128
    inner = decibels[:, 10:-10]
    assert abs(np.median(inner.argmax(axis=0)) - 2_000 / 8_000 * 128) <= 1


@pytest.mark.parametrize("n_samples", [1, 63, 8_000, 400_000])
def test_pictures_have_a_sensible_size_for_any_length(n_samples):
    wav = np.random.default_rng(0).normal(0, 0.1, n_samples).astype(np.float32)
    assert 1 <= spectrogram_db(wav, RATE_HZ).shape[1] <= 521
    assert waveform_path(wav, 1.0).startswith("M0 ")


def test_equal_spectrograms_differ_nowhere():
    image = pytest.importorskip("PIL.Image")
    decibels = spectrogram_db(tone(), RATE_HZ)
    uri = difference_uri(decibels, decibels, float(decibels.max()))
    pixels = np.asarray(image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))
    assert pixels.min() >= 253


def test_silence_is_blank_paper():
    image = pytest.importorskip("PIL.Image")
    uri = spectrogram_uri(spectrogram_db(np.zeros(8_000, np.float32), RATE_HZ), top_db=0.0)
    pixels = np.asarray(image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))
    assert pixels.min() >= 253


def test_code_use_counts_codewords_and_their_entropy():
    codes = np.array([[7, 7, 7, 7], [1, 2, 1, 2], [0, 1, 2, 3]])
    found = [(use.stage, use.n_used, use.entropy_bits) for use in code_use(codes)]
    assert found == [(1, 1, 0.0), (2, 2, 1.0), (3, 4, 2.0)]


def test_in_the_picture_of_codes_the_coarse_stage_is_on_top_and_frequent_codewords_are_dark():
    image = pytest.importorskip("PIL.Image")
    uri = codes_uri(np.array([[7, 7, 7, 7], [0, 1, 2, 3]]))
    pixels = np.asarray(image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))
    assert pixels.shape[:2] == (2, 4)
    assert pixels[0].max() < pixels[1].min()


def test_stages_that_a_frame_goes_without_are_blank_and_not_counted():
    image = pytest.importorskip("PIL.Image")
    codes = np.array([[1, 2, 1, 2], [5, ABSENT, 6, ABSENT], [ABSENT] * 4], np.uint16)
    assert [(use.n_used, use.entropy_bits) for use in code_use(codes)] == [(2, 1.0), (2, 1.0), (0, 0.0)]
    uri = codes_uri(codes)
    pixels = np.asarray(image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))
    assert np.array_equal(pixels.min(axis=2) == 255, codes == ABSENT)


def test_ours_come_first_then_families_by_rate():
    names = ["opus 12", "telucodec 6", "opus 8", "telucodec 1.5", "codec2 3.2"]
    systems = list_systems([], names)
    assert [s.name for s in systems] == ["telucodec 1.5", "telucodec 6", "codec2 3.2", "opus 8", "opus 12"]
    assert family_indices(systems) == {"telucodec": 0, "codec2": 1, "opus": 2}


def test_only_ours_looks_like_ours_however_many_families_there_are():
    systems = list_systems([], ["telucodec 6", *(f"{letter} 1" for letter in "abcdefgh")])
    indices = family_indices(systems)
    assert indices.pop("telucodec") == 0
    assert set(indices.values()) == {1, 2, 3, 4, 5}


def test_a_row_that_names_no_system_is_ours_at_the_wanted_rate():
    (system,) = list_systems([make_row(system="", kbps=1.5)])
    assert (system.name, system.is_ours) == ("telucodec 1.5", True)


def test_a_mean_over_fewer_clips_says_over_how_many():
    rows = [make_row(), make_row(clip="b.wav", snr_db=math.nan)]
    ((line,), index) = table(list_systems(rows), HEADLINE), [c.name for c in HEADLINE].index("snr_db")
    assert (line.cells[index].mean, line.cells[index].n) == ("7.00", "1 of 2")


def test_every_measured_figure_has_a_column_known_or_not():
    row = make_row(missing={"f0_error_hz": "no voice"})
    names = [column.name for column in columns_of([row])]
    assert {"snr_db", "pesq_wb", "stoi", "f0_error_hz", "kbps", "encode_s"} <= set(names)
    assert len(names) == len(set(names))


def test_points_lie_inside_the_drawing_and_further_right_at_a_higher_rate():
    for plot in rate_plots(list_systems(ROWS)):
        for series in plot.series:
            places = [point.x for point in series.points]
            assert places == sorted(places)
            for point in series.points:
                assert 44 <= point.x <= 348
                assert 14 <= point.y_high <= point.y <= point.y_low <= 258


def test_labels_of_families_do_not_touch():
    rows = [make_row(system=f"{name} 6", snr_db=7.0) for name in ("telucodec", "a", "b", "c", "d", "e")]
    for plot in rate_plots(list_systems(rows)):
        heights = sorted(series.label_y for series in plot.series)
        assert all(later - earlier >= 16 for earlier, later in itertools.pairwise(heights))


def test_the_report_needs_no_torch():
    probe = "import sys, telucodec.evaluate.listening.page; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", probe], check=False).returncode == 0


def luminance(color):
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_every_color_of_text_can_be_read(text, theme):
    """Contrast of at least 4.5 to 1 (WCAG 2.2, 1.4.3) with the paper, for text and for every family."""
    block = re.findall(r":root \{(.*?)\}", text, re.DOTALL)[theme]
    colors = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block))
    paper = luminance(colors["paper"])
    for name in ("ink", "soft", "focus", "less", "more", "f0", "f1", "f2", "f3", "f4", "f5"):
        lighter, darker = sorted([paper, luminance(colors[name])], reverse=True)
        assert (lighter + 0.05) / (darker + 0.05) >= 4.5, name
