"""Devices, precision and processes, by Lightning Fabric. The only file that knows it."""

import os
import warnings
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn

from telucodec.config import TrainConfig
from telucodec.nn.rounded import rounds_fast

__all__ = ["Fabric", "build_fabric", "clip_gradients", "is_finite_everywhere", "loss_scale"]


def build_fabric(config: TrainConfig) -> Fabric:
    """A launched Fabric for the device, number of devices and precision of ``config``."""
    if config.n_threads:
        torch.set_num_threads(config.n_threads)
    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    precision: Any = best_precision(device) if config.precision == "auto" else config.precision
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        strategy = "ddp" if config.n_devices > 1 else "auto"
        fabric = Fabric(accelerator=device, devices=config.n_devices, strategy=strategy, precision=precision)
    if config.n_devices > 1 or "LOCAL_RANK" in os.environ:
        fabric.launch()
    return fabric


def best_precision(device: str) -> str:
    """``"bf16-mixed"`` where convolutions in bfloat16 are faster than in float32, else ``"32-true"``."""
    if device == "cuda":
        is_fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        is_fast = rounds_fast(torch.device(device))
    return "bf16-mixed" if is_fast else "32-true"


def clip_gradients(
    fabric: Fabric, codec: nn.Module, optimizer: torch.optim.Optimizer, max_norm: float
) -> dict[str, torch.Tensor]:
    """Clip by global norm; returns the norms *before* clipping, the total and one per part of the codec.

    A loss scaler, if any, is undone first, so the norms are those of the true gradients.
    """
    fabric.clip_gradients(codec, optimizer, max_norm=float("inf"), error_if_nonfinite=False)
    norms = {}
    for name, part in codec.named_children():
        gradients = [p.grad for p in part.parameters() if p.grad is not None]
        norm = (
            torch.nn.utils.get_total_norm(gradients) if gradients else torch.zeros((), device=fabric.device)
        )
        norms[f"grad_norm/{name}"] = norm
    total = torch.stack(list(norms.values())).norm()
    torch.nn.utils.clip_grads_with_norm_(codec.parameters(), max_norm, total)
    return {"grad_norm": total} | norms


def is_finite_everywhere(fabric: Fabric, *values: torch.Tensor) -> bool:
    """Whether all scalars are finite, on every process; waits for the device."""
    total = torch.stack([value.float() for value in values]).sum()
    if fabric.world_size > 1:
        total = torch.as_tensor(fabric.all_reduce(total, reduce_op="mean"))
    return bool(torch.isfinite(total))


def loss_scale(fabric: Fabric) -> float | None:
    """The factor by which a float16 run scales its loss; None where no scaler is at work."""
    scaler = getattr(fabric._precision, "scaler", None)
    return None if scaler is None else float(scaler.get_scale())
