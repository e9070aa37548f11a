"""How much an error of each latent is heard: weights for the search for codes.

The search adds up squared errors of latents, as if all were heard alike. How much one changes the loudness of
what is decoded is told by the decoder's derivatives. The square of a derivative is the weight that would be
right if errors were small; as they are not, its fourth root does best (docs/log.md).

Shapes: T samples, D latent width, L frames.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from telucodec.frames import pad_to_frames
from telucodec.model.codec import Codec
from telucodec.train.perceptual import DisturbanceLoss

EXPONENT = 0.25
STAGES = 1 / 3  # of all, behind which derivatives are taken
N_DRAWS = 2  # random directions of loudness for each clip
MAX_CLIP_S = 4.0


def search_weights(codec: Codec, clips: Iterable[Tensor], *, seed: int = 0) -> list[float]:
    """Weight of the squared error of each of the D latents, their mean about 1, from clips ``[1, 1, T]``.

    The expected square of a derivative in a random direction is the sum of the squares in all
    (Hutchinson 1990, Communications in Statistics 19).
    """
    config = codec.config
    loudness = DisturbanceLoss(config.sample_rate_hz).to(codec.decoder.output_scale.device)
    generator = torch.Generator().manual_seed(seed)
    n_stages = max(1, round(STAGES * config.quantizer.n_codebooks))
    squares = torch.zeros(config.latent_dim, dtype=torch.float64)
    for wav in clips:
        wav = wav[..., : round(MAX_CLIP_S * config.sample_rate_hz)]
        with torch.no_grad():
            latents = codec.encoder(pad_to_frames(wav, config.hop, config.delay))
            latents = codec.quantizer.decode(codec.quantizer.encode(latents, n_stages))
        with torch.enable_grad():
            latents.requires_grad_(True)
            heard = loudness.loudness(codec.decoder(latents)[:, 0])
            for _ in range(N_DRAWS):
                direction = torch.randn(heard.shape, generator=generator).to(heard.device)
                (slopes,) = torch.autograd.grad((direction * heard).sum(), latents, retain_graph=True)
                squares += slopes.square().sum(dim=(0, 2)).double().cpu()
    weights = (squares / squares.mean().clamp_min(1e-30)).clamp_min(1e-6).pow(EXPONENT)
    return [float(f"{weight:.3g}") for weight in weights]
