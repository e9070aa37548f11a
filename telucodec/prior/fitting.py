"""Tables from codes: classes of contexts, low-rank experts, their weights, and rounding to integers.

For every stage and each of its contexts, in this order:

1. Count which codeword follows which context codeword, in packets as they will be coded: a
   context outside the packet counts as absent.
2. Cluster the context's codewords into classes that predict alike: k-means in the
   Kullback-Leibler sense, an information bottleneck (Dhillon et al. 2003, "A divisive
   information-theoretic feature clustering algorithm", JMLR 3, eq. 12).
3. Smooth each class's counts by `PRIOR_COUNTS` of the stage's own distribution; the expert is the log of
   their ratio.
4. Factorize all experts of the stage together to rank R, weighted so that the squared error
   approximates the bits lost.
5. Weigh the experts by Newton's method on packets whose counts were held out: contexts overlap,
   so their sum counts twice what two of them know.

Fitting is in floating point and need not repeat bit for bit on another machine: the integers
that it ends in are what encoder and decoder share.

Shapes: Q codebooks, L frames, F frames of all clips, J contexts, C classes, K codewords, R rank.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from telucodec.bitstream.bitpack import Codes
from telucodec.errors import DataError
from telucodec.prior.tables import SCORE_LIMIT, STEP_BITS, UNUSED, Tables, score_bounds, stage_dtype

log = logging.getLogger(__name__)

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Context = tuple[int, int]
"""A stage, and frames away from the code that is predicted."""

PACKET_FRAMES = 25  # that contexts may reach over
PRIOR_COUNTS = 600.0  # weight of the stage's own distribution in that of a class
RANK = 24
N_CLASSES = 192  # of the contexts of stage 0, which say most; every stage after it has half of the one before
FEWEST_CLASSES = 48  # but no less than these
MIN_CLASS = 50  # counts below which a class of contexts is given up
HELD_OUT = 10  # every tenth packet weighs the experts
N_WEIGHING = 3_000  # frames of those that are used: enough for nine weights
_NEAR = ((1, 0), (2, 0), (3, 0), (1, -1), (1, 1), (2, -1), (2, 1))  # stages before, frames away
_FIRST = ((0, 0), (1, 0))  # stage, frames away


@dataclass(frozen=True)
class _Frames:
    """All clips end to end: codes ``[Q, F]``, the packet of each frame, and which packets are held out."""

    codes: Indices
    packets: Indices
    is_held_out: NDArray[np.bool_]

    def context(self, stage: int, offset: int, absent: int) -> Indices:
        """``[F]`` code of ``stage`` ``offset`` frames away, ``absent`` outside the packet."""
        n_frames = self.codes.shape[1]
        at = np.arange(n_frames) + offset
        inside = np.clip(at, 0, n_frames - 1)
        is_there = (at == inside) & (self.packets[inside] == self.packets)
        found: Indices = np.where(is_there, self.codes[stage, inside], absent)
        return found


def fit_tables(
    codes: Sequence[Codes],
    *,
    codebook_size: int,
    packet_frames: int = PACKET_FRAMES,
    n_classes: int = N_CLASSES,
    rank: int = RANK,
    contexts: Sequence[Sequence[Context]] | None = None,
) -> Tables:
    """Integer tables for codes like these; a few seconds per stage and hour of speech.

    Args:
        codes: ``[Q, L]`` of each training clip, all with the same Q. More is better, up to hours.
        codebook_size: K; codes below it that never occur stay codable.
        packet_frames: of the packets that will be coded; other lengths work, a little less well.
        n_classes: of the codewords of one context of stage 0, at most 254; later stages have fewer.
        rank: R of the experts of one stage together.
        contexts: of each stage, by which its codes are predicted; the stages just before it if None.

    Raises:
        DataError: no frames, clips that differ in Q, or a code that is not below ``codebook_size``.
    """
    frames = _gather(codes, codebook_size, packet_frames)
    n_stages = len(frames.codes)
    contexts = [_contexts(stage) for stage in range(n_stages)] if contexts is None else contexts
    n_contexts = max(len(pairs) for pairs in contexts)
    stages = np.full((n_stages, n_contexts), UNUSED, dtype=stage_dtype(n_stages))
    offsets = np.zeros((n_stages, n_contexts), dtype=np.int8)
    classes = np.zeros((n_stages, n_contexts, codebook_size + 1), dtype=np.uint8)
    vectors = np.zeros((n_stages, n_contexts, n_classes + 1, rank))
    basis = np.zeros((n_stages, rank, codebook_size))
    bias = np.zeros((n_stages, codebook_size))
    for stage, pairs in enumerate(contexts):
        stages[stage, : len(pairs)] = [source for source, _ in pairs]
        offsets[stage, : len(pairs)] = [offset for _, offset in pairs]
        used, n_own = slice(len(pairs)), min(n_classes, max(FEWEST_CLASSES, n_classes >> stage))
        classes[stage, used], vectors[stage, used, : n_own + 1], basis[stage], bias[stage] = _fit_stage(
            frames, stage, pairs, codebook_size, n_own, rank
        )
        log.info("entropy tables: stage %d of %d", stage + 1, n_stages)
    whole = [_round(*parts) for parts in zip(vectors, basis, bias, strict=True)]
    steps = np.arange(20 << STEP_BITS)
    return Tables(
        stages=stages,
        offsets=offsets,
        classes=classes,
        vectors=np.stack([part[0] for part in whole]),
        basis=np.stack([part[1] for part in whole]),
        bias=np.stack([part[2] for part in whole]),
        fractions=np.array([part[3] for part in whole], dtype=np.uint8),
        powers=np.round(2.0 ** (20 - steps / (1 << STEP_BITS))).clip(1).astype(np.int32),
    )


def _gather(codes: Sequence[Codes], codebook_size: int, packet_frames: int) -> _Frames:
    clips = [clip for clip in codes if clip.shape[-1]]
    if not clips:
        raise DataError("no codes to fit entropy tables to; give at least one clip that is not empty")
    counts = {clip.shape[0] for clip in clips}
    if len(counts) > 1:
        raise DataError(f"clips have {sorted(counts)} stages; entropy tables need one number of stages")
    joined = np.concatenate(clips, axis=1).astype(np.int64)
    if int(joined.max()) >= codebook_size:
        raise DataError(f"code {int(joined.max())} in the clips; expected codes below {codebook_size}")
    packets, n_packets = [], 0
    for clip in clips:
        packets.append(n_packets + np.arange(clip.shape[1]) // packet_frames)
        n_packets = int(packets[-1][-1]) + 1
    packet = np.concatenate(packets)
    return _Frames(joined, packet, packet % HELD_OUT == HELD_OUT - 1)


def _contexts(stage: int) -> list[Context]:
    """``(stage, offset)`` of the contexts of ``stage``, without repetition."""
    if stage == 0:
        return [(0, -1), (0, -2)]
    near = [(stage - back, offset) for back, offset in _NEAR]
    pairs = [pair for pair in (*near, *_FIRST) if 0 <= pair[0] < stage]
    return list(dict.fromkeys(pairs))


def _fit_stage(
    frames: _Frames, stage: int, pairs: Sequence[Context], size: int, n_classes: int, rank: int
) -> tuple[NDArray[np.uint8], Floats, Floats, Floats]:
    """Classes ``[J, K + 1]``, vectors ``[J, C + 1, R]``, basis ``[R, K]``, bias ``[K]``; products in bits."""
    target, is_counted = frames.codes[stage], ~frames.is_held_out
    own = (np.bincount(target, minlength=size) + 0.5).astype(np.float64)
    own /= own.sum()
    classes = np.empty((len(pairs), size + 1), dtype=np.uint8)
    seen = []  # class of each context at each frame
    counts = np.zeros((2, len(pairs), n_classes + 1, size))  # of the packets not held out, and of all
    for j, (source, offset) in enumerate(pairs):
        context = frames.context(source, offset, size)
        kept = np.bincount((context * size + target)[is_counted], minlength=(size + 1) * size)
        classes[j] = _cluster(kept.reshape(size + 1, size)[:size], own, n_classes)
        seen.append(classes[j][context].astype(np.int64))
        for row, chosen in enumerate((is_counted, slice(None))):
            pair = seen[-1][chosen] * size + target[chosen]
            counts[row, j] = np.bincount(pair, minlength=(n_classes + 1) * size).reshape(-1, size)
    weights = np.full(len(pairs), len(pairs) ** -0.5)
    weighing = np.flatnonzero(frames.is_held_out)
    if len(weighing) >= N_WEIGHING // 10:
        weighing = weighing[:: -(-len(weighing) // N_WEIGHING)]
        vectors, basis = _factorize(counts[0], own, rank)
        chosen = np.stack([vectors[j, row[weighing]] for j, row in enumerate(seen)], axis=1)  # [N, J, R]
        weights = _weigh(chosen, basis, np.log(own), target[weighing], weights)
    vectors, basis = _factorize(counts[1], own, rank)
    bits = 1 / np.log(2)
    return classes, vectors * weights[:, None, None] * bits, basis, np.log(own) * bits


def _cluster(counts: Indices, own: Floats, n_classes: int, n_iterations: int = 10) -> NDArray[np.uint8]:
    """Class of each context codeword, ``[K + 1]``, from its ``[K, K]`` counts; the last, absent, is alone."""
    table = counts.astype(np.float32)
    n_seen = table.sum(axis=1)
    prior = (20 * own).astype(np.float32)
    alone = (table + prior) / (n_seen[:, None] + 20)
    order = np.argsort(-n_seen, kind="stable")
    centers = alone[order[np.linspace(0, len(order) // 2, n_classes).astype(int)]]
    best = (table * np.log(alone)).sum(axis=1)  # log-likelihood of a codeword in a class of its own
    chosen = np.zeros(len(table), dtype=np.int64)
    for _ in range(n_iterations):
        score = table @ np.log(centers).T  # [K, C]
        chosen = score.argmax(axis=1)
        members = np.eye(n_classes, dtype=np.float32)[chosen]
        sums = members.T @ table
        n_members = sums.sum(axis=1)
        centers = (sums + prior) / (n_members[:, None] + 20)
        poor = np.flatnonzero(n_members < MIN_CLASS)
        worst = np.argsort(score.max(axis=1) - best, kind="stable")
        centers[poor[: len(worst)]] = alone[worst[: len(poor)]]
    return np.append(chosen, n_classes).astype(np.uint8)


def _factorize(counts: Floats, own: Floats, rank: int) -> tuple[Floats, Floats]:
    """Counts ``[J, C, K]`` to vectors ``[J, C, R]`` and basis ``[R, K]`` whose product is the log ratio."""
    n_contexts, n_classes, size = counts.shape
    n_seen = counts.sum(axis=2, keepdims=True)
    ratio = np.log((counts + PRIOR_COUNTS * own) / (n_seen + PRIOR_COUNTS)) - np.log(own)
    rows = np.sqrt(n_seen / n_seen.sum() + 1e-5).reshape(-1, 1)
    columns = np.sqrt(own + 1e-5)
    scaled = ratio.reshape(-1, size) * rows * columns
    values, axes = np.linalg.eigh(scaled @ scaled.T)  # ascending
    n_kept = min(rank, len(values))
    axes = axes[:, ::-1][:, :n_kept]
    length = np.sqrt(np.maximum(values[::-1][:n_kept], 1e-12))
    vectors, basis = np.zeros((n_contexts * n_classes, rank)), np.zeros((rank, size))
    vectors[:, :n_kept] = axes * length / rows
    basis[:n_kept] = (axes.T @ scaled) / length[:, None] / columns
    return vectors.reshape(n_contexts, n_classes, rank), basis


def _weigh(chosen: Floats, basis: Floats, own: Floats, target: Indices, start: Floats) -> Floats:
    """Weights ``[J]`` of experts with vectors ``chosen`` ``[N, J, R]`` that suit ``target`` ``[N]`` best."""
    weights = start
    ridge = 1e-3 * np.eye(len(start))
    for _ in range(8):
        scores = np.einsum("njr,j->nr", chosen, weights) @ basis + own  # [N, K]
        odds = np.exp(scores - scores.max(axis=1, keepdims=True))
        odds /= odds.sum(axis=1, keepdims=True)
        mean = odds @ basis.T  # [N, R]
        gradient = np.einsum("njr,nr->j", chosen, mean - basis[:, target].T) / len(target)
        square = (odds @ (basis[:, None] * basis[None]).reshape(-1, basis.shape[1]).T).reshape(
            len(target), len(basis), len(basis)
        )
        spread = square - mean[:, :, None] * mean[:, None, :]  # [N, R, R] covariance of the basis
        curvature = np.einsum("njr,nrs,nks->jk", chosen, spread, chosen, optimize=True) / len(target)
        step = np.linalg.solve(curvature + ridge, gradient + ridge @ (weights - start))
        weights = np.clip(weights - step, 0.0, 2.0)
        if np.abs(step).max() < 5e-3:
            break
    return weights


def _round(
    vectors: Floats, basis: Floats, bias: Floats
) -> tuple[NDArray[np.int16], NDArray[np.int8], NDArray[np.int32], int]:
    """Integers with as many binary digits of fraction as keep every sum exact; returns those digits last."""
    peaks = np.abs(basis).max(axis=1).clip(1e-9)
    whole_basis = np.round(basis / peaks[:, None] * 127).astype(np.int8)
    scaled = vectors * (peaks / 127)
    for fraction in range(16, STEP_BITS - 1, -1):
        whole_vectors = np.round(scaled * 2.0**fraction)
        if np.abs(whole_vectors).max(initial=0) > np.iinfo(np.int16).max:
            continue
        parts = whole_vectors.astype(np.int16), whole_basis, np.round(bias * 2.0**fraction).astype(np.int32)
        if int(score_bounds(parts[0][None], parts[1][None], parts[2][None]).max()) < SCORE_LIMIT:
            return *parts, fraction
    raise DataError("the codes are too regular for integer tables; fit on more, and more varied, audio")
