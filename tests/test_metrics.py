"""Metrics on signals whose answer is known, and on signals that have none."""

import math
import sys

import numpy as np
import pytest

from telucodec.evaluate import metrics
from telucodec.evaluate.metrics import METRICS, MetricUnavailable, measure

RATE_HZ = 16_000
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
    measured = measure(noise[:n_samples], 0.5 * noise[:n_samples], RATE_HZ)
    assert measured.values.keys() | measured.missing.keys() == METRICS.keys()
    assert not measured.values.keys() & measured.missing.keys()
    assert {"pesq_wb", "stoi"} <= measured.missing.keys()
    assert all(measured.missing.values())
    if not n_samples:
        assert all(math.isnan(value) for value in measured.values.values())


@pytest.mark.parametrize("name", list(METRICS))
def test_signals_of_different_length_are_refused(tone, name):
    with pytest.raises(ValueError, match="equally long"):
        METRICS[name](tone, tone[1:], RATE_HZ)


@pytest.mark.parametrize(("name", "module"), [("pesq_wb", "pesq"), ("stoi", "pystoi")])
def test_a_missing_package_names_the_extra(tone, monkeypatch, name, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MetricUnavailable, match=r"\.\[eval\]"):
        METRICS[name](tone, tone, RATE_HZ)
    assert name in measure(tone, tone, RATE_HZ).missing


@pytest.mark.parametrize(("name", "module"), [("pesq_wb", "pesq"), ("stoi", "pystoi")])
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
