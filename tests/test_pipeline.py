"""Files through the whole codec: lengths kept, trees kept, nothing destroyed, nothing half-written."""

import dataclasses

import pytest
import soundfile
import torch
from conftest import build_tiny

from telucodec.allocation import plan_stages
from telucodec.bitstream.container import Stream, summarize
from telucodec.errors import AudioError, BitstreamError, ConfigError, ModelError, TelucodecError
from telucodec.pipeline import (
    EncodeOptions,
    Failure,
    check_options,
    choose_device,
    decode_file,
    decode_jobs,
    decode_tree,
    encode_file,
    encode_jobs,
    encode_tree,
    find_model,
)


def names(folder):
    """Every file below ``folder``, hidden ones included."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("n_samples", [0, 1, 2, 319, 320, 321, 640, 641, 5_000])
def test_as_many_samples_come_out_as_went_in(tmp_path, codec, write_noise, n_samples):
    source = write_noise(tmp_path / "a.wav", n_samples)
    encoded = encode_file(codec, source, tmp_path / "a.codes")
    decoded = decode_file(codec, tmp_path / "a.codes", tmp_path / "b.wav")
    info = soundfile.info(tmp_path / "b.wav")
    assert (info.frames, info.samplerate, info.channels, info.subtype) == (n_samples, 16_000, 1, "PCM_16")
    assert encoded.header == decoded.header
    assert encoded.header.n_samples == n_samples


def test_the_file_holds_the_codes_of_the_codec(tmp_path, codec, write_noise):
    encode_file(codec, write_noise(tmp_path / "a.wav", 3_000), tmp_path / "a.codes", n_codebooks=3)
    stream = Stream.from_bytes((tmp_path / "a.codes").read_bytes())
    pcm, _ = soundfile.read(tmp_path / "a.wav", dtype="float32")
    expected = codec.encode(torch.from_numpy(pcm)[None, None], n_codebooks=3)
    assert torch.equal(torch.from_numpy(stream.codes.astype("int64")), expected[0])
    assert stream.model_id == codec.model_id != bytes(8)


def test_rates_are_counted_from_the_bytes_on_the_disk(tmp_path, codec, write_noise):
    report = encode_file(codec, write_noise(tmp_path / "a.wav", 16_000), tmp_path / "a.codes", n_codebooks=2)
    n_bytes = (tmp_path / "a.codes").stat().st_size
    assert report.file_kbps == pytest.approx(n_bytes * 8 / 1000)
    assert report.summary == summarize((tmp_path / "a.codes").read_bytes())
    payload_bytes = 2 * (25 * 2 * 10 // 8 + 1) + -(-1 * 2 * 10 // 8)  # 51 frames in packets of 25, 25 and 1
    assert report.payload_kbps == pytest.approx(payload_bytes * 8 / 1000)
    assert report.real_time_factor == report.work_s > 0
    assert report.describe()["file_kbps"] == report.file_kbps


def test_the_same_audio_gives_the_same_bytes(tmp_path, codec, write_noise):
    source = write_noise(tmp_path / "a.wav", 2_000)
    for name in ("a.codes", "b.codes"):
        encode_file(codec, source, tmp_path / name)
    assert (tmp_path / "a.codes").read_bytes() == (tmp_path / "b.codes").read_bytes()


def test_other_rates_and_channels_are_converted_and_said(tmp_path, codec, write_noise):
    source = write_noise(tmp_path / "a.wav", 4_410, rate_hz=44_100, n_channels=2)
    report = encode_file(codec, source, tmp_path / "a.codes")
    assert report.header.n_samples == 1_600
    assert report.changes == "2 channels mixed down to 1, resampled from 44100 Hz to 16000 Hz"


@pytest.mark.parametrize(
    ("kbps", "expected"), [(0.5, 1), (0.99, 1), (1.0, 2), (1.4999, 2), (1.5, 3), (2.0, 4), (99.0, 4)]
)
def test_the_rate_asked_for_is_the_most_that_is_written(codec, kbps, expected):
    assert plan_stages(codec.config, codec.folder, kbps=kbps).n_codebooks == expected


@pytest.mark.parametrize("kbps", [0.49, 0.0, -1.0, float("nan")])
def test_a_rate_below_one_stage_is_refused_with_the_range(codec, kbps):
    with pytest.raises(ConfigError, match=r"less than one stage; expected 0\.5 to 2 kbps"):
        check_options(codec, EncodeOptions(kbps=kbps))


@pytest.mark.parametrize("n_codebooks", [0, 5])
def test_more_stages_than_there_are_is_refused(codec, n_codebooks):
    with pytest.raises(ConfigError, match="this model has 1 to 4"):
        check_options(codec, EncodeOptions(n_codebooks=n_codebooks))


def test_a_tree_keeps_its_shape_both_ways(tmp_path, codec, write_noise):
    for name in ("a.wav", "te/b.wav", "te/deep/c.flac"):
        write_noise(tmp_path / "in" / name, 700)
    (tmp_path / "in" / "notes.txt").write_text("not audio, not touched")
    encoded = list(encode_tree(codec, encode_jobs(tmp_path / "in", tmp_path / "codes")))
    assert names(tmp_path / "codes") == ["a.codes", "te/b.codes", "te/deep/c.codes"]
    decoded = list(decode_tree(codec, decode_jobs(tmp_path / "codes", tmp_path / "out")))
    assert names(tmp_path / "out") == ["a.wav", "te/b.wav", "te/deep/c.wav"]
    assert [r.header for r in encoded] == [r.header for r in decoded]


def test_a_bad_file_in_a_tree_is_reported_and_the_others_are_done(tmp_path, codec, write_noise):
    write_noise(tmp_path / "in/a.wav", 700)
    (tmp_path / "in/b.wav").write_bytes(b"not audio")
    write_noise(tmp_path / "in/c.wav", 700)
    results = list(encode_tree(codec, encode_jobs(tmp_path / "in", tmp_path / "codes")))
    assert [isinstance(result, Failure) for result in results] == [False, True, False]
    assert names(tmp_path / "codes") == ["a.codes", "c.codes"]


def test_an_existing_output_is_refused_before_any_work(tmp_path, codec, write_noise):
    write_noise(tmp_path / "in/a.wav", 700)
    write_noise(tmp_path / "in/b.wav", 700)
    (tmp_path / "codes").mkdir()
    (tmp_path / "codes/b.codes").write_bytes(b"precious")
    with pytest.raises(TelucodecError, match=r"b\.codes exists; pass --overwrite to replace it"):
        encode_jobs(tmp_path / "in", tmp_path / "codes")
    with pytest.raises(TelucodecError, match="pass --overwrite"):
        encode_file(codec, tmp_path / "in/b.wav", tmp_path / "codes/b.codes")
    assert (tmp_path / "codes/b.codes").read_bytes() == b"precious"
    jobs = encode_jobs(tmp_path / "in", tmp_path / "codes", overwrite=True)
    assert not any(isinstance(result, Failure) for result in encode_tree(codec, jobs, overwrite=True))
    assert names(tmp_path / "codes") == ["a.codes", "b.codes"]
    assert (tmp_path / "codes/b.codes").read_bytes() != b"precious"


def test_two_sources_for_one_target_are_refused(tmp_path, write_noise):
    write_noise(tmp_path / "in/a.wav", 10)
    write_noise(tmp_path / "in/a.flac", 10)
    with pytest.raises(TelucodecError, match=r"a\.flac and .*a\.wav would both become .*a\.codes"):
        encode_jobs(tmp_path / "in", tmp_path / "codes")


def test_a_file_goes_into_a_folder_that_exists(tmp_path):
    for name in ("a.b.wav", "a.b.codes"):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / name).touch()
    (job,) = encode_jobs(tmp_path / "in/a.b.wav", tmp_path)
    assert job.target == tmp_path / "a.b.codes"
    (job,) = decode_jobs(tmp_path / "in/a.b.codes", tmp_path)
    assert job.target == tmp_path / "a.b.wav"


@pytest.mark.parametrize(
    ("jobs", "source", "target", "message"),
    [
        pytest.param(encode_jobs, "none.wav", "b.codes", "none.wav does not exist", id="encode nothing"),
        pytest.param(decode_jobs, "none.codes", "b.wav", "none.codes does not exist", id="decode nothing"),
        pytest.param(
            encode_jobs, "full/a.wav", "b.wav", "its suffix is '.wav'; expected .codes", id="encode to wav"
        ),
        pytest.param(decode_jobs, "full/a.codes", "b.mp3", "expected .wav or .flac", id="decode to mp3"),
        pytest.param(encode_jobs, "empty", "out", "holds no audio", id="nothing to encode"),
        pytest.param(decode_jobs, "empty", "out", "holds no .codes files", id="nothing to decode"),
        pytest.param(encode_jobs, "full", "full/a.wav", "is a folder, but .* is a file", id="folder to file"),
    ],
)
def test_a_plan_that_cannot_work_is_refused(tmp_path, write_noise, jobs, source, target, message):
    (tmp_path / "empty").mkdir()
    write_noise(tmp_path / "full/a.wav", 10)
    (tmp_path / "full/a.codes").touch()
    with pytest.raises(TelucodecError, match=message):
        jobs(tmp_path / source, tmp_path / target)


@pytest.mark.parametrize(
    "content", [b"", b"not audio", b"RIFF\x24\0\0\0WAVE"], ids=["empty", "text", "header"]
)
def test_what_is_not_audio_leaves_no_output(tmp_path, codec, content):
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(AudioError, match=r"a\.wav"):
        encode_file(codec, tmp_path / "a.wav", tmp_path / "a.codes")
    assert names(tmp_path) == ["a.wav"]


@pytest.mark.parametrize("cut", [0, 4, 47, 48, 60])
def test_a_stream_cut_before_its_first_packet_ends_leaves_no_output(tmp_path, codec, write_noise, cut):
    source = write_noise(tmp_path / "a.wav", 2_000)
    encode_file(codec, source, tmp_path / "a.codes")
    (tmp_path / "a.codes").write_bytes((tmp_path / "a.codes").read_bytes()[:cut])
    with pytest.raises(BitstreamError, match=r"a\.codes: truncated"):
        decode_file(codec, tmp_path / "a.codes", tmp_path / "out.wav")
    assert names(tmp_path) == ["a.codes", "a.wav"]


def test_a_stream_of_other_weights_is_refused_by_name(tmp_path, codec, other_model_folder, write_noise):
    from telucodec.model.codec import load_codec

    encode_file(codec, write_noise(tmp_path / "a.wav", 500), tmp_path / "a.codes")
    other = load_codec(other_model_folder)
    with pytest.raises(
        ModelError, match=f"model {codec.model_id.hex()}, .* {other.model_id.hex()}; pass --model"
    ):
        decode_file(other, tmp_path / "a.codes", tmp_path / "out.wav")
    assert not (tmp_path / "out.wav").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sample_rate_hz": 24_000}, "sample_rate_hz 24000; this model expects 16000"),
        ({"delay": 319}, "delay 319; this model expects 320"),
        ({"codeword_bits": 11}, "codeword_bits 11; this model expects 10"),
        ({"n_codebooks": 5}, "5 codebooks; this model has 4"),
    ],
    ids=["rate", "delay", "bits", "stages"],
)
def test_a_stream_that_does_not_fit_the_model_is_refused(tmp_path, codec, write_noise, change, message):
    encode_file(codec, write_noise(tmp_path / "a.wav", 320), tmp_path / "a.codes")
    stream = Stream.from_bytes((tmp_path / "a.codes").read_bytes())
    codes = stream.codes[:1].repeat(change.get("n_codebooks", 4), axis=0)
    (tmp_path / "b.codes").write_bytes(dataclasses.replace(stream, codes=codes, **change).to_bytes())
    with pytest.raises(ModelError, match=message):
        decode_file(codec, tmp_path / "b.codes", tmp_path / "b.wav")


def test_a_codec_that_never_was_on_a_disk_still_makes_the_round_trip(tmp_path, write_noise):
    fresh = build_tiny(seed=2).eval()
    encode_file(fresh, write_noise(tmp_path / "a.wav", 500), tmp_path / "a.codes")
    assert decode_file(fresh, tmp_path / "a.codes", tmp_path / "b.wav").header.model_id == bytes(8)


def test_a_model_is_a_folder_or_a_shipped_name(model_folder):
    assert find_model(str(model_folder)) == model_folder
    for name in ("no-such-model", "", "../model"):
        with pytest.raises(
            ModelError, match="expected a folder written by `telucodec train` or a shipped name"
        ):
            find_model(name)


def test_a_device_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == "cpu"
    with pytest.raises(ConfigError, match="use --device cpu"):
        choose_device("cuda")
    with pytest.raises(ConfigError, match="expected auto, cpu or cuda"):
        choose_device("tpu")
