"""The codec: encoder, quantizer and decoder composed, and its weights on disk.

Shapes: B batch, T samples, L frames, D latent width, Q codebooks.
"""

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from telucodec.config import ModelConfig, config_from_dict, config_to_dict
from telucodec.errors import ConfigError, ModelError
from telucodec.files import replacing
from telucodec.frames import pad_to_frames, trim_delay
from telucodec.model.decoder import Decoder
from telucodec.model.encoder import Encoder
from telucodec.model.enhancer import Enhancer
from telucodec.model.lattice import LatticeQuantizer
from telucodec.model.quantizer import Quantized, ResidualVectorQuantizer

WEIGHTS, CONFIG = "model.safetensors", "config.json"
CODES_OF = "codes_of"  # in the metadata of weights that keep the encoder and codebooks of others: their id
OLD_SCALE = "decoder.output_scale"  # in weights of versions before 0.4, which had no logarithm of it
CHUNK_FRAMES = 500  # that the network sees at once, so that memory does not grow with the file


class Reconstruction(NamedTuple):
    """A training pass: the estimate, and how its latents were quantized."""

    wav: Tensor  # [B, 1, T], aligned with the input
    latents: Tensor  # [B, D, L], the quantizer's input
    quantized: Quantized


class Codec(nn.Module):
    """Waveform to codes and back. ``model_id`` names the weights a stream was made with."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.model_id = self.weights_id = bytes(8)  # the latter differs where only the decoder learned anew
        self.folder: Path | None = None  # where the weights came from, and what else lies beside them
        shape = {
            "hop": config.hop,
            "fine_hop": config.fine_hop,
            "width": config.width,
            "fine_width": config.fine_width,
            "n_fine_units": config.n_fine_units,
            "latent_dim": config.latent_dim,
        }
        self.encoder = Encoder(**shape, n_units=config.n_encoder_units, companding=config.companding)
        self.quantizer = _build_quantizer(config)
        self.decoder = Decoder(**shape, n_units=config.n_decoder_units, companding=config.companding)
        self.enhancer = _build_enhancer(config)

    def forward(
        self,
        wav: Tensor,
        n_active: Tensor | None = None,
        *,
        is_spread: bool = False,
        place: Tensor | None = None,
        is_plain: Tensor | None = None,
    ) -> Reconstruction:
        """``[B, 1, T]`` through the first ``n_active[b]`` stages (all if None) and back to ``[B, 1, T]``.

        With ``is_spread`` through so many on average, see `telucodec.model.quantizer.spread`. ``place`` is
        the decoder's. Items ``is_plain[b]`` do without the enhancer, as live packets do.
        """
        latents = self.encoder(pad_to_frames(wav, self.config.hop, self.config.delay))
        quantized = self.quantizer(latents, n_active, is_spread=is_spread)
        decoded = self.decoder(quantized.latents, place)
        if self.enhancer is not None:
            with torch.autocast(decoded.device.type, enabled=False):  # periods and spectra need float32
                enhanced = self.enhancer(decoded.float(), quantized.n_active)
            if is_plain is not None:  # weights of the enhancer get gradients even so, of zeros
                enhanced = torch.where(is_plain[:, None, None], decoded.float(), enhanced)
            decoded = enhanced
        estimate = trim_delay(decoded, wav.shape[-1], self.config.delay)
        return Reconstruction(estimate, latents, quantized)

    @torch.no_grad()
    def encode(self, wav: Tensor, *, n_codebooks: int | None = None) -> Tensor:
        """``[B, 1, T]`` -> codes ``[B, Q, L]`` int64, ``L = 0`` for ``T = 0``.

        Raises:
            ValueError: ``n_codebooks`` is not between 1 and the codec's number of stages.
        """
        return self.encode_with_errors(wav, n_codebooks=n_codebooks)[0]

    @torch.no_grad()
    def encode_with_errors(self, wav: Tensor, *, n_codebooks: int | None = None) -> tuple[Tensor, Tensor]:
        """`encode`, and the squared error of each frame's latents after 0 to Q stages, ``[B, Q + 1, L]``."""
        n_codebooks = self.config.quantizer.n_codebooks if n_codebooks is None else n_codebooks
        if not 1 <= n_codebooks <= self.config.quantizer.n_codebooks:
            raise ValueError(
                f"n_codebooks is {n_codebooks}; this codec has 1 to {self.config.quantizer.n_codebooks}"
            )
        wav = pad_to_frames(wav, self.config.hop, self.config.delay)
        codes = [torch.zeros(wav.shape[0], n_codebooks, 0, dtype=torch.int64, device=wav.device)]
        errors = [wav.new_zeros(wav.shape[0], n_codebooks + 1, 0)]
        state = self.encoder.initial_state(wav)
        for chunk in torch.split(wav, CHUNK_FRAMES * self.config.hop, dim=-1) if wav.shape[-1] else ():
            latents, state = self.encoder.step(chunk, state)
            more_codes, more_errors = self.quantizer.encode_with_errors(latents, n_codebooks)
            codes.append(more_codes)
            errors.append(more_errors)
        return torch.cat(codes, dim=-1), torch.cat(errors, dim=-1)

    @torch.no_grad()
    def decode(self, codes: Tensor, *, n_samples: int) -> Tensor:
        """Codes ``[B, Q', L]`` of the first Q' stages -> ``[B, 1, n_samples]`` inside [-1, 1].

        Raises:
            ValueError: too few frames for ``n_samples``.
        """
        like = self.decoder.output_scale.new_empty(codes.shape[0], 0, 0)
        wavs = [like.new_zeros(codes.shape[0], 1, 0)]
        state, delay = self.decoder.initial_state(like), self.config.delay
        if self.enhancer is not None:
            enhancing = self.enhancer.initial_state(like)
            delay += self.enhancer.delay
        for chunk in torch.split(codes, CHUNK_FRAMES, dim=-1) if codes.shape[-1] else ():
            wav, state = self.decoder.step(self.quantizer.decode(chunk), state)
            if self.enhancer is not None:
                wav, enhancing = self.enhancer.step(wav, enhancing, stages_of(chunk))
            wavs.append(wav)
        if self.enhancer is not None:
            wavs.append(self.enhancer.finish(enhancing))
        return trim_delay(torch.cat(wavs, dim=-1), n_samples, delay)


def _build_quantizer(config: ModelConfig) -> ResidualVectorQuantizer:
    shape, dim = config.quantizer, config.latent_dim
    if shape.sweeps:
        return LatticeQuantizer(sweeps=shape.sweeps, codebook_size=shape.codebook_size, latent_dim=dim)
    return ResidualVectorQuantizer(
        n_codebooks=shape.n_codebooks,
        codebook_size=shape.codebook_size,
        latent_dim=dim,
        update=shape.codebook_update,
        search_width=shape.search_width,
    )


def _build_enhancer(config: ModelConfig) -> Enhancer | None:
    if not config.enhancer_width:
        return None
    return Enhancer(
        hop=config.hop,
        sample_rate_hz=config.sample_rate_hz,
        n_codebooks=config.quantizer.n_codebooks,
        width=config.enhancer_width,
        n_units=config.n_enhancer_units,
    )


def stages_of(codes: Tensor) -> Tensor:
    """Stages of each frame ``[B, L]``, of codes ``[B, Q, L]`` that are negative where there are none."""
    return (codes >= 0).sum(dim=1)


def build_codec(config: ModelConfig) -> Codec:
    """A fresh codec: lapped-transform paths as identities, everything else random."""
    return Codec(config)


def linear_codec(config: ModelConfig) -> Codec:
    """A fresh codec whose deep paths are silent: the lapped transform and the quantizer are all there is."""
    codec = build_codec(config)
    for layer in (codec.encoder.deep_out, codec.decoder.coarse_out, codec.decoder.fine_out):
        for parameter in layer.parameters():
            torch.nn.init.zeros_(parameter)
    return codec


def count_parameters(codec: Codec) -> dict[str, int]:
    """Numbers that are stored, by part: networks and codebooks, whichever way those learn."""
    parts = {name: part for name, part in codec.named_children()}
    return {name: sum(t.numel() for t in part.state_dict().values()) for name, part in parts.items()}


def count_gmacs_per_s(codec: Codec) -> float:
    """Multiply-accumulates, in billions, to encode, quantize (every stage) and decode one second."""
    wav = torch.zeros(1, 1, codec.config.sample_rate_hz, device=codec.decoder.output_scale.device)
    codec.encode(wav)  # what is made ready for the first search is not counted
    of_bytes = {torch.ops.aten._int_mm: lambda left, right, out_shape: 2 * left[0] * left[1] * right[1]}
    with FlopCounterMode(display=False, custom_mapping=of_bytes) as counter:
        codec.decode(codec.encode(wav), n_samples=wav.shape[-1])
    return float(counter.get_total_flops()) / 2e9


def save_codec(
    codec: Codec, folder: Path, *, dtype: torch.dtype = torch.float16, codes_of: bytes | None = None
) -> None:
    """Write ``model.safetensors`` and ``config.json``, the folder that ``--model`` takes.

    Args:
        codes_of: id of the model whose encoder and codebooks these weights keep; its streams are theirs.
    """
    weights = {
        name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in codec.state_dict().items()
    }
    settings = json.dumps(config_to_dict(codec.config), indent=2) + "\n"
    with replacing(folder / WEIGHTS) as temporary:
        save_file(weights, temporary, metadata={CODES_OF: codes_of.hex()} if codes_of else None)
    with replacing(folder / CONFIG) as temporary:
        temporary.write_text(settings, encoding="utf-8")


def load_codec(folder: Path, *, device: str | torch.device = "cpu") -> Codec:
    """Read a folder written by `save_codec`; float32, ready to encode and decode.

    Raises:
        ModelError: a file is missing, unreadable, or does not fit the other.
    """
    for name in (WEIGHTS, CONFIG):
        if not (folder / name).is_file():
            raise ModelError(f"{folder} holds no {name}; give a folder written by `telucodec train`")
    try:
        config = config_from_dict(ModelConfig, json.loads((folder / CONFIG).read_text(encoding="utf-8")))
        with safe_open(folder / WEIGHTS, "pt") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no dict
            codes_of = bytes.fromhex((file.metadata() or {}).get(CODES_OF, ""))
    except (SafetensorError, ConfigError, ValueError, OSError) as error:
        raise ModelError(f"{folder} is damaged or of another version: {error}") from error
    codec = build_codec(config)
    try:
        codec.load_state_dict(weights)  # into float32 parameters
    except RuntimeError as error:
        remedy = (
            "; they are of a version before 0.4: use that one, or train anew" if OLD_SCALE in weights else ""
        )
        raise ModelError(f"{folder}: the weights do not fit {CONFIG}: {error}{remedy}") from error
    codec.folder = folder
    codec.weights_id = hashlib.sha256((folder / WEIGHTS).read_bytes()).digest()[:8]
    codec.model_id = codes_of or codec.weights_id
    return codec.to(device).eval().requires_grad_(False)
