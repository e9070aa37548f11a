"""Checks of the network as it is built: paths of the gradient, codebooks, loss terms, output scale.

Each check changes nothing but gradients, or works on a copy.

Shapes: B batch, T samples, D latent width, L frames, Q codebooks.
"""

import copy
import math

import torch
from torch import Tensor

from telucodec.config import Config
from telucodec.train.assembly import Assembly
from telucodec.train.diagnostics.diagnosis import Diagnosis, diagnose
from telucodec.train.diagnostics.gradients import PASSED_ON
from telucodec.train.engine import loss_scale
from telucodec.train.loop import batch_levels, draw_stages, quantizer_loss
from telucodec.train.passage import gradient_gain
from telucodec.train.preflight.plan import check_plan, deepest_part

NORMS = (1e-3, 1e3)  # of the gradient of encoder and decoder; healthy starts: 0.3 to 160
DOMINANT = 0.9
QUIET = 0.3  # range ratio at the start; healthy: 0.85 to 1
SPECTRAL = ("stft", "mel", "spectrum", "disturbance", "envelope", "similarity", "average_spectrum")
HALF_SHARE = 0.5  # of gradient values that a 16-bit float holds exactly; float32: below 0.01


def check_network(
    assembly: Assembly, config: Config, wavs: list[Tensor]
) -> tuple[list[Diagnosis], list[str]]:
    """All checks; ``wavs`` are batches ``[B, 1, T]``, the first of which the gradients are taken on."""
    found = check_jacobian(assembly)
    found += check_vq_mean(assembly, wavs[0])
    shares, levels = _start(assembly, config, wavs)
    found += check_terms(assembly, wavs[0], shares)
    reach, norms = check_reach(assembly, config, wavs[0])
    found += reach + check_output_scale(assembly, wavs[0], levels)
    found += check_codebooks(assembly, wavs[0])
    found += _check_plan(assembly, config, norms)
    lines = [
        "at the start: " + ", ".join(f"{name} {value:.3g}" for name, value in levels.items()),
        "shares of the loss: " + ", ".join(f"{name} {100 * value:.0f} %" for name, value in shares.items()),
        "gradient norms: " + ", ".join(f"{name} {value:.3g}" for name, value in norms.items()),
    ]
    return found, lines


def check_jacobian(assembly: Assembly) -> list[Diagnosis]:
    """The sum of the stages passes gradients on as they are, for one stage, two and all."""
    quantizer = assembly.trainee.codec.quantizer
    for n_stages in sorted({1, 2, quantizer.n_codebooks}):
        gain = gradient_gain(quantizer, n_stages)
        if abs(gain - 1) > PASSED_ON:
            evidence = {"gradient passed on": gain, "expected": 1.0, "stages": float(n_stages)}
            return [diagnose("straight-through", 0, evidence)]
    return []


@torch.no_grad()
def check_vq_mean(assembly: Assembly, wav: Tensor) -> list[Diagnosis]:
    """The commitment loss is the mean over stages, whatever their number."""
    codec = assembly.trainee.codec
    made = codec(wav.to(assembly.fabric.device))
    residual = made.latents.float().transpose(1, 2)  # [B, L, D]
    terms = []
    for stage in range(codec.quantizer.n_codebooks):
        residual = residual - codec.quantizer.codebooks[stage][made.quantized.codes[:, stage]]
        terms.append(float(residual.square().mean()))
    mean, found = sum(terms) / len(terms), float(made.quantized.commitment_loss)
    if mean < 1e-12 or not found > 1.5 * mean:
        return []
    evidence = {
        "VQ loss over its mean": found / mean,
        "expected": 1.0,
        "stages": float(len(terms)),
    }
    return [diagnose("vq-multiplied", 0, evidence)]


def check_output_scale(assembly: Assembly, wav: Tensor, levels: dict[str, float]) -> list[Diagnosis]:
    """1.0, learnable, before tanh; and an output about as loud as the input."""
    decoder = assembly.trainee.codec.decoder
    scale = decoder.output_scale.item()
    with torch.no_grad():
        decoder.log_output_scale.fill_(math.log(10.0))
        peak = float(assembly.trainee.codec(wav.to(assembly.fabric.device)).wav.abs().max())
        decoder.log_output_scale.fill_(math.log(scale))
    if scale != 1.0 or peak > 1.0001:
        evidence = {"output scale": scale, "peak with a scale of 10": peak, "expected peak": 1.0}
        return [diagnose("output-scale", 0, evidence)]
    if levels["range ratio"] < QUIET:
        facts: dict[str, float | str] = {"range ratio": levels["range ratio"], "threshold": QUIET}
        facts["output scale"] = "learnable" if decoder.log_output_scale.requires_grad else "not learnable"
        return [diagnose("amplitude-collapse", 0, facts)]
    return []


def check_terms(assembly: Assembly, wav: Tensor, shares: dict[str, float]) -> list[Diagnosis]:
    """Every term moves the output, spectral ones in float32, and none is nearly all of the loss."""
    found = []
    with torch.no_grad():
        start = assembly.trainee.wrapped(wav.to(assembly.fabric.device)).wav.float()
    noise = torch.randn(start.shape, generator=torch.Generator().manual_seed(0)).to(start.device)
    estimate = (start + 1e-3 * noise).requires_grad_(True)  # an output of zeros has no slope of its own
    for name, value in assembly.loss(estimate, wav.to(assembly.fabric.device)).items():
        gradient = torch.zeros_like(estimate)
        if value.requires_grad:
            (gradient,) = torch.autograd.grad(value, estimate, retain_graph=True)
        if not gradient.any():
            found.append(diagnose("term-constant", 0, {"term": name, "value": value.item(), "gradient": 0.0}))
        elif name in SPECTRAL and (exact := _half_share(gradient)) > HALF_SHARE:
            found.append(diagnose("half-precision-loss", 0, {"term": name, "share in 16 bits": exact}))
    for name, share in shares.items():
        if share > DOMINANT and len(shares) > 1:
            found.append(diagnose("term-dominates", 0, {"term": name, "share": share, "threshold": DOMINANT}))
    return found


def check_reach(assembly: Assembly, config: Config, wav: Tensor) -> tuple[list[Diagnosis], dict[str, float]]:
    """The gradient of the weighted loss reaches every module and, where it trains them, every codebook."""
    trainee, device = assembly.trainee, assembly.fabric.device
    trainee.optimizer.zero_grad(set_to_none=True)
    total = torch.stack(list(weighted_terms(assembly, config, wav.to(device)).values())).sum()
    assembly.fabric.backward(total)
    found = []
    norms = {name: _norm(part) for name, part in trainee.codec.named_children()}
    for name, module in trainee.codec.named_modules():
        has_own = any(True for p in module.parameters(recurse=False))
        if name and has_own and not name.startswith("quantizer") and _norm(module) == 0:
            found.append(diagnose("no-gradient", 0, {"first module": name, "gradient norm": 0.0}))
            break
    for name in ("encoder", "decoder"):
        if not found and not NORMS[0] < norms[name] / _scale(assembly) < NORMS[1]:
            found.append(diagnose("gradient-band", 0, {"module": name, "gradient norm": norms[name]}))
    codebooks = trainee.codec.quantizer.codebooks
    if isinstance(codebooks, torch.nn.Parameter):
        reached = codebooks.grad.abs().sum(dim=(1, 2)) > 0 if codebooks.grad is not None else torch.zeros(1)
        if not reached.all():
            evidence = {"stage without gradient": float(torch.nonzero(~reached.bool())[0])}
            found.append(diagnose("codebook-not-learning", 0, evidence))
    trainee.optimizer.zero_grad(set_to_none=True)
    return found, norms


@torch.no_grad()
def check_codebooks(assembly: Assembly, wav: Tensor) -> list[Diagnosis]:
    """Codewords move (by averages), and one that is revived does not count as dead at the next update."""
    trainee = assembly.trainee
    quantizer, learner = copy.deepcopy(trainee.codec.quantizer), copy.deepcopy(trainee.learner)
    latents = trainee.codec(wav.to(assembly.fabric.device)).latents
    n_active = torch.full((len(latents),), quantizer.n_codebooks, device=latents.device)
    before = quantizer.codebooks.detach().clone()
    learner.usage[0, 0], dead = 0.0, 1e3
    learner.sums[0, 0] = quantizer.codebooks[0, 0] = dead
    learner.update(quantizer, latents, quantizer.encode(latents), n_active, seed=1)
    distance = float((quantizer.codebooks[0, 0] - dead).abs().mean())
    use = float(learner.usage[0, 0] / learner.usage[0].mean())
    if distance < 0.5 * dead or use < learner.revive_below:
        evidence = {"use after revival, of the mean": use, "dead below": learner.revive_below}
        return [diagnose("revival-lost", 0, evidence | {"distance from the dead value": distance})]
    is_ema = not isinstance(quantizer.codebooks, torch.nn.Parameter)
    if is_ema and torch.equal(before[:, 1:], quantizer.codebooks[:, 1:]):
        return [diagnose("codebook-not-learning", 0, {"change of the codewords in an update": 0.0})]
    return []


def _check_plan(assembly: Assembly, config: Config, norms: dict[str, float]) -> list[Diagnosis]:
    groups = assembly.trainee.optimizer.param_groups
    return check_plan(
        config.optim,
        n_kernels=deepest_part(assembly.trainee.codec),
        n_parameters=sum(p.numel() for group in groups for p in group["params"]),
        start_norm=math.hypot(*norms.values()) / _scale(assembly),
        epsilon=groups[0]["eps"],
    )


@torch.no_grad()
def _start(
    assembly: Assembly, config: Config, wavs: list[Tensor]
) -> tuple[dict[str, float], dict[str, float]]:
    """Shares of the weighted terms, and the level and SNR of the output, over several batches."""
    sums: dict[str, float] = {}
    levels: dict[str, list[float]] = {"range_ratio": [], "snr_db": [], "output_dc": []}
    for wav in wavs:
        wav = wav.to(assembly.fabric.device)
        for name, value in weighted_terms(assembly, config, wav).items():
            sums[name] = sums.get(name, 0.0) + float(value)
        seen = batch_levels(assembly.trainee.wrapped(wav), wav)
        for name, values in levels.items():
            values.append(float(seen[name]))
    total = sum(sums.values()) or 1.0
    means = {name.replace("_", " "): sum(v) / len(v) for name, v in levels.items()}
    return {name: value / total for name, value in sums.items()}, means


def weighted_terms(assembly: Assembly, config: Config, wav: Tensor) -> dict[str, Tensor]:
    """Loss terms times their weights on ``[B, 1, T]``, as the first step of a run sees them."""
    n_active = draw_stages(len(wav), config, config.train.seed).to(wav.device)
    made = assembly.trainee.wrapped(wav, n_active)
    terms = assembly.loss(made.wav.float(), wav) | {"vq": quantizer_loss(made.quantized, config)}
    return {name: getattr(config.loss, name) * value for name, value in terms.items()}


def _norm(module: torch.nn.Module) -> float:
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    return float(torch.nn.utils.get_total_norm(gradients)) if gradients else 0.0


def _scale(assembly: Assembly) -> float:
    """By which a float16 run multiplies its loss, and so its gradients."""
    return loss_scale(assembly.fabric) or 1.0


def _half_share(gradient: Tensor) -> float:
    """Share of the values other than zero that float16 or bfloat16 holds exactly."""
    values = gradient[gradient != 0]
    shares = [(values.to(kind).float() == values).float().mean() for kind in (torch.float16, torch.bfloat16)]
    return float(max(shares)) if values.numel() else 1.0
