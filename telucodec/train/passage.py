"""How much of a gradient the quantizer passes on: asked before the first step, and at every reading.

Shapes: B batch, D latent width, L frames, Q codebooks.
"""

import torch

from telucodec.model.quantizer import ResidualVectorQuantizer

N_FRAMES = 4  # of the probe; the Jacobian does not depend on what is quantized


def gradient_gain(quantizer: ResidualVectorQuantizer, n_stages: int) -> float:
    """Mean gradient at the quantizer's input for ones at its output: 1 for a straight-through identity.

    The probe is made of codewords, so that it needs no batch and draws no random numbers; it leaves
    no gradient behind.

    Args:
        n_stages: active stages, 1 to Q.
    """
    codewords = quantizer.codebooks[0, :N_FRAMES].detach()
    latents = codewords.T[None].clone().requires_grad_(True)  # [1, D, L]
    made = quantizer(latents, torch.full((1,), n_stages, device=latents.device))
    if not made.latents.requires_grad:
        return 0.0
    probe = torch.ones_like(latents)
    (gradient,) = torch.autograd.grad(made.latents, latents, probe, allow_unused=True)
    return 0.0 if gradient is None else float(gradient.mean())
