"""The listening report in a real browser: it plays, switches in step, rates blindly and exports.

Needs Chromium and the package playwright (``pip install playwright``; its own browsers are not used).
"""

import csv
import io
import os
import shutil

import numpy as np
import pytest

from telucodec.evaluate.listening import ReportClip, write_report
from telucodec.evaluate.report import Row

pytestmark = pytest.mark.slow
RATE_HZ = 16_000
SECONDS = 8.0  # longer than a busy machine takes for what is done while one clip plays
TONES_HZ = {"Original": 500, "telucodec 3": 1_000, "telucodec 6": 2_000, "opus 8": 3_000}
LEVELS = {"Original": 0.2, "telucodec 3": 0.1, "telucodec 6": 0.2, "opus 8": 0.4}
CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))),
    None,
)

# Everything that goes to the loudspeaker also goes to an analyser; every start of a source is written down.
LISTEN_IN = """
window.starts = [];
const start = AudioBufferSourceNode.prototype.start;
AudioBufferSourceNode.prototype.start = function (...given) {
  window.starts.push(given);
  return start.apply(this, given);
};
const connect = AudioNode.prototype.connect;
AudioNode.prototype.connect = function (target, ...more) {
  if (target instanceof AudioDestinationNode) {
    window.ear ??= new AnalyserNode(target.context, { fftSize: 2048, smoothingTimeConstant: 0 });
    connect.call(this, window.ear);
  }
  return connect.call(this, target, ...more);
};
window.hear = () => {
  const wave = new Float32Array(2048), bins = new Float32Array(1024);
  window.ear.getFloatTimeDomainData(wave);
  window.ear.getFloatFrequencyData(bins);
  const bin = bins.indexOf(Math.max(...bins));
  return { hz: bin * window.ear.context.sampleRate / 2048, rms: Math.hypot(...wave) / Math.sqrt(2048) };
};
"""
SEEDED = "let seed = 7; Math.random = () => (seed = (seed * 16807) % 2147483647) / 2147483647;"
REFUSE_STORAGE = (
    "Object.defineProperty(window, 'localStorage', { get() { throw new DOMException('refused'); } });"
)


def tone(hz, level, seconds=SECONDS):
    return (level * np.sin(2 * np.pi * hz * np.arange(int(seconds * RATE_HZ)) / RATE_HZ)).astype(np.float32)


def make_row(clip, system):
    kbps = float(system.split()[1])
    return Row(
        clip=clip, folder="te", seconds=SECONDS, n_codebooks=4, kbps_wanted=kbps, kbps=kbps,
        payload_kbps=kbps, metrics={"snr_db": kbps, "pesq_wb": 2.0, "stoi": 0.8}, missing={},
        encode_s=0.01, decode_s=0.01, system=system,
    )  # fmt: skip


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    takes = {name: tone(hz, LEVELS[name]) for name, hz in TONES_HZ.items()}
    reference = takes.pop("Original")
    codes = np.random.default_rng(0).integers(0, 1024, (18, 401))
    names = ["a-long-name-from-a-recorder-2026-11-20-with-no-space-to-break-it.wav", "b.wav", "c.wav"]
    clips = [
        ReportClip(clip=name, folder="te", rate_hz=RATE_HZ, reference=reference, estimates=takes, codes=codes)
        for name in names
    ]
    rows = [make_row(name, system) for name in names for system in [*takes, "lyra-v2 6"]]
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, clips, rows, title="Report", model="speech-16k")
    return path.as_uri()


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium refuses it to root
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=CHROMIUM, args=sandbox)
        yield running
        running.close()


@pytest.fixture
def visit(browser, report):
    """Open the report; whatever it complains of or asks a network for fails the test at its end."""
    contexts, complaints = [], []

    def open_report(script="", width=1200, **options):
        settings = {"viewport": {"width": width, "height": 800}, "accept_downloads": True}
        settings["reduced_motion"] = "reduce"  # nothing moves while the mouse aims at it
        context = browser.new_context(**settings, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "request", lambda r: r.url.startswith(("file:", "data:", "blob:")) or complaints.append(r.url)
        )
        page.add_init_script(LISTEN_IN + script)
        page.goto(report)
        return page

    yield open_report
    for context in contexts:
        context.close()
    assert complaints == []


def heard(page):
    """Which version sounds, by its tone, and how loud it is."""
    page.wait_for_timeout(350)  # longer than the analyser's window and the fade
    assert page.evaluate("Sound.playing.isPlaying")
    found = page.evaluate("hear()")
    name = min(TONES_HZ, key=lambda name: abs(TONES_HZ[name] - found["hz"]))
    assert abs(TONES_HZ[name] - found["hz"]) < 20
    return name, found["rms"]


def position(page, clip=1):
    return float(page.evaluate(f"cards[{clip - 1}].deck.position"))


def play(page):
    page.locator("#clip-1 .play").click()
    page.wait_for_function("cards[0].deck.isPlaying")


def exported(page):
    with page.expect_download() as download:
        page.get_by_role("button", name="Export CSV").last.click()
    return list(csv.DictReader(io.StringIO(download.value.path().read_text(encoding="utf-8"))))


def test_a_click_changes_the_sound_at_once_and_in_step(visit):
    page = visit()
    play(page)
    assert heard(page)[0] == "Original"
    starts = page.evaluate("starts")
    assert len(starts) == len(TONES_HZ)
    assert all(start == starts[0] for start in starts)  # the same instant, the same place
    before = position(page)
    page.locator("#clip-1 tr[data-take='2'] button").click()
    assert heard(page)[0] == "telucodec 6"
    assert before + 0.3 < position(page) < SECONDS
    assert len(page.evaluate("starts")) == len(TONES_HZ)  # nothing was started anew


def test_keys_choose_swap_seek_repeat_and_pause(visit):
    page = visit()
    page.locator("#clip-1").scroll_into_view_if_needed()
    page.keyboard.press("Space")
    page.wait_for_function("cards[0].deck.isPlaying")
    page.keyboard.press("3")
    assert heard(page)[0] == "opus 8"
    page.keyboard.press("s")
    assert heard(page)[0] == "Original"
    page.keyboard.press("l")
    page.evaluate(f"cards[0].deck.seek({SECONDS - 0.2})")
    page.wait_for_timeout(1_000)
    assert 0 < position(page) < SECONDS - 0.5  # over the end, and on from the start
    page.keyboard.press("Space")
    page.keyboard.press("Home")
    assert position(page) == 0
    page.keyboard.press("ArrowRight")
    assert position(page) == 0.5
    page.keyboard.press("n")
    page.keyboard.press("1")
    assert page.evaluate("cards[1].deck.heard") == 1


def test_levels_are_matched_until_that_is_switched_off(visit):
    page = visit()
    play(page)
    page.keyboard.press("l")
    matched = {}
    for key, name in enumerate(TONES_HZ):
        page.keyboard.press(str(key))
        found, matched[name] = heard(page)
        assert found == name
    assert max(matched.values()) / min(matched.values()) < 1.03
    page.keyboard.press("m")
    page.keyboard.press("1")
    assert heard(page)[1] == pytest.approx(0.1 / np.sqrt(2), rel=0.05)  # its own level


def test_dragging_across_a_picture_repeats_that_part(visit):
    page = visit()
    picture = page.locator("#clip-1 .take.original .time").first
    picture.scroll_into_view_if_needed()
    box = picture.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.4, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + 20)
    page.mouse.up()
    page.keyboard.press("Space")
    page.wait_for_timeout(2_500)  # the part takes 1.6 s
    assert page.evaluate("cards[0].deck.isPlaying")
    assert 0.39 * SECONDS < position(page) < 0.61 * SECONDS
    page.keyboard.press("Space")
    picture.click(position={"x": box["width"] * 0.5, "y": 20})
    assert position(page) == pytest.approx(0.5 * SECONDS, rel=0.01)


def test_a_part_that_plays_stops_when_another_clip_starts(visit):
    page = visit()
    play(page)
    page.locator("#clip-2 .play").click()
    page.wait_for_function("cards[1].deck.isPlaying")
    assert not page.evaluate("cards[0].deck.isPlaying")


def rate_all_clips(page):
    """Rate by keys alone; what sounds at each number is what the scores are given for."""
    page.get_by_role("button", name="Start rating").click()
    page.keyboard.press("Space")
    for _ in range(3):
        page.wait_for_function("test.deck.isPlaying")
        assert (
            page.get_by_role("button", name="Finish")
            .or_(page.get_by_role("button", name="Next clip"))
            .is_disabled()
        )
        for number in range(1, 6):
            page.keyboard.press(str(number))
            page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")


def test_rating_draws_an_order_for_each_clip_and_exports_every_score(visit):
    page = visit(SEEDED)
    page.get_by_label("Listener").fill("s 1, l")  # keys of the page, none of which may act
    rate_all_clips(page)
    page.get_by_text("Rating: done").wait_for()
    rows = exported(page)
    assert len(rows) == 3 * 5
    wanted = {"hidden reference", "low anchor", "telucodec 3", "telucodec 6", "opus 8"}
    for trial in "123":
        group = [row for row in rows if row["trial"] == trial]
        assert {row["system"] for row in group} == wanted
        assert sorted(row["position"] for row in group) == list("12345")
        assert len({row["clip"] for row in group}) == 1
    assert {row["score"] for row in rows} == {"51"}
    assert {row["listener"] for row in rows} == {"s 1, l"}
    orders = {tuple(row["system"] for row in rows if row["trial"] == trial) for trial in "123"}
    assert len(orders) == 3


def test_no_name_can_be_seen_while_rating(visit):
    page = visit()
    page.get_by_role("button", name="Start rating").click()
    text = page.locator("#room").inner_text()
    assert not any(name in text for name in (*TONES_HZ, "anchor", ".wav"))
    assert page.locator("#results").evaluate(
        "e => document.elementFromPoint(600, 400).closest('#room') !== null"
    )


def test_what_sounds_while_rating_is_what_is_written_down(visit):
    page = visit()
    page.get_by_role("button", name="Start rating").click()
    page.keyboard.press("Space")
    page.wait_for_function("test.deck.isPlaying")
    for number in range(1, 6):
        page.keyboard.press(str(number))
        system = page.evaluate(f"test.stimuli[{number - 1}].name")
        wanted = "Original" if system in ("hidden reference", "low anchor") else system
        assert heard(page)[0] == wanted


def test_ratings_are_still_there_after_a_reload_and_can_be_deleted(visit):
    page = visit()
    rate_all_clips(page)
    page.get_by_role("button", name="Back to the page").click()
    page.reload()
    assert page.locator("#stored-text").inner_text() == "15 ratings, kept in this browser."
    page.locator("#erase").click()
    page.locator("#erase").click()
    page.reload()
    assert page.locator("#stored-text").inner_text() == "No ratings yet."


def test_ratings_survive_in_the_page_where_storage_is_refused(visit):
    page = visit(REFUSE_STORAGE)
    rate_all_clips(page)
    assert len(exported(page)) == 15
    page.get_by_role("button", name="Back to the page").click()
    assert "refuses storage" in page.locator("#stored-text").inner_text()


def test_abx_plays_the_pair_and_counts_right_answers(visit):
    page = visit()
    page.locator("#abx-setup [name=b]").select_option("opus 8")
    page.get_by_label("Trials").fill("4")
    page.get_by_role("button", name="Start ABX").click()
    page.keyboard.press("Space")
    for _ in range(4):
        page.wait_for_function("test.deck.isPlaying")
        page.keyboard.press("a")
        assert heard(page)[0] == "Original"
        page.keyboard.press("b")
        assert heard(page)[0] == "opus 8"
        page.keyboard.press("x")
        x = "A" if heard(page)[0] == "Original" else "B"
        page.keyboard.press(f"Shift+{x}")
    page.get_by_text("ABX: done").wait_for()
    rows = exported(page)
    assert [row["is_right"] for row in rows] == ["1"] * 4
    assert all(row["answer"] == row["x"] for row in rows)
    assert "4 of 4" in page.locator("#room").inner_text()
    assert "6.3 %" in page.locator("#room").inner_text()  # 1 / 16


@pytest.mark.parametrize("place", ["page", "rating", "abx"])
def test_nothing_is_wider_than_a_phone(visit, place):
    page = visit(width=360, has_touch=True, is_mobile=True)
    page.evaluate("document.querySelectorAll('details').forEach((details) => (details.open = true))")
    page.locator("#show-keys").click()
    start = {"rating": "#mushra-setup .primary", "abx": "#abx-setup .primary"}.get(place)
    if start:
        page.locator(start).click()
    widths = page.evaluate(
        "[document.documentElement, document.getElementById('room')].map((e) => e.scrollWidth)"
    )
    assert max(widths) <= 360


def test_a_dark_system_gets_a_dark_page_with_dark_pictures(visit):
    page = visit(color_scheme="dark")
    channels = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert max(channels) < 40
    assert "invert" in page.evaluate("getComputedStyle(document.querySelector('.spectrogram img')).filter")


def test_without_scripts_every_version_has_its_player_and_pictures(visit):
    page = visit(java_script_enabled=False)
    assert page.locator("audio[controls]:visible").count() == 3 * len(TONES_HZ)
    assert page.locator(".spectrogram img:visible").count() == 3 * len(TONES_HZ)
    assert page.locator("button:visible").count() == 0
    assert page.get_by_text("runs no scripts").is_visible()
