"""The preflight: it names what it is shown, lets the healthy pass, and leaves no trace in the run."""

# ruff: noqa: F811 - fixtures of test_training are taken by name

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from test_training import CONFIG, Watcher, _quick, equal, speech, with_update  # noqa: F401 - fixtures

from telucodec.config import Config, FaultConfig, ModelConfig, config_from_dict
from telucodec.errors import ConfigError
from telucodec.train.assembly import assemble, batches_of, initialize_codebooks
from telucodec.train.budget import Budget
from telucodec.train.checkpoint import checkpoints, load_checkpoint
from telucodec.train.data import Corpus
from telucodec.train.faults import CLASSES, FAULTS, WEIGHTS, spoil_corpus
from telucodec.train.passage import gradient_gain
from telucodec.train.preflight import trial
from telucodec.train.preflight.network import check_network
from telucodec.train.preflight.recordings import check_recordings, look_at
from telucodec.train.preflight.size import check_memory, check_parameters, parameter_table
from telucodec.train.run import examine_before, train_run

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import museum

RATE_HZ = 16_000


@pytest.fixture(scope="module")
def corpus():
    """Six clips of two seconds that look like speech to the checks: noise bursts with pauses."""
    generator = np.random.default_rng(0)
    clips = []
    for level in np.linspace(0.1, 0.15, 6):
        envelope = np.repeat(generator.random(20) > 0.25, RATE_HZ // 10)
        clips.append(level * envelope * generator.standard_normal(2 * RATE_HZ))
    samples = (np.concatenate(clips) * 32_768).clip(-32_768, 32_767).astype(np.int16)
    levels = [10 * np.log10(np.square(clip).mean()) for clip in clips]
    starts = np.arange(7) * 2 * RATE_HZ
    return Corpus(RATE_HZ, tuple(f"{n}.wav" for n in range(6)), starts, np.array(levels), samples)


def small(settings):
    return config_from_dict(Config, museum.merged(museum.SMALL, settings))


def findings(config, corpus):
    """What the checks of the network say; no trial."""
    assembly = assemble(config)
    batches = batches_of(config, corpus)
    initialize_codebooks(assembly, batches, config, n_vectors=1000, n_iterations=1)
    return [d.id for d in check_network(assembly, config, [batches[0], batches[1]])[0]]


@pytest.mark.parametrize("update", ["ema", "gradient"])
def test_a_healthy_network_passes_every_check(corpus, update):
    assert findings(small({"model": {"quantizer": {"codebook_update": update}}}), corpus) == []


OF_THE_NETWORK = [
    name
    for name, (_, table) in museum.exhibits().items()
    if table.get("fault", {}).get("name") in {*CLASSES, *WEIGHTS}
]


@pytest.mark.parametrize("name", OF_THE_NETWORK)
def test_each_fault_of_the_network_is_named_first(corpus, name):
    expected, settings = museum.exhibits()[name]
    assert findings(small(settings), corpus)[0] in expected


@pytest.mark.parametrize(
    ("fault", "gain"),
    [("", 1.0), ("straight-through-missing", 0.0), ("straight-through-per-stage", 6.0)],
)
@pytest.mark.parametrize("update", ["ema", "gradient"])
def test_the_gradient_passed_on_is_one_or_the_fault_shows(fault, gain, update):
    changes = {"model": {"quantizer": {"codebook_update": update}}, "fault": {"name": fault}}
    quantizer = assemble(small(changes)).trainee.codec.quantizer
    assert gradient_gain(quantizer, 6) == pytest.approx(gain, abs=1e-6)
    assert all(parameter.grad is None for parameter in quantizer.parameters())


def test_a_clipping_limit_that_starves_the_optimizer_is_named(corpus):
    expected, settings = museum.exhibits()["clipping-always"]
    assert findings(small(settings), corpus) == expected


def test_every_fault_is_shown_in_the_museum_and_nothing_else_is_accepted():
    shown = {table["fault"]["name"] for _, table in museum.exhibits().values() if "fault" in table}
    assert shown == set(FAULTS)
    with pytest.raises(ConfigError, match=r"fault.name is 'gremlin'"):
        assemble(dataclasses.replace(CONFIG, fault=FaultConfig(name="gremlin")))


def test_healthy_recordings_raise_nothing_serious(corpus):
    found, lines = check_recordings(corpus)
    assert [d.id for d in found] == ["data-little"]
    assert "6 clips" in lines[0]


@pytest.mark.parametrize("name", ["dc-offset", "silent-data", "clipped-data", "upsampled-data"])
def test_each_fault_of_the_recordings_is_named(corpus, name):
    expected, _ = museum.exhibits()[name]
    found, _ = check_recordings(spoil_corpus(name, corpus))
    assert [d.id for d in found if not d.is_warning] == expected


def test_copies_are_named_and_a_few_bad_clips_only_warn(corpus):
    twice = dataclasses.replace(corpus.subset([0, 1, 2, 3, 4, 2]), names=corpus.names)
    assert "data-duplicates" in [d.id for d in check_recordings(twice)[0] if d.is_warning]
    one = np.copy(corpus.samples)
    one[: 2 * RATE_HZ] += 3000
    found = {d.id: d for d in check_recordings(dataclasses.replace(corpus, samples=one))[0]}
    assert found["dc-offset"].is_warning
    assert found["dc-offset"].evidence["the first"] == "0.wav"


def test_the_bandwidth_of_a_clip_is_where_its_energy_ends():
    noise = torch.randn(RATE_HZ, generator=torch.Generator().manual_seed(0))
    for share in (0.25, 0.5, 0.75):
        spectrum = torch.fft.rfft(noise)
        spectrum[round(share * len(spectrum)) :] = 0
        wav = 0.1 * torch.fft.irfft(spectrum, n=RATE_HZ)
        assert look_at("x", wav.numpy(), RATE_HZ).bandwidth == pytest.approx(share, abs=0.02)


@pytest.mark.parametrize(("rate", "n_steps", "ids"), [(3e-4, 24, []), (0.0, 6, ["cannot-overfit"])])
def test_one_batch_has_to_be_learned(corpus, monkeypatch, rate, n_steps, ids):
    monkeypatch.setattr(trial, "RATE", rate)
    settings = {"model": {"quantizer": {"codebook_update": "gradient"}}}
    config = small(settings | {"doctor": {"n_trial_steps": n_steps}})
    assembly, batches = assemble(config), batches_of(config, corpus)
    initialize_codebooks(assembly, batches, config, n_vectors=1000, n_iterations=1)
    found, lines = trial.overfit(assembly, config, batches[0])
    assert [diagnosis.id for diagnosis in found] == ids
    assert lines[0].startswith("one batch: SNR ")


def test_a_parameter_bomb_is_refused_before_it_is_built():
    config = Config(model=ModelConfig(width=24_000))
    found, lines = check_parameters(config)
    assert found[0].id == "parameter-bomb"
    assert found[0].evidence["largest module"] == "decoder.units"
    assert lines[0] == "parameters: 13930.05 M"
    assert check_parameters(Config())[0] == []
    assert sum(parameter_table(Config()).values()) == pytest.approx(7.84e6, rel=2e-3)


def test_memory_grows_with_the_batch_until_it_is_refused():
    config = small({})
    assembly = assemble(config)
    assert check_memory(assembly, config)[0] == []
    found, _ = check_memory(
        assembly, small({"train": {"batch_size": 4096}, "doctor": {"max_memory_gb": 1.0}})
    )
    assert found[0].id == "memory-over-budget"


def quick(config):
    """Settings that let a run of milliseconds pass: synthetic vowels are narrow, and few."""
    ignored = ("data-band-limited", "cannot-overfit", "learning-rate-high")
    return dataclasses.replace(
        config, doctor=dataclasses.replace(config.doctor, n_trial_steps=3, ignore=ignored)
    )


@pytest.mark.slow
def test_a_run_after_the_preflight_equals_one_without(speech, tmp_path):
    states, weights = [], []
    for skip in (False, True):
        torch.manual_seed(5 + skip)
        watcher = Watcher()
        outcome = train_run(
            quick(with_update("ema")), speech, tmp_path / str(skip), watcher, skip_preflight=skip
        )
        assert any(line.startswith("preflight skipped") for line in watcher.lines) is skip
        states.append(load_checkpoint(checkpoints(tmp_path / str(skip) / "checkpoints")[-1]))
        weights.append((outcome.weights / "model.safetensors").read_bytes())
    equal(*states)
    assert weights[0] == weights[1]


def test_the_preflight_leaves_random_numbers_alone_and_estimates_time_and_cost(speech):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    watcher = Watcher()
    found = examine_before(quick(CONFIG), speech, watcher, budget=Budget(price_per_hour=1.0))
    assert torch.equal(torch.rand(3), expected)
    assert not found.serious
    assert any("6 steps in 0.00 h, cost about" in line for line in watcher.lines)


def test_a_fresh_enhancer_is_no_finding(speech):
    model = dataclasses.replace(CONFIG.model, enhancer_width=8, n_enhancer_units=1)
    found = examine_before(quick(dataclasses.replace(CONFIG, model=model)), speech, Watcher())
    assert not found.serious


def test_a_refused_run_leaves_a_diagnosis_and_no_checkpoint(speech, tmp_path):
    config = dataclasses.replace(quick(CONFIG), fault=FaultConfig(name="straight-through-missing"))
    outcome = train_run(config, speech, tmp_path / "run", Watcher())
    assert (outcome.weights, outcome.step, outcome.diagnoses[0].id) == (None, 0, "straight-through")
    assert "Refused before the first step" in (tmp_path / "run" / "diagnosis.md").read_text()
    assert checkpoints(tmp_path / "run" / "checkpoints") == []
