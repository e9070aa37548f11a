"""The codec on signals that arrive in pieces: samples to bytes, bytes to samples, as they come.

The encoder's network always runs on the same groups of frames of the signal, however it arrives.
Floating-point sums, and so codes and bytes, therefore depend on the signal and the settings only, never on
the sizes of the pieces. The command line takes the same path, in constant memory.

Packets shorter than `FILE_FRAMES` are live: each is a group of its own, and goes out when its frames are
complete. The delay from the first sample in to the first sample out is then one packet, the codec's own
overlap and 2 ms of the postfilter, and `LIVE_FRAMES` to a packet make it the smallest. Longer packets are for
files: they are made in groups of about `GROUP_FRAMES`, in which the network is several times as fast.

Shapes: B batch, T samples, L frames, D latent width, Q codebooks.
"""

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from telucodec.allocation import StagePlan, build_allocator, plan_stages
from telucodec.bitstream.bitpack import Codes
from telucodec.bitstream.coder import ENTROPY_MODES, PacketCoder
from telucodec.bitstream.container import PacketWriter
from telucodec.bitstream.header import Header
from telucodec.bitstream.packet import Packet
from telucodec.bitstream.parser import Damage, StreamParser, Summary
from telucodec.coders import build_coder, coder_for
from telucodec.decoding import FILE_FRAMES, LatentDecoder, Samples
from telucodec.errors import AudioError, BitstreamError, ConfigError, ModelError
from telucodec.frames import GROUP_FRAMES
from telucodec.ladders import Frames
from telucodec.model.codec import Codec
from telucodec.model.lattice import LatticeQuantizer
from telucodec.model.live import Analysis, analysis, live_analysis
from telucodec.model.postfilter import filter_of
from telucodec.nn.recorded import Recorded
from telucodec.prior.layered import N_BASE
from telucodec.refining import Refiner, refinement_of
from telucodec.searching import build_searcher

LIVE_FRAMES = 1
HELD_FRAMES = 30_000  # over which bits are allocated where a stream is held back, 10 minutes


class StreamEncoder:
    """Samples to the bytes of one stream: ``push`` pieces of any size, then ``flush`` once.

    The weights must not change before that.

    Args:
        n_codebooks: stages to write at most, all if None.
        kbps: payload rate to keep to. ``"variable"`` coding gives each frame the stages that pay for
            themselves, ``"refined"`` codes the waveform of the low band behind them; otherwise as many stages
            are written as other speakers took this rate with.
        frames_per_packet: below `FILE_FRAMES` also the delay, in frames.
        n_samples: of the whole signal if known, for the header; the bytes are otherwise the same.
        entropy: a name of `ENTROPY_MODES`; the best for a rate or number of stages if None.
        is_held: with ``kbps`` and ``"variable"`` coding, hold back up to `HELD_FRAMES` and keep these within
            the rate; otherwise they have it only on average over speakers. High rates are then refined, in
            packets of `FILE_FRAMES` or more; see `telucodec.coders.best_entropy`.

    Raises:
        ConfigError: a setting the model or the format does not have, or a rate below one stage.
    """

    def __init__(
        self,
        codec: Codec,
        *,
        n_codebooks: int | None = None,
        kbps: float | None = None,
        frames_per_packet: int = FILE_FRAMES,
        n_samples: int | None = None,
        entropy: str | None = None,
        has_seek_table: bool = False,
        is_held: bool = False,
    ) -> None:
        config = codec.config
        is_whole = is_held and frames_per_packet >= FILE_FRAMES
        plan = plan_stages(
            config, codec.folder, kbps=kbps, n_codebooks=n_codebooks, entropy=entropy, is_held=is_whole
        )
        coder = build_coder(ENTROPY_MODES[plan.entropy], config.codeword_bits, codec.folder)
        if plan.n_refined and not is_whole:
            raise ConfigError("a refinement needs packets for files, held back; choose --entropy variable")
        self.header = _header(codec, plan, coder, frames_per_packet, n_samples)
        self._codec = codec
        self._n_codebooks = plan.n_codebooks - plan.n_refined  # of the network
        self._like = codec.decoder.output_scale.new_empty(1, 0, 0)
        if frames_per_packet < FILE_FRAMES:
            self._analysis: Analysis | Recorded = live_analysis(codec, self._n_codebooks, frames_per_packet)
            self._state = codec.encoder.initial_state(self._like)
        else:
            self._analysis = analysis(codec, self._n_codebooks)
            self._state = self._analysis.encoder.initial_state(self._like)
        self._refiner = None
        if plan.n_refined:
            assert plan.kbps is not None
            self._refiner = Refiner(codec, plan.n_refined, plan.kbps)
        self._writer = PacketWriter(self.header, coder, has_seek_table=has_seek_table)
        self._is_held = is_held and plan.kbps is not None
        is_stepped = plan.kbps is not None and isinstance(codec.quantizer, LatticeQuantizer)
        self._allocator = build_allocator(
            config,
            codec.folder,
            coder,
            plan,
            is_held=self._is_held,
            codes_at=self._codes_at if is_stepped else None,
            refiner=self._refiner,
        )
        self._searcher = None
        if self._is_held and plan.entropy == "variable" and isinstance(self._analysis, Analysis):
            assert plan.kbps is not None
            self._searcher = build_searcher(
                self._analysis, codec.folder, self._n_codebooks, plan.kbps, config.frame_rate_hz
            )
        self._held: list[Frames] = []  # packets not coded yet
        self._pending = np.zeros(_group_frames(frames_per_packet) * config.hop, dtype=np.float32)
        self._n_pending = 0
        self.n_samples = 0  # that went in
        self.n_bytes = 0  # that came out
        self._is_flushed = False

    def push(self, samples: ArrayLike) -> bytes:
        """Take ``[T]`` samples; returns what they complete: nothing, or the header and whole packets.

        Raises:
            AudioError: a sample is NaN or infinite.
            ValueError: there is more than one dimension, or the stream was flushed before.
        """
        if self._is_flushed:
            raise ValueError("push after flush; make a new StreamEncoder for another stream")
        chunk = np.asarray(samples, dtype=np.float32)
        if chunk.ndim != 1:
            raise ValueError(f"samples have shape {chunk.shape}; expected [T]")
        finite = np.isfinite(chunk)
        if not finite.all():
            first = self.n_samples + int(np.flatnonzero(~finite)[0])
            raise AudioError(f"sample {first} is NaN or infinite; repair the signal")
        out = self._begin()
        while len(chunk):
            n_taken = min(len(chunk), len(self._pending) - self._n_pending)
            self._pending[self._n_pending : self._n_pending + n_taken] = chunk[:n_taken]
            chunk = chunk[n_taken:]
            self._n_pending += n_taken
            self.n_samples += n_taken
            if self._n_pending == len(self._pending):
                out += self._group(len(self._pending) // self.header.hop)
        self.n_bytes += len(out)
        return out

    def flush(self) -> bytes:
        """End the stream: the frames that its last samples still need, and the last packet's mark.

        Raises:
            ValueError: as many samples as were announced have not come, or the stream was flushed before.
        """
        if self._is_flushed:
            raise ValueError("the stream was flushed before")
        if self.header.n_samples not in (None, self.n_samples):
            raise ValueError(f"{self.n_samples} samples came; {self.header.n_samples} were announced")
        self._is_flushed = True
        out = self._begin()
        hop, per_group = self.header.hop, len(self._pending) // self.header.hop
        n_left = -(-(self._n_pending + self.header.delay) // hop) if self.n_samples else 0
        n_padding = n_left * hop - self.header.delay - self._n_pending if n_left else 0
        while n_left > per_group:
            out += self._group(per_group)
            n_left -= per_group
        out += self._group(n_left, n_padding)
        self.n_bytes += len(out)
        return out

    @property
    def finished_header(self) -> Header:
        """The header as it can be written once every sample was seen."""
        return Header(**{**vars(self.header), "n_samples": self.n_samples})

    def summary(self) -> Summary:
        """The stream so far, its length in the header."""
        return Summary(
            header=self.finished_header,
            n_samples=self.n_samples,
            n_packets=self._writer.n_packets,
            file_bytes=self.n_bytes,
            payload_bytes=self._writer.n_payload_bytes,
        )

    def _begin(self) -> bytes:
        return b"" if self.n_bytes else self._writer.begin()

    def _group(self, n_frames: int, n_padding: int | None = None) -> bytes:
        """Packets of the first ``n_frames`` of what is pending, which is zero beyond the signal's end."""
        if n_frames:
            frames = self._analyzed(self._pending[: n_frames * self.header.hop])
            step = self.header.frames_per_packet
            self._held += [frames.part(at, at + step) for at in range(0, n_frames, step)]
        self._pending[:] = 0
        self._n_pending = 0
        n_held = len(self._held) * self.header.frames_per_packet
        if self._is_held and n_padding is None and n_held < HELD_FRAMES:
            return b""
        return self._released(n_padding)

    def _released(self, n_padding: int | None) -> bytes:
        """What is held, as packets; ``n_padding`` makes the last of them the last of the stream."""
        if not self._held:
            return self._writer.coded_packet(0, b"", n_padding)
        sizes = [packet.codes.shape[1] for packet in self._held]
        n_beyond = 0 if n_padding is None else n_padding + self.header.delay  # samples after the signal's end
        seconds = (sum(sizes) * self.header.hop - n_beyond) / self.header.sample_rate_hz
        packets, self._held = self._held, []
        payloads = self._payloads(packets, seconds)
        last = len(payloads) - 1
        return b"".join(
            self._writer.coded_packet(n_frames, payload, n_padding if number == last else None)
            for number, (n_frames, payload) in enumerate(zip(sizes, payloads, strict=True))
        )

    def _payloads(self, packets: list[Frames], seconds: float) -> list[bytes]:
        if self._searcher is None:
            return self._allocator.payloads(packets, seconds)
        payloads = self._allocator.payloads(self._searcher.searched(packets, seconds), seconds)
        if self._searcher.is_short(payloads, seconds):
            payloads = self._allocator.payloads(self._searcher.searched_whole(packets), seconds)
        return payloads

    @torch.inference_mode()
    def _analyzed(self, samples: Samples) -> Frames:
        """Codes and errors of the next whole frames, ``[L * hop]``; latents alone if the codes can wait."""
        wav = torch.from_numpy(samples[None, None]).to(self._like.device)  # [1, 1, T]
        if self._searcher is not None:
            latents, self._state = self._searcher.analysis.encoder.step(wav, self._state)
            return self._searcher.waiting(latents.cpu().numpy()[0].copy())
        (latents, codes, errors), self._state = self._analysis.step(wav, self._state)
        # Copies: small tensors kept between large ones that come and go would let the heap grow.
        is_lattice = isinstance(self._codec.quantizer, LatticeQuantizer)
        kept = latents.cpu().numpy()[0].copy() if is_lattice else None
        targets = None if self._refiner is None else self._refiner.targets(wav)
        return Frames(codes.cpu().numpy()[0].astype(np.uint16), errors.cpu().numpy()[0].copy(), kept, targets)

    @torch.inference_mode()
    def _codes_at(self, latents: NDArray[np.float32], step: int) -> Codes:
        """Codes ``[Q, L]`` of latents ``[D, L]`` with a step, for a lattice quantizer."""
        quantizer = self._codec.quantizer
        assert isinstance(quantizer, LatticeQuantizer)
        given = torch.from_numpy(latents).to(self._like.device)[None]
        codes = quantizer.encode_at(given, torch.tensor([step], device=given.device))
        found: Codes = codes[0, : self._n_codebooks].cpu().numpy().astype(np.uint16)
        return found


class StreamDecoder:
    """The bytes of one stream to samples: ``push`` pieces of any size, then ``flush`` once.

    What is damaged or missing is bridged, see `telucodec.model.concealment`, and told in ``damages``.
    """

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._parser = StreamParser()
        self._n_skip = 0  # samples of delay still to drop
        self._is_ended = False  # nothing is left in the network's postfilter
        self._is_checked = False
        self._damages: list[Damage] = []
        self._place = 0  # of the next frame
        self._collection: list[Packet] = []  # not decoded yet

    @property
    def header(self) -> Header | None:
        """None until it has come."""
        return self._parser.header

    @property
    def damages(self) -> list[Damage]:
        """What was damaged or missing so far."""
        return self._parser.damages + self._damages

    def summary(self) -> Summary:
        """The stream so far; `ValueError` before its header has come."""
        summary = self._parser.summary()
        return Summary(**{**vars(summary), "damages": tuple(self.damages)})

    def push(self, data: bytes) -> Samples:
        """Take bytes; returns the samples they complete, ``[T]``, perhaps none.

        Raises:
            BitstreamError: the header is damaged, or asks for a coder that is not there.
            ModelError: the stream was made with other weights.
        """
        return self._samples(self._parser.push(data))

    def flush(self) -> Samples:
        """The samples still to come of a stream that was cut short, none of a whole one.

        Raises:
            BitstreamError: it had no packet.
        """
        samples = self._samples(self._parser.finish())
        if self._is_ended or not self._is_checked:
            return samples
        return np.concatenate([samples, self._cut(samples[:0], 0)])

    def lose(self, packet: Packet) -> Samples:
        """The samples of a packet as if it had not come, for trying out losses."""
        return self._bridge(packet.n_frames, packet.n_padding)

    def take(self, packet: Packet) -> Samples:
        """The samples of a packet that was read elsewhere; its header must have been pushed before."""
        return self._samples([packet])

    def _samples(self, found: Iterable[Packet | Damage]) -> Samples:
        header = self._parser.header
        if header is not None and not self._is_checked:
            check_fits(header, self._codec)
            self._coder = coder_for(header, self._codec.folder)
            self._network = LatentDecoder(
                self._codec,
                header.n_codebooks,
                header.frames_per_packet,
                has_refinement=is_refined(header.entropy_mode),
            )
            self._n_skip = header.delay + self._network.lag
            self._is_checked = True
        parts = [np.zeros(0, dtype=np.float32)]
        for item in found:
            if isinstance(item, Packet):
                parts += self._collect(item)
            else:
                parts += [self._collected(), self._bridge(item.n_frames, self._padding_after(item))]
        return np.concatenate([*parts, self._collected()])

    def _collect(self, packet: Packet) -> list[Samples]:
        """Take a packet, to be decoded with those around it; samples where that had to happen now."""
        if packet.n_frames:
            self._collection.append(packet)
        is_enough = sum(packet.n_frames for packet in self._collection) >= GROUP_FRAMES
        return [self._collected()] if is_enough else []

    def _collected(self) -> Samples:
        """Samples of the packets collected, neighbors in one run of the network."""
        if not self._collection:
            return np.zeros(0, dtype=np.float32)
        assert self.header is not None
        packets, self._collection = self._collection, []
        coded = [(packet.payload, packet.n_frames) for packet in packets]
        found = self._coder.decode_all(coded, self.header.n_codebooks)
        parts: list[Samples] = []
        codes: list[Codes] = []  # of neighbors
        for packet, item in zip(packets, found, strict=True):
            if isinstance(item, BitstreamError):
                self._damages.append(Damage(packet.index, 1, packet.n_frames, str(item)))
                parts += [self._decoded(codes, None), self.lose(packet)]
                codes = []
            else:
                codes.append(item)
        return np.concatenate([*parts, self._decoded(codes, packets[-1].n_padding)])

    def _decoded(self, codes: list[Codes], n_padding: int | None) -> Samples:
        if not codes:
            return np.zeros(0, dtype=np.float32)
        joined = np.hstack(codes)
        self._place += joined.shape[1]
        return self._cut(self._network.decode(joined), n_padding)

    def _bridge(self, n_frames: int, n_padding: int | None) -> Samples:
        seed = self._place
        self._place += n_frames
        return self._cut(self._network.bridge(n_frames, seed), n_padding)

    def _padding_after(self, damage: Damage) -> int | None:
        """Samples to drop after a gap that reaches the end of a signal of known length; None of others."""
        header = self._parser.header
        assert header is not None
        if header.n_frames is None or self._place + damage.n_frames < header.n_frames:
            return None
        return header.n_frames * header.hop - header.delay - (header.n_samples or 0) if damage.n_frames else 0

    def _cut(self, samples: Samples, n_padding: int | None) -> Samples:
        """``samples`` without those of the delay; the last of the stream, if ``n_padding`` says so."""
        if n_padding is not None:
            self._is_ended = True
            samples = np.concatenate([samples, self._network.finish()])
            samples = samples[: len(samples) - n_padding]
        n_skipped = min(self._n_skip, len(samples))
        self._n_skip -= n_skipped
        return samples[n_skipped:]


def _header(
    codec: Codec, plan: StagePlan, coder: PacketCoder, frames_per_packet: int, n_samples: int | None
) -> Header:
    """The header of a new stream; `ConfigError` for what the format does not have."""
    config = codec.config
    header = Header(
        sample_rate_hz=config.sample_rate_hz,
        hop=config.hop,
        delay=delay_of(codec, coder.mode),
        n_codebooks=plan.n_codebooks,
        codeword_bits=config.codeword_bits,
        n_samples=n_samples,
        model_id=id_of(codec, coder.mode),
        frames_per_packet=frames_per_packet,
        entropy_mode=coder.mode,
        tables_hash=coder.tables_hash,
    )
    complaint = header.complaint()
    if complaint:
        raise ConfigError(complaint)
    return header


def _group_frames(frames_per_packet: int) -> int:
    """Frames that the encoder's network sees at once: whole packets, a fixed number of them."""
    is_live = frames_per_packet < FILE_FRAMES
    return frames_per_packet if is_live else frames_per_packet * -(-GROUP_FRAMES // frames_per_packet)


def is_refined(mode: int) -> bool:
    """Whether streams of this entropy mode have a second layer, for one decoder alone."""
    return mode == ENTROPY_MODES["refined"]


def delay_of(codec: Codec, mode: int) -> int:
    """Samples by which streams of this entropy mode look past the end."""
    if not is_refined(mode):
        return codec.config.delay
    postfilter = filter_of(codec)
    return codec.config.delay + codec.config.hop + (postfilter.delay if postfilter else 0)


def id_of(codec: Codec, mode: int) -> bytes:
    """The model that streams of this entropy mode name."""
    return codec.weights_id if is_refined(mode) else codec.model_id


def check_fits(header: Header, codec: Codec) -> None:
    """Refuse a stream whose codes mean something else in this codec, with a `ModelError`."""
    expected_id, mode = id_of(codec, header.entropy_mode), header.entropy_mode
    if header.model_id != expected_id:
        remedy = " (refined streams are for one decoder: or use the version that made it)"
        raise ModelError(
            f"the stream was made with model {header.model_id.hex()}, the weights at hand are "
            f"{expected_id.hex()}; pass --model with the weights that made it"
            f"{remedy if is_refined(mode) else ''}"
        )
    config = codec.config
    expected = {
        "sample_rate_hz": config.sample_rate_hz,
        "hop": config.hop,
        "delay": delay_of(codec, mode),
        "codeword_bits": config.codeword_bits,
    }
    for name, value in expected.items():
        if getattr(header, name) != value:
            raise ModelError(
                f"the stream has {name} {getattr(header, name)}; this model expects {value}: decode it with "
                "the weights it was made with or, if they are these, another version of telucodec"
            )
    n_codebooks = config.quantizer.n_codebooks
    if is_refined(mode):
        n_codebooks = min(n_codebooks, N_BASE) + refinement_of(codec).n_codebooks
    if header.n_codebooks > n_codebooks:
        raise ModelError(f"the stream has {header.n_codebooks} codebooks; this model has {n_codebooks}")
