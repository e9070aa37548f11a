"""Settings: typed, checked, and refused by name when they are unknown."""

import dataclasses
import json
from pathlib import Path

import pytest

from telucodec.config import (
    Config,
    DataConfig,
    ModelConfig,
    QuantizerConfig,
    TrainConfig,
    config_from_dict,
    config_to_dict,
    load_config,
)
from telucodec.errors import ConfigError

SHIPPED = sorted((Path(__file__).parents[1] / "configs").glob("*.toml"))


def test_no_file_gives_the_defaults():
    assert load_config() == Config()


def test_the_default_rates_are_the_documented_ones():
    model = ModelConfig()
    assert (model.frame_rate_hz, model.codeword_bits, model.stage_kbps) == (50.0, 10, 0.5)
    assert (model.delay, model.latency_ms) == (320, 40.0)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_configuration_loads(path):
    assert isinstance(load_config(path), Config)


def test_the_recipe_of_the_notes_is_to_the_letter():
    config = load_config(next(path for path in SHIPPED if path.stem == "notes-stable"))
    loss, optim = config.loss, config.optim
    assert (loss.l1, loss.mse, loss.rms, loss.stft, loss.vq) == (1.0, 1.0, 1.0, 0.01, 5.0)
    assert (loss.mel, loss.spectrum) == (0.0, 0.0)
    assert (optim.lr, optim.max_grad_norm, config.train.batch_size) == (1e-5, 1.0, 16)
    assert config.model.quantizer.codebook_update == "gradient"
    assert config.model.quantizer.commitment_weight == 0.25


def test_a_file_is_read_and_an_override_wins_over_it(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text("[optim]\nlr = 1e-4\nbeta1 = 0.5\n[model.quantizer]\nn_codebooks = 3\n")
    config = load_config(path, ["optim.lr=3e-4", "train.device=cpu", "train.validation_kbps=[2.5, 6]"])
    assert (config.optim.lr, config.optim.beta1) == (3e-4, 0.5)
    assert config.model.quantizer.n_codebooks == 3
    assert config.train.device == "cpu"
    assert config.train.validation_kbps == (2.5, 6.0)
    assert config.data == DataConfig()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.lrr=1", r"unknown setting optim\.lrr; did you mean optim\.lr\?"),
        ("optin.lr=1", r"unknown setting optin; did you mean optim\?"),
        ("model.quantizer.n_codebook=4", r"did you mean model\.quantizer\.n_codebooks\?"),
        ("zzz=1", "unknown setting zzz; known settings: model, data"),
        ("optim.lr", r"not of the form table\.name=value"),
        ("=3", r"not of the form table\.name=value"),
        ("optim.lr=fast", r"optim\.lr is 'fast', a str; expected float"),
        ("optim.lr=nan", r"optim\.lr is nan; expected a finite number"),
        ("train.batch_size=1.5", r"train\.batch_size is 1\.5, a float; expected int"),
        ("train.batch_size=true", r"train\.batch_size is True, a bool; expected int"),
        ("data.is_level_random=1", r"data\.is_level_random is 1, a int; expected bool"),
        ("train.validation_kbps=3", r"train\.validation_kbps is 3; expected a list"),
        ("model.quantizer=4", r"model\.quantizer is 4; expected a table"),
        ("model.quantizer.codebook_size=1000", "quantizer.codebook_size is 1000; expected a power of two"),
        ("model.fine_hop=7", "model.fine_hop is 7; expected an even divisor"),
        ("train.precision=fp8", "train.precision is 'fp8'; expected one of"),
        ("train.batch_size=0", "train.batch_size is 0; expected at least 1"),
    ],
)
def test_what_cannot_be_set_is_refused_by_name(override, message):
    with pytest.raises(ConfigError, match=message):
        load_config(overrides=[override])


def test_an_override_below_a_value_is_refused():
    with pytest.raises(ConfigError, match="lr is a value, not a table"):
        load_config(overrides=["optim.lr=1", "optim.lr.x=2"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[optim\n", "is not valid TOML"),
        (b"\xff", "is not valid TOML"),
        (None, "cannot read the configuration"),
    ],
    ids=["broken", "binary", "missing"],
)
def test_a_file_that_cannot_be_read_is_refused_by_name(tmp_path, content, message):
    path = tmp_path / "a.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("cls", "changes"),
    [
        (QuantizerConfig, {"n_codebooks": 0}),
        (QuantizerConfig, {"codebook_size": 1}),
        (QuantizerConfig, {"codebook_update": "magic"}),
        (QuantizerConfig, {"dropout": 1.1}),
        (QuantizerConfig, {"ema_decay": 1.0}),
        (ModelConfig, {"sample_rate_hz": 4000}),
        (ModelConfig, {"hop": 321}),
        (ModelConfig, {"fine_hop": 320}),
        (ModelConfig, {"latent_dim": 321}),
        (ModelConfig, {"companding": 0.0}),
        (DataConfig, {"crop_s": 0.0}),
        (DataConfig, {"validation_share": 1.5}),
        (DataConfig, {"noise_chance": -0.1}),
        (TrainConfig, {"n_steps": 0}),
        (TrainConfig, {"keep_last": 0}),
        (TrainConfig, {"log_every": 0}),
        (TrainConfig, {"validate_every": 0}),
        (TrainConfig, {"save_every": 0}),
        (TrainConfig, {"validation_kbps": ()}),
        (TrainConfig, {"best_metric": "mel@7"}),
        (TrainConfig, {"best_metric": "loudness@6"}),
    ],
    ids=str,
)
def test_impossible_values_are_refused(cls, changes):
    (name,) = changes
    with pytest.raises(ConfigError, match=name):
        cls(**changes)


def test_a_configuration_survives_json():
    config = load_config(overrides=["train.validation_kbps=[1, 6]", "model.quantizer.n_codebooks=2"])
    assert config_from_dict(Config, json.loads(json.dumps(config_to_dict(config)))) == config


def test_settings_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().optim.lr = 1.0
