"""A network that predicts codes, trained on codes of many clips and rounded to integers.

It minimizes the bits that codes take: those of the group of each code, and those of its place in the group
(see `telucodec.prior.tables`), each stage predicted from what the stages before it add up to
(`telucodec.prior.network`). Tables fitted by counting say where it begins: which codewords are in a group,
the basis and the bias of scores, and all of stage 0, which the network leaves to them.

Fitting is in floating point and need not repeat bit for bit on another machine: the integers it ends in
are what encoder and decoder share.

Shapes: Q codebooks, K codewords, D latent width, F frames of all clips, B frames and S stages of a batch,
O offsets, H and E hidden units, R rank, G groups of T symbols.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as fn

from telucodec.bitstream.bitpack import Codes
from telucodec.errors import DataError
from telucodec.prior.network import ACTIVE, Network
from telucodec.prior.tables import SCORE_LIMIT, STEP_BITS, UNUSED, Tables, group_size, n_groups, score_bounds

log = logging.getLogger(__name__)

Whole = TypeVar("Whole", bound=np.integer)

OFFSETS = -2, -1, 0, 1, 2  # frames
N_UNITS = 192  # of each hidden layer
N_EPOCHS = 4.0  # that each code is seen on average
BATCH_FRAMES, BATCH_STAGES = 512, 8
HALF_AS_OFTEN = 6  # a stage so many behind is seen, since few streams have the last ones
LEARNING_RATE, WEIGHT_DECAY, MAX_NORM = 2e-3, 0.01, 1.0
WARMUP_STEPS, LEAST_STEPS = 100, 30
AVERAGED = 0.99  # of the averaged weights that stay in each step
N_PROBED = 4096  # frames that say how large hidden units become
LARGEST_WORD = 1 << 10
_LEAST = 1e-9
_NO_VECTORS = np.zeros((1, 1, 1, 1), dtype=np.int16)


class PriorNetwork(nn.Module):
    """The network in floating point, with its basis and biases of scores; stage 0 is left out of all of them.

    Args:
        codebooks: ``[Q, K, D]``.
        tables: fitted by counting, of the same codebooks.
    """

    words: Tensor
    symbols: Tensor

    def __init__(self, codebooks: Tensor, tables: Tables) -> None:
        super().__init__()
        (n_stages, size, width), n_units = codebooks.shape, N_UNITS
        self.unit = float(codebooks[0].std().clamp_min(_LEAST))  # of words
        self.register_buffer("words", fn.pad(codebooks / self.unit, (0, 0, 0, 1)))  # [Q, K + 1, D]
        self.register_buffer("symbols", torch.from_numpy(tables.symbols.astype(np.int64)))  # [Q, K]
        n_inputs = len(OFFSETS) * (width + 1)
        n_later, rank = n_stages - 1, tables.basis.shape[1]
        self.first = nn.Parameter(torch.randn(n_inputs, n_units) / math.sqrt(n_inputs))
        self.first_bias = nn.Parameter(torch.zeros(n_later, 1, n_units))
        self.second = nn.Parameter(torch.randn(n_units, n_units) * math.sqrt(2 / n_units))
        self.second_bias = nn.Parameter(torch.zeros(n_later, 1, n_units))
        self.third = nn.Parameter(torch.randn(n_later, n_units, rank) * 0.3 / math.sqrt(n_units))
        self.group_size, self.n_groups = group_size(size), n_groups(size)
        basis = torch.from_numpy(tables.basis[1:].astype(np.float32))
        self.basis = nn.Parameter(
            0.3 * basis / basis.square().mean(dim=2, keepdim=True).sqrt().clamp_min(1.0)
        )
        scale = math.log(2) * 2.0 ** -torch.from_numpy(tables.fractions[1:].astype(np.float32))
        self.bias = nn.Parameter(torch.from_numpy(tables.bias[1:].astype(np.float32)) * scale[:, None])

    def inputs(self, codes: Tensor, stages: Tensor) -> Tensor:
        """What codes ``[Q, B, O]``, K for none, before each of ``stages``, less one, add up to.

        ``[S, B, O * (D + 1)]``.
        """
        absent = (codes[0] == self.words.shape[1] - 1)[..., None].to(self.words.dtype)
        sums = self.words.new_zeros(*codes.shape[1:], self.words.shape[2])  # [B, O, D]
        found = {}
        for stage in range(int(stages.max()) + 1):
            sums = sums + self.words[stage][codes[stage]]
            if (stages == stage).any():
                found[stage] = torch.cat([sums, absent], dim=-1).flatten(1)
        return torch.stack([found[stage] for stage in stages.tolist()])

    def hidden(self, inputs: Tensor, stages: Tensor) -> tuple[Tensor, Tensor]:
        """Both layers of hidden units, ``[S, B, H]``, of some `inputs` of these numbers ``stages``."""
        first = torch.relu(inputs @ self.first + self.first_bias[stages])
        return first, torch.relu(first @ self.second + self.second_bias[stages])

    def bits(self, inputs: Tensor, codes: Tensor, stages: Tensor) -> Tensor:
        """Bits ``[S, B]`` of codes ``[S, B]``, arguments as in `hidden`."""
        return self.bits_at(self.hidden(inputs, stages)[1] @ self.third[stages], codes, stages)

    def bits_at(self, vectors: Tensor, codes: Tensor, stages: Tensor) -> Tensor:
        """Bits ``[S, B]`` of codes ``[S, B]`` whose scores have the vectors ``[S, B, R]``."""
        basis, bias = self.basis[stages], self.bias[stages]
        n_stages, n_codes = codes.shape
        symbols = self.symbols[stages + 1].gather(1, codes)
        size = self.words.shape[1] - 1
        groups, places = symbols // self.group_size, symbols % self.group_size
        of_groups = vectors @ basis[..., size:] + bias[:, None, size:]
        lacking = self.n_groups * self.group_size - size
        grid = self.n_groups, self.group_size
        inside = fn.pad(basis[..., :size], (0, lacking)).view(*basis.shape[:2], *grid).transpose(1, 2)
        biases = fn.pad(bias[:, :size], (0, lacking), value=-torch.inf).view(n_stages, *grid)
        rows = (torch.arange(n_stages, device=codes.device)[:, None] * self.n_groups + groups).flatten()
        chosen = inside.flatten(0, 1)[rows]  # [S * B, R, T]
        of_places = torch.bmm(vectors.flatten(0, 1)[:, None], chosen)[:, 0] + biases.flatten(0, 1)[rows]
        nats = fn.cross_entropy(of_groups.flatten(0, 1), groups.flatten(), reduction="none")
        nats = nats + fn.cross_entropy(of_places, places.flatten(), reduction="none")
        return nats.view(n_stages, n_codes) / math.log(2)


class _Corpus:
    """Codes of all clips end to end, in packets as they will be coded."""

    def __init__(self, codes: Sequence[Codes], size: int, packet_frames: int) -> None:
        clips = [clip for clip in codes if clip.shape[-1]]
        if not clips:
            raise DataError("no codes to train a network on; give at least one clip that is not empty")
        self.codes = torch.from_numpy(np.concatenate(clips, axis=1).astype(np.int64))  # [Q, F]
        lengths = torch.tensor([clip.shape[1] for clip in clips])
        places = torch.cat([torch.arange(int(length)) for length in lengths])
        is_first = places % packet_frames == 0
        self.packets = is_first.cumsum(0)  # [F]
        self.size = size

    @property
    def n_frames(self) -> int:
        return self.codes.shape[1]

    def around(self, frames: Tensor) -> Tensor:
        """Codes ``[Q, B, O]`` around each of ``frames``, those of other packets absent."""
        at = frames[:, None] + torch.tensor(OFFSETS)
        inside = at.clamp(0, self.n_frames - 1)
        is_there = (at == inside) & (self.packets[inside] == self.packets[frames][:, None])
        return torch.where(is_there, self.codes[:, inside], self.size)


def fit_network(
    codes: Sequence[Codes],
    tables: Tables,
    codebooks: Tensor,
    *,
    packet_frames: int,
    seed: int = 0,
) -> tuple[Tables, Network]:
    """A network for codes like these, and its tables: those given, with other scores after stage 0.

    Args:
        codes: ``[Q, L]`` of each training clip, with at least two stages.
        tables: fitted to the same codes.
        codebooks: ``[Q, K, D]``.
        packet_frames: of the packets that will be coded; other lengths work, a little less well.

    Raises:
        DataError: no frames.
    """
    corpus = _Corpus(codes, codebooks.shape[1], packet_frames)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = PriorNetwork(codebooks.detach().cpu().float(), tables)
        _train(model, corpus, N_EPOCHS)
        probe = torch.randperm(corpus.n_frames)[:N_PROBED]
    return _rounded(model, tables, corpus.around(probe))


def _train(model: PriorNetwork, corpus: _Corpus, n_epochs: float) -> None:
    """Train ``model``; its weights are then those averaged over the last steps."""
    n_later = len(model.third)
    n_frames, n_stages = min(BATCH_FRAMES, corpus.n_frames), min(BATCH_STAGES, n_later)
    shares = 1 / (torch.arange(n_later) + HALF_AS_OFTEN)
    n_steps = max(LEAST_STEPS, round(n_epochs * corpus.n_frames * n_later / (n_frames * n_stages)))
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=WEIGHT_DECAY)
    averaged = [parameter.detach().clone() for parameter in model.parameters()]
    for step in range(n_steps):
        rate = LEARNING_RATE * min(1.0, (step + 1) / WARMUP_STEPS)
        optimizer.param_groups[0]["lr"] = rate * (0.01 + 0.99 * math.cos(math.pi / 2 * step / n_steps) ** 2)
        frames = torch.randint(corpus.n_frames, (n_frames,))
        stages = torch.multinomial(shares, n_stages).sort().values
        inputs = model.inputs(corpus.around(frames), stages)
        bits = model.bits(inputs, corpus.codes[:, frames][stages + 1], stages).mean()
        optimizer.zero_grad()
        bits.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
        optimizer.step()
        kept = min(AVERAGED, step / (step + 10))
        for mean, parameter in zip(averaged, model.parameters(), strict=True):
            mean.lerp_(parameter.detach(), 1 - kept)
        if step % 500 == 0 or step == n_steps - 1:
            log.info("network of codes: step %d of %d, %.3f bits a code", step + 1, n_steps, bits.item())
    with torch.no_grad():
        for mean, parameter in zip(averaged, model.parameters(), strict=True):
            parameter.copy_(mean)


@torch.no_grad()
def _rounded(model: PriorNetwork, tables: Tables, probe: Tensor) -> tuple[Tables, Network]:
    """The integers of ``model``, its units scaled to fill their range on codes ``probe`` ``[Q, B, O]``."""
    stages = torch.arange(len(model.third))
    units = [layer.amax(dim=(0, 1)).double() for layer in model.hidden(model.inputs(probe, stages), stages)]
    largest = float(model.words.abs().max()) * model.unit
    digits = max(0, math.floor(math.log2(LARGEST_WORD / max(largest, _LEAST))))
    words = 2.0**digits * model.unit  # of one
    width = model.words.shape[2] + 1
    first = model.first.double().view(len(OFFSETS), width, -1)  # [O, D + 1, H]
    first[:, -1] *= model.unit  # the component of no codeword is 2 ** digits
    first_scale = _scale(first.flatten(0, 1))  # [H]
    first_shifts, first_units = _shifts(first_scale * words, units[0])
    second = model.second.double() / first_units[:, None]
    second_scale = _scale(second)
    second_shifts, second_units = _shifts(second_scale, units[1])
    basis = model.basis.double()
    peaks = basis.abs().amax(dim=2).clamp_min(_LEAST) / 127  # [Q - 1, R]
    third = model.third.double() / second_units[:, None] * peaks[:, None] / math.log(2)  # [Q - 1, E, R]
    scores = [
        _scores(*parts)
        for parts in zip(
            third, (basis / peaks[..., None]).round(), model.bias.double() / math.log(2), strict=True
        )
    ]
    is_later = np.arange(tables.n_codebooks) > 0
    n_contexts = max(len(tables.contexts(0)), 1)
    stages_of, vectors = tables.stages[:, :n_contexts].copy(), tables.vectors[:, :n_contexts].copy()
    stages_of[is_later], vectors[is_later] = UNUSED, 0
    given = {
        "stages": stages_of,
        "offsets": np.where(is_later[:, None], 0, tables.offsets[:, :n_contexts]).astype(np.int8),
        "classes": np.where(is_later[:, None, None], 0, tables.classes[:, :n_contexts]).astype(np.uint8),
        "vectors": vectors,
        "basis": np.stack([tables.basis[0], *(each[1] for each in scores)]),
        "bias": np.stack([tables.bias[0], *(each[2] for each in scores)]),
        "fractions": np.array([tables.fractions[0], *(each[3] for each in scores)], dtype=np.uint8),
    }
    third_whole, third_shifts = zip(*(each[0] for each in scores), strict=True)
    network = Network(
        offsets=np.array(OFFSETS, dtype=np.int8),
        digits=np.array([digits], dtype=np.uint8),
        first=_whole(first * first_scale, np.int8),
        first_bias=_biases(model.first_bias, first_scale * words, first_shifts),
        first_shifts=_whole(first_shifts, np.uint8),
        second=_whole(second * second_scale, np.int8),
        second_bias=_biases(model.second_bias, second_scale, second_shifts),
        second_shifts=_whole(second_shifts, np.uint8),
        third=np.stack([np.zeros_like(third_whole[0]), *third_whole]),
        third_shifts=np.stack([np.zeros_like(third_shifts[0]), *third_shifts]),
    )
    return replace(tables, **given), network


def _scores(
    third: Tensor, basis: Tensor, bias: Tensor
) -> tuple[tuple[NDArray[np.int8], NDArray[np.uint8]], NDArray[np.int8], NDArray[np.int32], int]:
    """Third layer ``[E, R]`` and its shifts, basis, bias and fraction of one stage, as exact as sums may be.

    Args:
        third: in bits, of a ``basis`` ``[R, K + G]`` of whole numbers; ``bias`` ``[K + G]`` in bits.
    """
    for fraction in range(16, STEP_BITS - 1, -1):
        scaled = third * 2.0**fraction
        shifts = (127 / scaled.abs().amax(dim=0).clamp_min(_LEAST)).log2().floor().clamp(max=20)
        if shifts.min() < 0:
            continue
        layer = _whole(scaled * 2**shifts, np.int8), _whole(shifts, np.uint8)
        lost = 0.5 * (shifts > 0).double() @ basis  # what shifts round down on average
        parts = _whole(basis, np.int8), _whole(bias * 2.0**fraction + lost, np.int32)
        added = (ACTIVE * np.abs(layer[0].astype(np.int64)).sum(axis=0) >> layer[1].astype(np.int64)) + 1
        if int(score_bounds(_NO_VECTORS, parts[0][None], parts[1][None], added).max()) < SCORE_LIMIT:
            return layer, *parts, fraction
    raise DataError(
        "the codes are too regular for a network of integers; fit on more, and more varied, audio"
    )


def _scale(weights: Tensor) -> Tensor:
    """By which columns of ``weights`` become whole numbers of up to 127."""
    return 127 / weights.abs().amax(dim=0).clamp_min(_LEAST)


def _shifts(scale: Tensor, peaks: Tensor) -> tuple[Tensor, Tensor]:
    """Digits that sums of this ``scale`` lose, to be `ACTIVE` at most, and the scale of what is left."""
    shifts = (scale * peaks.clamp_min(_LEAST) / ACTIVE).log2().ceil().clamp(0, 30)
    return shifts, scale / 2**shifts


def _biases(biases: Tensor, scale: Tensor, shifts: Tensor) -> NDArray[np.int32]:
    """Biases ``[Q, H]`` of whole sums, with the half by which a shift rounds to the nearest; 0 in stage 0."""
    whole = biases[:, 0].double() * scale + 2 ** (shifts - 1) * (shifts > 0)
    return _whole(fn.pad(whole, (0, 0, 1, 0)), np.int32)


def _whole(values: Tensor, dtype: type[Whole]) -> NDArray[Whole]:
    limits = np.iinfo(dtype)
    found: NDArray[Whole] = values.round().clamp(limits.min, limits.max).numpy().astype(dtype)
    return found
