"""What is trained behind the codes: codes, tables and streams of the weights it started from stay valid."""

import dataclasses
from types import SimpleNamespace

import pytest
import soundfile
import torch
from test_training import CONFIG, RATE_HZ, RUNS, Watcher, train_run, voiced, with_update

from telucodec.config import load_config
from telucodec.errors import ConfigError, ModelError
from telucodec.model.codec import load_codec
from telucodec.prior.network import NETWORK
from telucodec.streaming import StreamDecoder, StreamEncoder
from telucodec.train.origin import KEPT, copy_tables, keep_origin
from telucodec.train.resume import resumed_settings

CLIP = voiced()


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Four speakers, one clip of 0.8 s each."""
    folder = tmp_path_factory.mktemp("recordings")
    for speaker in range(4):
        wav = voiced(6400, pitch_hz=100 + 20 * speaker).flatten().numpy()
        soundfile.write(folder / f"s{speaker}-1.wav", wav, RATE_HZ, subtype="PCM_16")
    return folder


@pytest.fixture(autouse=True)
def _quick(monkeypatch, tmp_path_factory):
    monkeypatch.setattr("telucodec.train.assembly.N_INIT_VECTORS", 200)
    monkeypatch.setenv("TELUCODEC_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def first(recordings, tmp_path):
    """A function of the codebook update: the weights of a short run of everything."""

    def make(update):
        return train_run(with_update(update), recordings, tmp_path / "first", Watcher()).weights

    return make


def beside(folder):
    """What codes are coded with, by file."""
    return {name: (folder / name).read_bytes() for name in KEPT if (folder / name).is_file()}


def test_the_network_of_codes_is_kept_with_the_tables(tmp_path):
    old, run, new = (tmp_path / name for name in ("old", "run", "new"))
    for folder in (old, run, new):
        folder.mkdir()
    for name in KEPT:
        (old / name).write_text(name)
    keep_origin(run, SimpleNamespace(folder=old, model_id=bytes(8)))
    copy_tables(run, new)
    assert beside(new) == beside(old)
    assert NETWORK in beside(new)


@RUNS
def test_codes_tables_and_id_stay_and_the_decoder_learns(recordings, tmp_path, first, update):
    old_folder = first(update)
    plan = with_update(update, parts="decoder", seed=5)
    new_folder = train_run(plan, recordings, tmp_path / "second", Watcher(), init_from=old_folder).weights
    old, new = load_codec(old_folder), load_codec(new_folder)
    assert new.model_id == old.model_id
    assert new.weights_id != old.weights_id, "refined streams are for one decoder"
    assert beside(new_folder) == beside(old_folder)
    changed = {n for n, t in new.state_dict().items() if not torch.equal(t, old.state_dict()[n])}
    assert changed
    assert all(name.startswith("decoder.") for name in changed)


def test_streams_of_either_decode_with_the_other(recordings, tmp_path, first):
    old_folder = first("ema")
    plan = with_update("ema", parts="decoder", seed=5)
    new_folder = train_run(plan, recordings, tmp_path / "second", Watcher(), init_from=old_folder).weights
    old, new = load_codec(old_folder), load_codec(new_folder)
    streams = []
    for codec in (old, new):
        encoder = StreamEncoder(codec)
        streams.append(encoder.push(CLIP.flatten()) + encoder.flush())
    assert streams[0] == streams[1]
    for codec in (old, new):
        decoder = StreamDecoder(codec)
        n_samples = len(decoder.push(streams[0])) + len(decoder.flush())
        assert n_samples == CLIP.numel()
        assert decoder.damages == []


def test_a_decoder_alone_is_resumed_with_its_origin(recordings, tmp_path, first):
    old_folder = first("ema")
    plan = with_update("ema", parts="decoder", seed=5, log_every=1)
    train_run(plan, recordings, tmp_path / "second", Watcher(at=4), init_from=old_folder)
    resumed = train_run(plan, recordings, tmp_path / "second", Watcher(), resume=True)
    assert resumed.step == CONFIG.train.n_steps
    assert load_codec(resumed.weights).model_id == load_codec(old_folder).model_id


def test_a_decoder_of_nothing_is_refused(recordings, tmp_path):
    with pytest.raises(ConfigError, match="--init-from WEIGHTS"):
        train_run(with_update("ema", parts="decoder"), recordings, tmp_path / "run", Watcher())


def with_enhancer(width=8):
    """A plan for the enhancer alone."""
    plan = with_update("ema")
    model = dataclasses.replace(plan.model, enhancer_width=width, n_enhancer_units=1)
    train = dataclasses.replace(plan.train, parts="enhancer", seed=5)
    return dataclasses.replace(plan, model=model, train=train)


def test_an_enhancer_learns_alone_behind_weights_that_had_none(recordings, tmp_path, first):
    old_folder = first("ema")
    run = tmp_path / "second"
    train_run(with_enhancer(), recordings, run, Watcher(at=4), init_from=old_folder)
    new_folder = train_run(with_enhancer(), recordings, run, Watcher(), resume=True).weights
    old, new = load_codec(old_folder).state_dict(), load_codec(new_folder).state_dict()
    assert load_codec(new_folder).model_id == load_codec(old_folder).model_id
    assert beside(new_folder) == beside(old_folder)
    assert all(torch.equal(new[name], tensor) for name, tensor in old.items())
    learned = {name for name in new if name not in old}
    assert all(name.startswith("enhancer.") for name in learned)
    assert new["enhancer.weights_out.weight"].abs().max() > 0, "it began at zero"


@pytest.mark.slow
def test_an_enhancer_goes_on_from_one(recordings, tmp_path, first):
    once = train_run(with_enhancer(), recordings, tmp_path / "a", Watcher(), init_from=first("ema")).weights
    plan = with_enhancer()
    plan = dataclasses.replace(plan, optim=dataclasses.replace(plan.optim, lr=1e-9))
    twice = train_run(plan, recordings, tmp_path / "b", Watcher(), init_from=once).weights
    old, new = load_codec(once).state_dict(), load_codec(twice).state_dict()
    for name, tensor in old.items():
        torch.testing.assert_close(new[name], tensor, rtol=0, atol=1e-3)
    assert new["enhancer.weights_out.weight"].abs().max() > 0


def test_a_plan_that_names_no_enhancer_takes_over_that_of_the_weights(recordings, tmp_path, first):
    once = train_run(with_enhancer(), recordings, tmp_path / "a", Watcher(), init_from=first("ema")).weights
    run, plan = tmp_path / "b", with_update("ema", parts="decoder", seed=5)
    train_run(plan, recordings, run, Watcher(at=4), init_from=once)
    settings = load_config(None, resumed_settings(run))
    twice = train_run(settings, recordings, run, Watcher(), resume=True).weights
    old, new = load_codec(once).state_dict(), load_codec(twice).state_dict()
    changed = {name.split(".")[0] for name in new if not torch.equal(new[name], old[name])}
    assert changed == {"decoder", "enhancer"}


def test_an_enhancer_of_another_shape_is_refused(recordings, tmp_path, first):
    once = train_run(with_enhancer(), recordings, tmp_path / "a", Watcher(), init_from=first("ema")).weights
    with pytest.raises(ModelError, match=r"(?s)does not fit the model settings.*enhancer\."):
        train_run(with_enhancer(width=16), recordings, tmp_path / "b", Watcher(), init_from=once)


def test_an_enhancer_of_nothing_is_refused(recordings, tmp_path, first):
    with pytest.raises(ConfigError, match=r'train.parts is "enhancer".*--init-from WEIGHTS'):
        train_run(with_enhancer(), recordings, tmp_path / "run", Watcher())
    with pytest.raises(ConfigError, match=r"enhancer_width is 0; expected .*enhancer_width=96"):
        train_run(with_enhancer(width=0), recordings, tmp_path / "run", Watcher(), init_from=first("ema"))
