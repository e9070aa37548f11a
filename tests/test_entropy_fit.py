"""Tables for given weights: fitted on clips of a corpus, written beside them, and good for their codes."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import TINY
from typer.testing import CliRunner

from telucodec.bitstream.coder import N_LEVEL_STAGES
from telucodec.bitstream.container import summarize
from telucodec.cli import app
from telucodec.coders import RATES, measured_rates
from telucodec.config import DataConfig, QuantizerConfig
from telucodec.evaluate.waveform import snr_db
from telucodec.ladders import APART, FIRST_STEP, N_STEPS, Frames
from telucodec.model.codec import build_codec, load_codec, save_codec
from telucodec.model.levels import N_POINTS
from telucodec.pipeline import open_codec
from telucodec.prior.coder import EntropyCoder
from telucodec.prior.depths import cut, depths_of
from telucodec.prior.layered import N_BASE, REFINEMENT_TABLES
from telucodec.prior.network import NETWORK
from telucodec.prior.tables import TABLES, Tables
from telucodec.refining import Refiner
from telucodec.streaming import StreamDecoder, StreamEncoder
from telucodec.train import entropy
from telucodec.train.data import load_corpus
from telucodec.train.entropy import SPEEDS, encoded_clips, ending_early, refinement_codes


@pytest.fixture
def audio(tmp_path, write_noise, monkeypatch):
    monkeypatch.setenv("TELUCODEC_CACHE", str(tmp_path / "cache"))
    for index in range(3):
        write_noise(tmp_path / "audio" / f"{index}.wav", 16_000 + index)
    return tmp_path / "audio"


@pytest.fixture
def weights(tmp_path):
    """A codec of 3 stages of 32 codewords, as `train` leaves it."""
    torch.manual_seed(0)
    codec = build_codec(replace(TINY, quantizer=QuantizerConfig(n_codebooks=3, codebook_size=32)))
    save_codec(codec, tmp_path / "model")
    return tmp_path / "model"


def test_the_command_writes_tables_that_code_what_the_codec_encodes(weights, audio):
    result = CliRunner().invoke(app, ["fit-entropy", "--data-dir", str(audio), "--model", str(weights)])
    assert result.exit_code == 0, result.output
    coder = EntropyCoder.load(weights)
    assert coder.tables_hash.hex() in result.stdout
    corpus = load_corpus(audio, 16_000, DataConfig())
    packet = encoded_clips(load_codec(weights), corpus, max_minutes=1, seed=0)[0].codes[:, :25]
    data = coder.encode(packet)
    np.testing.assert_array_equal(coder.decode(data, *packet.shape), packet)
    assert len(data) < packet.size * 5 / 8
    left = measured_rates(weights).left
    weighing = open_codec(str(weights), device="cpu")
    errors = [clip.errors for clip in encoded_clips(weighing, corpus, max_minutes=1, seed=0)]
    energies = np.concatenate(errors, axis=1).sum(axis=1)  # too few clips to hold some out
    np.testing.assert_allclose(left, energies / energies[0], rtol=1e-3)
    refinement = Tables.load(weights / REFINEMENT_TABLES)
    assert (refinement.symbols == np.arange(256)).all()  # of a lattice
    assert (Tables.load(weights / TABLES).symbols != np.arange(32)).any()
    assert not (weights / NETWORK).exists(), "of three seconds"


def forbidden_for(forbidden, save):
    """``save``, which never writes ``forbidden``: another library would write other bytes."""

    def checked(tables, path):
        assert path != forbidden
        save(tables, path)

    return checked


def test_tables_of_stages_can_be_kept_while_the_rest_is_fitted_again(weights, audio, monkeypatch):
    command = ["fit-entropy", "--data-dir", str(audio), "--model", str(weights)]
    assert CliRunner().invoke(app, [*command, "--keep-tables"]).exit_code == 1, "there are none yet"
    CliRunner().invoke(app, command)
    before = {path.name: path.read_bytes() for path in weights.iterdir()}
    rates = json.loads(before[RATES])
    assert len(rates["search_weights"]) == TINY.latent_dim
    assert open_codec(str(weights), device="cpu").quantizer.search_scale.std() > 0
    (weights / RATES).write_text(json.dumps({"kbps": [9.0, 9.0, 9.0]}), encoding="utf-8")
    (weights / REFINEMENT_TABLES).write_bytes(b"")
    monkeypatch.setattr(Tables, "save", forbidden_for(weights / TABLES, Tables.save))
    result = CliRunner().invoke(app, [*command, "--keep-tables"])
    assert result.exit_code == 0, result.output
    assert {path.name: path.read_bytes() for path in weights.iterdir()} == before, "the same again"
    assert measured_rates(weights).kbps == rates["kbps"], "not those that were read before"


@pytest.mark.parametrize("worse", ["fit_network", "fit_tables"])
def test_a_network_is_kept_only_if_codes_take_fewer_bytes_with_it(weights, audio, monkeypatch, worse):
    fit = getattr(entropy, worse)
    monkeypatch.setattr(entropy, "FEWEST_FRAMES", 100)

    def spoiled(*arguments, **options):
        """What is fitted, but for scores that prefer one codeword in a thousand of its equals."""
        if worse == "fit_network":
            even, uneven = arguments[:2]
            lengths = [[codes.shape[1] for codes in clips] for clips in (even, uneven)]
            taught = 2 * [52, 51, 52, 58, 58, 58, 46, 46, 46]
            assert lengths == [[52, 51, 52], taught], "at three speeds, twice"
        found = fit(*arguments, **options)
        tables, *network = found if isinstance(found, tuple) else [found]
        bias = tables.bias.copy()
        bias[:, 0] += 10 << 16
        tables = replace(
            tables, bias=bias, fractions=np.full_like(tables.fractions, 16), basis=0 * tables.basis
        )
        return (tables, *network) if network else tables

    monkeypatch.setattr(entropy, worse, spoiled)
    (weights / NETWORK).write_bytes(b"of weights before these")
    result = CliRunner().invoke(app, ["fit-entropy", "--data-dir", str(audio), "--model", str(weights)])
    assert result.exit_code == 0, result.output
    assert (weights / NETWORK).is_file() == (worse == "fit_tables")
    assert EntropyCoder.load(weights).tables_hash.hex() in result.stdout


def test_refinements_are_counted_at_all_steps_that_files_may_take(weights, audio, monkeypatch):
    codec, corpus = load_codec(weights), load_corpus(audio, 16_000, DataConfig())
    steps, codes_at = set(), Refiner.codes_at

    def noted(refiner, left, step):
        steps.add(step)
        return codes_at(refiner, left, step)

    monkeypatch.setattr(Refiner, "codes_at", noted)
    for seed in range(20):
        packets = refinement_codes(
            codec, corpus, np.array([5.0, 10.0, 15.0]), [(1.0, 2.0), (0.1, 8.0)], max_minutes=1, seed=seed
        )
        levels = [codes[1 : 1 + N_LEVEL_STAGES] for codes in packets]
        assert all((codes[:, 0] >= N_POINTS).all() for codes in levels)
        changes = np.hstack([codes[:, 1:] for codes in levels])
        assert (changes > 0).any(axis=1).all(), "in the lowest bands, too"
    every = FIRST_STEP + APART * np.arange(N_STEPS)
    assert steps <= set(every.tolist())
    assert (min(steps), max(steps)) == (every[0], every[-1])


def test_no_more_clips_are_encoded_than_the_minutes_asked_for_at_any_speed(weights, audio):
    corpus = load_corpus(audio, 16_000, DataConfig())
    codec, options = load_codec(weights), {"max_minutes": 1.5 / 60, "seed": 0}
    assert [clip.codes.shape[1] for clip in encoded_clips(codec, corpus, **options)] == [52, 51]
    slower, faster = (encoded_clips(codec, corpus, speed=speed, **options) for speed in SPEEDS)
    assert [clip.codes.shape[1] for clip in slower + faster] == [58, 58, 46, 46]


def test_a_network_is_taught_frames_that_end_as_they_do_in_files_of_all_rates():
    generator = np.random.default_rng(0)
    left = 0.85 ** np.arange(25.0)[:, None]
    clips = [
        Frames(
            generator.integers(0, 1024, (24, 60)).astype(np.uint16),
            (left * generator.exponential(1.0, 60)).astype(np.float32),
        )
        for _ in range(60)
    ]
    found = ending_early(clips, 7.5 * np.arange(1, 25), seed=0)
    depths = [depths_of(codes) for codes in found]
    for clip, codes, deep in zip(clips, found, depths, strict=True):
        np.testing.assert_array_equal(codes, cut(clip.codes, deep))
    means = [deep.mean() for deep in depths]
    assert min(means) < 6
    assert max(means) > 18
    assert sum(deep.max() == N_BASE for deep in depths) > 5, "refined files have no more"


def test_files_of_new_weights_are_refined_with_the_tables_fitted_beside_the_others(weights, audio):
    CliRunner().invoke(app, ["fit-entropy", "--data-dir", str(audio), "--model", str(weights)])
    codec, wav = load_codec(weights), load_corpus(audio, 16_000, DataConfig()).clip(0).numpy()
    figures = []
    for kbps in (8.0, 24.0):
        encoder = StreamEncoder(codec, kbps=kbps, entropy="refined", is_held=True)
        data = encoder.push(wav) + encoder.flush()
        assert summarize(data).payload_kbps <= kbps
        decoder = StreamDecoder(codec)
        out = np.concatenate([decoder.push(data), decoder.flush()])
        assert (len(out), decoder.damages) == (len(wav), [])
        figures.append(snr_db(wav, out, 16_000))
    assert figures[1] > figures[0] + 0.3
