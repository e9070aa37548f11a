"""What a run and its preflight put together in the same way: network, optimizer, losses, codebooks."""

from dataclasses import dataclass

import torch
from torch import nn

from telucodec.config import Config
from telucodec.errors import DataError
from telucodec.model.codebooks import CodebookLearner
from telucodec.model.codec import Codec, build_codec
from telucodec.train.data import Batches, Corpus
from telucodec.train.engine import Fabric, build_fabric
from telucodec.train.faults import check_fault, spoil_batches, spoil_network
from telucodec.train.loop import Trainee
from telucodec.train.losses import ReconstructionLoss
from telucodec.train.optim import WeightAverage, build_optimizer

N_INIT_VECTORS = 24_000  # latents that the codebooks' k-means starts from


@dataclass(frozen=True)
class Assembly:
    """A trainee, the device it lives on and the losses it is trained with."""

    fabric: Fabric
    trainee: Trainee
    loss: ReconstructionLoss


def assemble(config: Config, fabric: Fabric | None = None) -> Assembly:
    """Fresh weights of ``config.train.seed``; codebooks are random until `initialize_codebooks`."""
    fabric = fabric or build_fabric(config.train)
    torch.manual_seed(config.train.seed)
    codec = build_codec(config.model)
    if config.train.keeps_codes:
        for part in (codec.encoder, codec.quantizer):
            part.requires_grad_(False)
    if config.train.parts == "enhancer":
        codec.decoder.requires_grad_(False)
    loss = ReconstructionLoss(config.loss, config.model.sample_rate_hz).to(fabric.device)
    quantizer = config.model.quantizer
    check_fault(config.fault.name)
    learner = CodebookLearner(codec.quantizer, decay=quantizer.ema_decay, revive_below=quantizer.revive_below)
    spoil_network(config.fault.name, codec, loss, learner)
    wrapped, optimizer = fabric.setup(codec, build_optimizer(codec, config.optim))
    trainee = Trainee(codec, wrapped, optimizer, learner.to(fabric.device), fresh_average(codec, config))
    return Assembly(fabric, trainee, loss)


def batches_of(config: Config, corpus: Corpus, rank: int = 0) -> Batches:
    """The batches of a run, by step."""
    plan = config.train
    batches = Batches(corpus, plan.batch_size, config.data, plan.seed, rank)
    return spoil_batches(config.fault.name, batches)


def fresh_average(codec: Codec, config: Config) -> WeightAverage | None:
    """Averaged weights that start from the weights as they are; None if the settings keep none."""
    decay = config.optim.weight_ema_decay
    return WeightAverage(codec, decay) if decay else None


def initialize_codebooks(
    assembly: Assembly,
    batches: Batches,
    config: Config,
    *,
    n_vectors: int | None = None,
    n_iterations: int = 10,
) -> None:
    """K-means on ``n_vectors`` latents of the first batches (`N_INIT_VECTORS` if None), before any update."""
    n_vectors, n_found = n_vectors or N_INIT_VECTORS, 0
    codec, device = assembly.trainee.codec, assembly.fabric.device
    found: list[torch.Tensor] = []
    while n_found < n_vectors:
        wav = batches[len(found)].to(device)
        with torch.no_grad():
            latents = codec.encoder(nn.functional.pad(wav, (0, -wav.shape[-1] % config.model.hop)))
        found.append(latents.transpose(1, 2).flatten(0, 1))
        n_found += len(found[-1])
    vectors = torch.cat(found)
    is_sound = torch.isfinite(vectors).all(dim=1)
    if not is_sound.any():
        raise DataError("no latents of the first batches are finite; look at data and start weights")
    assembly.trainee.learner.initialize(
        codec.quantizer, vectors[is_sound], n_iterations=n_iterations, seed=config.train.seed
    )
    assembly.trainee.average = fresh_average(codec, config)
