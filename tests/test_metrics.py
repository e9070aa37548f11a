"""Metrics on signals whose answer is known, and on signals that have none."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from telucodec.audio import read_audio
from telucodec.errors import ConfigError
from telucodec.evaluate import metrics, perceptual, spectra
from telucodec.evaluate.metrics import FAST, METRICS, MetricUnavailable, choose_metrics, measure
from telucodec.evaluate.waveform import aligned, delay_samples

RATE_HZ = 16_000
CLIPS = Path(__file__).parents[1] / "data" / "clips"
# What the packages themselves say of `worn` clips: pesq 0.0.4, pystoi 0.4.1, visqol-python 3.8.0, auraloss
# 0.4.0, librosa 0.11.0 (pYIN, STFT, mel filters), called directly; numpy for the rest.
PACKAGES_SAY = json.loads((Path(__file__).parent / "golden" / "metric_values.json").read_text())
PACKAGES = {
    "pesq_wb": "pesq",
    "pesq_nb": "pesq",
    "stoi": "pystoi",
    "estoi": "pystoi",
    "visqol": "visqol",
    "mel_distance_db": "librosa",
    "f0_error_cents": "librosa",
    "voicing_error": "librosa",
}
ENERGY_METRICS = ["snr_db", "si_sdr_db", "range_ratio", "rms_ratio_db"]


@pytest.fixture
def noise():
    return np.random.default_rng(0).standard_normal(RATE_HZ) * 0.05


@pytest.fixture
def tone():
    """One second of a tone with a slow swell, so that it has onsets and pauses like speech."""
    t = np.arange(RATE_HZ) / RATE_HZ
    return 0.3 * np.sin(2 * np.pi * 440 * t) * np.sin(2 * np.pi * 2 * t) ** 2


def mixed(signal, noise, snr_db):
    gain = np.sqrt((signal @ signal) / (noise @ noise) / 10 ** (snr_db / 10))
    return signal + gain * noise


@pytest.mark.parametrize("wanted_db", [-5.0, 0.0, 10.0, 30.0])
def test_snr_reads_the_level_the_noise_was_mixed_at(tone, noise, wanted_db):
    assert metrics.snr_db(tone, mixed(tone, noise, wanted_db), RATE_HZ) == pytest.approx(wanted_db, abs=1e-9)


@pytest.mark.parametrize(("gain", "offset"), [(1.0, 0.0), (0.1, 0.0), (-2.0, 0.0), (1.0, 0.2)])
def test_si_sdr_ignores_gain_and_offset(tone, noise, gain, offset):
    estimate = mixed(tone, noise, 10.0)
    assert metrics.si_sdr_db(tone, gain * estimate + offset, RATE_HZ) == pytest.approx(
        metrics.si_sdr_db(tone, estimate, RATE_HZ), abs=1e-9
    )
    assert metrics.si_sdr_db(tone, estimate, RATE_HZ) == pytest.approx(10.0, abs=0.2)


@pytest.mark.parametrize("gain", [0.5, 1.0, 2.0])
def test_level_metrics_read_the_gain(tone, gain):
    estimate = gain * tone
    assert metrics.range_ratio(tone, estimate, RATE_HZ) == pytest.approx(gain)
    assert metrics.rms_ratio_db(tone, estimate, RATE_HZ) == pytest.approx(20 * math.log10(gain), abs=1e-9)


def test_dc_offset_reads_the_shift(tone):
    assert metrics.dc_offset(tone + 0.02, tone - 0.01, RATE_HZ) == pytest.approx(-0.03)


def test_mrstft_is_zero_on_identity_and_grows_with_noise(tone, noise):
    distances = [metrics.mrstft_distance(tone, mixed(tone, noise, snr), RATE_HZ) for snr in (40.0, 20.0, 0.0)]
    assert metrics.mrstft_distance(tone, tone, RATE_HZ) == 0.0
    assert 0.0 < distances[0] < distances[1] < distances[2]


@pytest.mark.parametrize("n_samples", [2048, 5000, RATE_HZ])
def test_mrstft_agrees_with_auraloss(tone, noise, n_samples):
    auraloss = pytest.importorskip("auraloss", reason="auraloss comes with the [train] extra")
    torch = pytest.importorskip("torch")
    reference, estimate = tone[:n_samples], mixed(tone, noise, 10.0)[:n_samples]
    wanted = auraloss.freq.MultiResolutionSTFTLoss()(
        torch.tensor(estimate, dtype=torch.float32)[None, None],
        torch.tensor(reference, dtype=torch.float32)[None, None],
    )
    assert metrics.mrstft_distance(reference, estimate, RATE_HZ) == pytest.approx(wanted.item(), rel=1e-3)


def test_a_perfect_estimate_has_infinite_snr(tone):
    assert metrics.snr_db(tone, tone, RATE_HZ) == math.inf
    assert metrics.si_sdr_db(tone, tone, RATE_HZ) > 250.0


@pytest.mark.parametrize("name", ENERGY_METRICS)
def test_a_silent_reference_has_no_ratio(tone, name):
    assert math.isnan(METRICS[name](np.zeros_like(tone), tone, RATE_HZ))


def test_a_silent_estimate_is_collapse_not_a_crash(tone):
    silent = np.zeros_like(tone)
    assert metrics.snr_db(tone, silent, RATE_HZ) == 0.0
    assert metrics.si_sdr_db(tone, silent, RATE_HZ) == -math.inf
    assert metrics.range_ratio(tone, silent, RATE_HZ) == 0.0
    assert metrics.rms_ratio_db(tone, silent, RATE_HZ) == -math.inf
    assert math.isfinite(metrics.mrstft_distance(tone, silent, RATE_HZ))


@pytest.mark.parametrize("n_samples", [0, 1, 100])
def test_short_clips_give_a_value_or_a_reason_for_every_metric(noise, n_samples):
    measured = measure(noise[:n_samples], 0.5 * noise[:n_samples], RATE_HZ, list(METRICS))
    assert measured.values.keys() | measured.missing.keys() == METRICS.keys()
    assert not measured.values.keys() & measured.missing.keys()
    assert {"pesq_wb", "pesq_nb", "stoi", "estoi", "visqol", "voicing_error"} <= measured.missing.keys()
    assert all(measured.missing.values())
    if not n_samples:
        assert all(math.isnan(value) for value in measured.values.values())


@pytest.mark.parametrize("name", list(METRICS))
def test_signals_of_different_length_are_refused(tone, name):
    with pytest.raises(ValueError, match="equally long"):
        METRICS[name](tone, tone[1:], RATE_HZ)


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("pesq_wb", "pesq"),
        ("pesq_nb", "pesq"),
        ("stoi", "pystoi"),
        ("estoi", "pystoi"),
        ("visqol", "visqol"),
        ("mel_distance_db", "telucodec.spectral"),  # the door of librosa
        ("f0_error_cents", "telucodec.spectral"),
    ],
)
def test_a_missing_package_names_the_extra(tone, monkeypatch, name, module):
    for cached in (perceptual._visqol_scorer, spectra._mel_filters, spectra._pitch):
        cached.cache_clear()
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MetricUnavailable, match=r"\.\[eval\]"):
        METRICS[name](tone, tone, RATE_HZ)
    assert name in measure(tone, tone, RATE_HZ, [name]).missing


@pytest.mark.parametrize(
    ("name", "module"),
    [("pesq_wb", "pesq"), ("stoi", "pystoi"), ("visqol", "visqol"), ("voicing_error", "librosa")],
)
@pytest.mark.parametrize("silent", ["reference", "estimate"])
def test_perceptual_metrics_say_which_signal_is_silent(tone, name, module, silent):
    pytest.importorskip(module)
    pair = {"reference": tone, "estimate": tone} | {silent: np.zeros_like(tone)}
    with pytest.raises(MetricUnavailable, match=f"the {silent} is silent"):
        METRICS[name](pair["reference"], pair["estimate"], RATE_HZ)


def test_perceptual_metrics_fall_with_noise(tone, noise):
    pytest.importorskip("pesq")
    pytest.importorskip("pystoi")
    for name, best in (("pesq_wb", 4.64), ("stoi", 1.0)):
        scores = [METRICS[name](tone, mixed(tone, noise, snr), RATE_HZ) for snr in (60.0, 40.0, 10.0)]
        assert METRICS[name](tone, tone, RATE_HZ) == pytest.approx(best, abs=0.01)
        assert scores == sorted(scores, reverse=True)


def test_pesq_is_the_same_after_resampling_to_its_rate(tone, noise):
    pytest.importorskip("pesq")
    t = np.arange(24_000) / 24_000
    at_24k = 0.3 * np.sin(2 * np.pi * 440 * t) * np.sin(2 * np.pi * 2 * t) ** 2
    assert metrics.pesq_wb(at_24k, 0.5 * at_24k, 24_000) == pytest.approx(4.64, abs=0.02)


def worn(clip):
    """Two seconds of a bundled clip, and a copy coarsely quantized, late, too quiet and off center."""
    wav, info = read_audio(clip, 24_000 if clip.name.startswith("te") else RATE_HZ)
    rate_hz = info.rate_hz
    reference = wav[0].numpy().astype(np.float64)[rate_hz // 2 : rate_hz // 2 + 2 * rate_hz]
    coarse = np.sign(reference) * np.rint(np.sqrt(np.abs(reference)) * 12) ** 2 / 144
    return reference, np.concatenate([np.zeros(2), 0.9 * coarse[:-2]]) + 1e-3, rate_hz


@pytest.fixture(scope="module", params=list(PACKAGES_SAY))
def worn_clip(request):
    return request.param, worn(CLIPS / f"{request.param}.flac")


COMPILED = ("f0_error_cents", "voicing_error", "visqol")  # a first call compiles for 10 to 30 s


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n in COMPILED else []) for n in METRICS]
)
def test_metrics_of_real_speech_are_those_of_the_packages(worn_clip, name):
    if name in PACKAGES:
        pytest.importorskip(PACKAGES[name], reason="it comes with the [eval] extra")
    clip, (reference, estimate, rate_hz) = worn_clip
    found = METRICS[name](reference, estimate, rate_hz)
    assert found == pytest.approx(PACKAGES_SAY[clip][name], rel=1e-3, abs=2e-5)


def test_the_default_leaves_out_what_is_slow(tone, noise):
    names = [*measure(tone, mixed(tone, noise, 20.0), RATE_HZ).values]
    assert set(FAST) >= set(names)
    assert {"visqol", "f0_error_cents", "voicing_error", "pesq_nb"} == METRICS.keys() - set(FAST)


def test_metrics_are_chosen_by_group_and_name_in_one_order():
    assert choose_metrics(["all"]) == tuple(METRICS)
    assert choose_metrics(["fast"]) == FAST
    assert choose_metrics(["visqol", "snr_db"]) == ("snr_db", "visqol")
    assert choose_metrics(["visqol", "fast"]) == tuple(n for n in METRICS if n in {*FAST, "visqol"})
    with pytest.raises(ConfigError, match="no metric 'visqal'; did you mean visqol"):
        choose_metrics(["visqal"])


@pytest.mark.parametrize("lag", [-700, -1, 0, 3, 1600])
def test_a_delay_is_found_and_taken_back(noise, lag):
    late = np.concatenate([np.zeros(lag), noise])[: noise.size] if lag >= 0 else noise[-lag:]
    assert delay_samples(noise, 0.3 * late, RATE_HZ) == lag
    restored = aligned(noise, late, lag)
    assert restored.shape == noise.shape
    inside = slice(max(0, -lag), noise.size - max(0, lag))
    np.testing.assert_array_equal(restored[inside], noise[inside])


def test_delay_is_read_in_ms_and_undefined_in_silence(noise):
    assert metrics.delay_ms(noise, np.roll(noise, 32), RATE_HZ) == 2.0
    assert math.isnan(metrics.delay_ms(noise, np.zeros_like(noise), RATE_HZ))


@pytest.mark.parametrize("name", ["lsd_db", "mel_distance_db"])
def test_spectral_distances_are_zero_on_identity_and_grow_with_noise(tone, noise, name):
    if name in PACKAGES:
        pytest.importorskip(PACKAGES[name])
    distances = [METRICS[name](tone, mixed(tone, noise, snr), RATE_HZ) for snr in (40.0, 20.0, 0.0)]
    assert METRICS[name](tone, tone, RATE_HZ) == 0.0
    assert 0.0 < distances[0] < distances[1] < distances[2]


def test_a_gain_of_6_db_is_6_db_of_log_spectral_distance(noise):
    assert metrics.lsd_db(noise, 10 ** (6 / 20) * noise, RATE_HZ) == pytest.approx(6.0, rel=1e-3)
    pytest.importorskip("librosa")
    assert metrics.mel_distance_db(noise, 10 ** (6 / 20) * noise, RATE_HZ) == pytest.approx(6.0, rel=1e-3)


@pytest.mark.slow
def test_a_transposed_voice_has_the_pitch_error_of_the_interval():
    pytest.importorskip("librosa")
    t = np.arange(RATE_HZ) / RATE_HZ
    low, high = (0.1 * sum(np.sin(2 * np.pi * f * k * t) / k for k in range(1, 8)) for f in (120.0, 134.695))
    assert metrics.f0_error_cents(low, high, RATE_HZ) == pytest.approx(200.0, abs=15.0)
    assert metrics.voicing_error(low, high, RATE_HZ) < 0.05
    silenced = np.where(t < 0.5, low, 1e-4 * np.random.default_rng(0).standard_normal(t.size))
    assert metrics.voicing_error(low, silenced, RATE_HZ) == pytest.approx(0.5, abs=0.1)


def test_estoi_is_the_same_every_time_and_leaves_numpys_generator_alone(tone, noise):
    pytest.importorskip("pystoi")
    estimate = mixed(tone, noise, 5.0)
    np.random.seed(3)
    first, after = metrics.estoi(tone, estimate, RATE_HZ), np.random.random()
    assert metrics.estoi(tone, estimate, RATE_HZ) == first
    np.random.seed(3)
    assert np.random.random() == after


def test_a_late_estimate_is_measured_as_if_it_were_in_time(tone, noise):
    late = np.concatenate([np.zeros(160), mixed(tone, noise, 20.0)])
    measured = metrics.measure_aligned(tone, late, RATE_HZ, ["snr_db", "delay_ms"])
    assert measured.values == {"snr_db": pytest.approx(20.0), "delay_ms": 10.0}
    silent = metrics.measure_aligned(tone, np.zeros(5), RATE_HZ, ["snr_db", "delay_ms"]).values
    assert silent["snr_db"] == 0.0
    assert math.isnan(silent["delay_ms"])
