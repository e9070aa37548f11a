"""What several test files share: a codec so small that a file takes milliseconds, and sounds made in code."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import settings

from telucodec.audio import read_audio
from telucodec.config import ModelConfig, QuantizerConfig
from telucodec.model.codec import Codec, build_codec, load_codec, save_codec
from telucodec.pipeline import open_codec

settings.register_profile("any machine", deadline=None)  # which may be busy with other tests
settings.load_profile("any machine")

CLIPS = Path(__file__).parents[1] / "data" / "clips"

TINY = ModelConfig(
    width=8,
    fine_width=8,
    n_encoder_units=1,
    n_decoder_units=1,
    n_fine_units=1,
    latent_dim=16,
    quantizer=QuantizerConfig(n_codebooks=4),
)


def build_tiny(seed: int) -> Codec:
    """A codec with random weights: 4 stages of 0.5 kbps, 16 kHz, hop 320."""
    torch.manual_seed(seed)
    codec = build_codec(TINY)
    with torch.no_grad():  # codebooks may start at zero; random ones make the codes differ
        for name, value in codec.state_dict().items():
            if "codebook" in name and value.is_floating_point() and value.ndim > 1:
                value.copy_(torch.randn_like(value))
    return codec


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory) -> Path:
    """Weights as `telucodec train` leaves them, for ``--model``."""
    folder = tmp_path_factory.mktemp("model")
    save_codec(build_tiny(seed=0), folder)
    return folder


@pytest.fixture(scope="session")
def other_model_folder(tmp_path_factory) -> Path:
    """Weights of the same shape that are not those of `model_folder`."""
    folder = tmp_path_factory.mktemp("other")
    save_codec(build_tiny(seed=1), folder)
    return folder


@pytest.fixture(scope="session")
def codec(model_folder) -> Codec:
    """The codec of `model_folder`, ready to encode and decode."""
    return load_codec(model_folder)


@pytest.fixture(scope="module")
def shipped() -> Codec:
    """The codec of `speech-16k`, ready to encode and decode."""
    return open_codec("speech-16k", device="cpu")


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    """Three seconds of a Telugu speaker who was not trained on, 16 kHz, ``[T]``."""
    return read_audio(CLIPS / "te-cv-42973999.flac", 16_000)[0][0].numpy()


@pytest.fixture
def write_noise():
    """Write a seeded noise file: ``write_noise(path, n_samples, rate_hz=16_000, n_channels=1)``."""

    def write(path: Path, n_samples: int, *, rate_hz: int = 16_000, n_channels: int = 1) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(n_samples).uniform(-0.3, 0.3, (n_samples, n_channels))
        soundfile.write(path, noise, rate_hz, subtype="PCM_16")
        return path

    return write
