"""Parameters and memory before either is allocated: the model is first laid out without numbers.

Shapes: B batch, T samples.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from telucodec.config import Config
from telucodec.model.codec import build_codec
from telucodec.train.assembly import Assembly
from telucodec.train.diagnostics.diagnosis import Diagnosis, Evidence, diagnose

COPIES = 5  # of every weight in training: itself, gradient, two moments of AdamW, average
OVERHEAD = 1.25  # what backward needs beside the kept values; a guess, not compared with a measured peak
USABLE_SHARE = 0.9  # of the device's memory
GB = 1e9


def parameter_table(config: Config) -> dict[str, int]:
    """Stored numbers by module, two levels deep, largest first; allocates nothing."""
    with torch.device("meta"):
        codec = build_codec(config.model)
    counts: dict[str, int] = {}
    for name, tensor in codec.state_dict().items():
        module = ".".join(name.split(".")[:2])
        counts[module] = counts.get(module, 0) + tensor.numel()
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def check_parameters(config: Config) -> tuple[list[Diagnosis], list[str]]:
    """Refuse a model above the budget."""
    counts = parameter_table(config)
    total, budget = sum(counts.values()), 1e6 * config.doctor.max_parameters_m
    largest = next(iter(counts))
    lines = [f"parameters: {total / 1e6:.2f} M"]
    lines += [f"  {name:<24} {n / 1e6:9.3f} M  {100 * n / total:5.1f} %" for name, n in counts.items()]
    if total <= budget:
        return [], lines
    evidence: Evidence = {
        "millions of parameters": total / 1e6,
        "budget": config.doctor.max_parameters_m,
        "largest module": largest,
        "its millions": counts[largest] / 1e6,
    }
    return [diagnose("parameter-bomb", 0, evidence)], lines


@dataclass
class _Kept:
    """Bytes that a forward pass keeps for its backward pass, each storage once."""

    storages: dict[int, int]
    largest: tuple[int, str] = (0, "")

    def pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        self.storages[storage.data_ptr()] = storage.nbytes()
        self.largest = max(self.largest, (storage.nbytes(), "x".join(map(str, tensor.shape))))
        return tensor


def estimate_memory(assembly: Assembly, config: Config) -> tuple[float, str]:
    """Peak bytes of one step of the whole batch, from one item; and its largest tensor, as a text."""
    codec, n_items = assembly.trainee.codec, config.train.batch_size
    n_samples = round(config.data.crop_s * config.model.sample_rate_hz)
    wav = 0.1 * torch.randn(1, 1, n_samples, generator=torch.Generator().manual_seed(0))
    kept = _Kept({})
    with torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda tensor: tensor):
        made = assembly.trainee.wrapped(wav.to(assembly.fabric.device))
        terms = assembly.loss(made.wav.float(), wav.to(assembly.fabric.device))
    weights = {t.untyped_storage().data_ptr() for t in (*codec.parameters(), *codec.buffers())}
    activations = sum(size for pointer, size in kept.storages.items() if pointer not in weights)
    stored = 4 * sum(tensor.numel() for tensor in codec.state_dict().values())
    del made, terms
    peak = COPIES * stored + OVERHEAD * n_items * activations
    size, shape = kept.largest
    return peak, f"{shape} for one of {n_items} items, {size * n_items / GB:.2f} GB"


def check_memory(assembly: Assembly, config: Config) -> tuple[list[Diagnosis], list[str]]:
    """Refuse a batch above the budget or the device."""
    peak, largest = estimate_memory(assembly, config)
    budget = memory_budget(config, assembly.fabric.device)
    lines = [f"memory: about {peak / GB:.2f} GB at the peak of a step, {budget / GB:.1f} GB allowed"]
    if peak <= budget:
        return [], lines
    evidence: Evidence = {"estimated GB": peak / GB, "allowed GB": budget / GB, "largest tensor": largest}
    return [diagnose("memory-over-budget", 0, evidence)], lines


def memory_budget(config: Config, device: torch.device) -> float:
    """Bytes that a step may take: the setting, or most of what the device has."""
    return GB * config.doctor.max_memory_gb or USABLE_SHARE * device_memory(device)


def device_memory(device: torch.device) -> float:
    """Bytes of the GPU, or of the machine or the container around this process."""
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory)
    machine = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text(encoding="ascii").strip() if limit.is_file() else "max"
    return min(machine, float(text)) if text.isdigit() else machine
