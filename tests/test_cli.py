"""The command line as a user meets it: exit status, stdout, stderr, and what is in the folder afterwards."""

import json
import subprocess
import sys
import time
from contextlib import contextmanager

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from telucodec.bitstream.coder import ENTROPY_MODES
from telucodec.bitstream.container import Stream, read_header
from telucodec.cli import app


@pytest.fixture
def invoke():
    """Run a command line in this process; each argument may be a path."""
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def encoded(tmp_path, invoke, model_folder, write_noise):
    """``a.codes`` of a second of noise, beside its ``a.wav``."""
    source = write_noise(tmp_path / "a.wav", 16_000)
    assert invoke("encode", source, tmp_path / "a.codes", "--model", model_folder).exit_code == 0
    return tmp_path / "a.codes"


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_file_makes_the_round_trip(tmp_path, invoke, model_folder, encoded):
    result = invoke("decode", encoded, tmp_path / "b.wav", "--model", model_folder)
    assert (result.exit_code, result.stderr) == (0, "")
    assert soundfile.info(tmp_path / "b.wav").frames == 16_000
    assert names(tmp_path) == ["a.codes", "a.wav", "b.wav"]


def test_json_on_stdout_is_all_there_is(tmp_path, invoke, model_folder, write_noise):
    source = write_noise(tmp_path / "a.wav", 48_000, rate_hz=48_000, n_channels=2)
    result = invoke("encode", source, tmp_path / "a.codes", "--kbps", 1.2, "--model", model_folder, "--json")
    assert result.exit_code == 0
    facts = json.loads(result.stdout)
    assert facts["n_codebooks"] == 2
    assert facts["file_kbps"] == pytest.approx((tmp_path / "a.codes").stat().st_size * 8 / 1000)
    assert result.stderr == f"{source}: 2 channels mixed down to 1, resampled from 48000 Hz to 16000 Hz\n"


def test_a_tree_gives_one_json_object_per_file(tmp_path, invoke, model_folder, write_noise):
    for name in ("a.wav", "te/b.flac"):
        write_noise(tmp_path / "in" / name, 800)
    encoded = invoke("encode", tmp_path / "in", tmp_path / "codes", "--model", model_folder, "--json")
    assert [json.loads(line)["n_samples"] for line in encoded.stdout.splitlines()] == [800, 800]
    decoded = invoke("decode", tmp_path / "codes", tmp_path / "out", "--model", model_folder, "--json")
    assert [json.loads(line)["target"] for line in decoded.stdout.splitlines()] == [
        str(tmp_path / "out/a.wav"),
        str(tmp_path / "out/te/b.wav"),
    ]


def test_one_bad_file_in_a_tree_is_named_and_the_status_is_1(tmp_path, invoke, model_folder, write_noise):
    write_noise(tmp_path / "in/a.wav", 800)
    (tmp_path / "in/b.wav").write_bytes(b"not audio")
    result = invoke("encode", tmp_path / "in", tmp_path / "codes", "--model", model_folder, "--json")
    assert result.exit_code == 1
    assert len(result.stdout.splitlines()) == 1
    complaint, summary = result.stderr.splitlines()
    assert complaint.startswith(f"error: {tmp_path}/in/b.wav is not audio")
    assert summary == "1 of 2 files could not be used"
    assert names(tmp_path / "codes") == ["a.codes"]


def test_a_table_is_not_folded_when_it_is_piped(tmp_path, invoke, model_folder, write_noise):
    long_name = "a" * 120
    write_noise(tmp_path / f"{long_name}.wav", 3_200)
    result = invoke(
        "encode", tmp_path / f"{long_name}.wav", tmp_path / f"{long_name}.codes", "--model", model_folder
    )
    header, row = result.stdout.splitlines()
    assert header.split()[:3] == ["file", "seconds", "codebooks"]
    assert row.split()[:3] == [str(tmp_path / f"{long_name}.codes"), "0.200", "4"]


@pytest.mark.parametrize("command", ["encode", "decode"])
def test_an_existing_output_is_kept_unless_told_otherwise(tmp_path, invoke, model_folder, encoded, command):
    source, target = (tmp_path / "a.wav", encoded) if command == "encode" else (encoded, tmp_path / "a.wav")
    before = target.read_bytes()
    result = invoke(command, source, target, "--model", model_folder)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"error: {target} exists; pass --overwrite to replace it\n"
    assert target.read_bytes() == before
    assert invoke(command, source, target, "--model", model_folder, "--overwrite").exit_code == 0
    assert names(tmp_path) == ["a.codes", "a.wav"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(None, "does not exist", id="missing"),
        pytest.param(b"", "is empty: 0 bytes", id="empty"),
        pytest.param(b"just a text", "is not audio that libsndfile reads", id="text"),
        pytest.param("cut", "is cut short", id="truncated"),
    ],
)
def test_unusable_audio_gives_one_line_and_no_file(
    tmp_path, invoke, model_folder, write_noise, content, message
):
    source = tmp_path / "bad.wav"
    if content == "cut":
        source.write_bytes(write_noise(source, 5_000).read_bytes()[:3_000])
    elif content is not None:
        source.write_bytes(content)
    before = names(tmp_path)
    result = invoke("encode", source, tmp_path / "a.codes", "--model", model_folder)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"error: {source} {message}")
    assert result.stderr.count("\n") == 1
    assert names(tmp_path) == before


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(lambda data: b"", "truncated stream: 0 bytes", id="empty"),
        pytest.param(lambda data: data[:90], "truncated stream", id="truncated"),
        pytest.param(
            lambda data: data[:30] + bytes([data[30] ^ 4]) + data[31:], "damaged stream", id="flipped bit"
        ),
        pytest.param(lambda data: b"RIFF" + data[4:], "not a .codes stream", id="other format"),
    ],
)
@pytest.mark.parametrize("command", ["decode", "info"])
def test_an_unusable_stream_gives_one_line_and_no_file(
    tmp_path, invoke, model_folder, encoded, command, damage, message
):
    encoded.write_bytes(damage(encoded.read_bytes()))
    before = names(tmp_path)
    more = [tmp_path / "b.wav", "--model", model_folder] if command == "decode" else []
    result = invoke(command, encoded, *more)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"error: {encoded}: {message}")
    assert result.stderr.count("\n") == 1
    assert names(tmp_path) == before


@pytest.fixture
def damaged(encoded):
    """`encoded` with one bit flipped in the second of its three packets."""
    data = bytearray(encoded.read_bytes())
    data[300] ^= 4
    encoded.write_bytes(data)
    return encoded


def test_a_damaged_packet_is_bridged_and_told(tmp_path, invoke, model_folder, damaged):
    result = invoke("decode", damaged, tmp_path / "b.wav", "--model", model_folder)
    assert result.exit_code == 0
    assert result.stderr == f"warning: {damaged}: packet 1 lost: its checksum does not match; bridged\n"
    assert soundfile.info(tmp_path / "b.wav").frames == 16_000


def test_a_damaged_stream_is_refused_when_told_to_be_strict(tmp_path, invoke, model_folder, damaged):
    result = invoke("decode", damaged, tmp_path / "b.wav", "--model", model_folder, "--strict")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"error: {damaged}: damaged stream: packet 1 lost")
    assert not (tmp_path / "b.wav").exists()


def test_info_describes_a_damaged_stream_and_has_status_1(invoke, damaged):
    result = invoke("info", damaged, "--json")
    assert result.exit_code == 1
    facts = json.loads(result.stdout)
    assert (facts["n_packets"], facts["n_lost_packets"], facts["n_samples"]) == (2, 1, 16_000)
    assert facts["damage"] == ["packet 1 lost: its checksum does not match"]
    assert result.stderr.startswith(f"error: {damaged}: damaged stream: packet 1 lost")


@pytest.mark.parametrize("options", [("--kbps", 1.2), ("--codebooks", 2)], ids=["rate", "stages"])
def test_truncating_keeps_the_first_stages_of_every_frame(tmp_path, invoke, encoded, options):
    result = invoke("truncate", encoded, tmp_path / "b.codes", *options, "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["n_codebooks"] == 2
    shorter, longer = (Stream.from_bytes(path.read_bytes()) for path in (tmp_path / "b.codes", encoded))
    assert len(longer.codes) > 2
    np.testing.assert_array_equal(shorter.codes, longer.codes[:2])
    assert shorter.n_samples == longer.n_samples


def test_truncating_needs_neither_model_nor_torch(tmp_path, encoded):
    code = "import sys; from telucodec.cli import app; app(sys.argv[1:], standalone_mode=False)"
    probe = f"{code}; sys.exit('torch' in sys.modules)"
    arguments = ["truncate", str(encoded), str(tmp_path / "b.codes"), "--codebooks", "1"]
    assert subprocess.run([sys.executable, "-c", probe, *arguments], check=False).returncode == 0


def test_losses_are_simulated_and_measured(tmp_path, invoke, model_folder, encoded):
    arguments = ("simulate-loss", encoded, tmp_path / "b.wav", "--model", model_folder, "--json")
    facts = json.loads(invoke(*arguments, "--gilbert", "1,0").stdout)
    assert (facts["n_packets"], facts["n_lost"], facts["loss_rate"]) == (3, 3, 1.0)
    assert "snr_db" in facts
    assert soundfile.info(tmp_path / "b.wav").frames == 16_000
    again = invoke(*arguments, "--gilbert", "0,1", "--overwrite")
    assert json.loads(again.stdout)["n_lost"] == 0


@pytest.mark.parametrize("n_channels", [1, 2])
@pytest.mark.parametrize("rate_hz", [8_000, 24_000, 44_100, 48_000])
def test_any_rate_and_channels_come_back_with_the_duration(
    tmp_path, invoke, model_folder, write_noise, rate_hz, n_channels
):
    source = write_noise(tmp_path / "a.wav", rate_hz // 10 + 1, rate_hz=rate_hz, n_channels=n_channels)
    assert invoke("encode", source, tmp_path / "a.codes", "--model", model_folder).exit_code == 0
    assert invoke("decode", tmp_path / "a.codes", tmp_path / "b.wav", "--model", model_folder).exit_code == 0
    assert soundfile.info(tmp_path / "b.wav").frames == -(-(rate_hz // 10 + 1) * 16_000 // rate_hz)


def test_pipes_carry_a_recording_there_and_back(tmp_path, model_folder, write_noise):
    source = write_noise(tmp_path / "a.wav", 4_000)
    through = ["-", "-", "--model", str(model_folder)]
    encoded = CliRunner().invoke(app, ["encode", *through], input=source.read_bytes())
    assert (encoded.exit_code, encoded.stderr) == (0, "")
    decoded = CliRunner().invoke(app, ["decode", *through], input=encoded.stdout_bytes)
    assert (decoded.exit_code, decoded.stderr) == (0, "")
    (tmp_path / "b.wav").write_bytes(decoded.stdout_bytes)
    assert soundfile.read(tmp_path / "b.wav")[0].shape == (4_000,)
    raw = CliRunner().invoke(app, ["decode", *through, "--raw"], input=encoded.stdout_bytes)
    assert decoded.stdout_bytes[44:] == raw.stdout_bytes


@contextmanager
def full_disk():
    """No file may grow past 200 bytes."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("command", ["encode", "decode"])
def test_a_full_disk_gives_one_line_and_no_file(tmp_path, invoke, model_folder, encoded, command):
    source, target = (tmp_path / "a.wav", "b.codes") if command == "encode" else (encoded, "b.wav")
    with full_disk():
        result = invoke(command, source, tmp_path / target, "--model", model_folder)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"error: cannot write {tmp_path / target}: ")
    assert result.stderr.endswith("choose another place or free some space\n")
    assert names(tmp_path) == ["a.codes", "a.wav"]


def test_a_run_killed_in_the_middle_leaves_nothing_under_the_final_name(tmp_path, model_folder, write_noise):
    source = write_noise(tmp_path / "a.wav", 16_000 * 300)
    command = [sys.executable, "-m", "telucodec", "encode", source, tmp_path / "out/a.codes"]
    process = subprocess.Popen([*map(str, command), "--model", str(model_folder)])
    while not list((tmp_path / "out").glob(".telucodec-*")) and process.poll() is None:
        time.sleep(0.005)
    assert process.poll() is None, "the run ended before it could be killed"
    process.kill()
    process.wait()
    assert not (tmp_path / "out/a.codes").exists()


def test_a_stream_of_other_weights_is_refused(tmp_path, invoke, other_model_folder, encoded):
    result = invoke("decode", encoded, tmp_path / "b.wav", "--model", other_model_folder)
    assert result.exit_code == 1
    assert "pass --model with the weights that made it" in result.stderr
    assert not (tmp_path / "b.wav").exists()


@pytest.mark.parametrize("n_samples", [0, 1])
def test_hardly_any_samples_make_the_round_trip(tmp_path, invoke, model_folder, write_noise, n_samples):
    write_noise(tmp_path / "a.wav", n_samples)
    assert invoke("encode", tmp_path / "a.wav", tmp_path / "a.codes", "--model", model_folder).exit_code == 0
    assert invoke("decode", tmp_path / "a.codes", tmp_path / "b.wav", "--model", model_folder).exit_code == 0
    assert soundfile.info(tmp_path / "b.wav").frames == n_samples
    facts = json.loads(invoke("info", tmp_path / "a.codes", "--json").stdout)
    assert facts["seconds"] == n_samples / 16_000
    assert (facts["file_kbps"] is None) == (n_samples == 0)


def test_info_gives_the_promised_facts_to_programs_and_people(invoke, codec, encoded):
    facts = json.loads(invoke("info", encoded, "--json").stdout)
    assert facts["format_version"] == 1
    assert facts["model_id"] == codec.model_id.hex()
    assert (facts["sample_rate_hz"], facts["n_samples"], facts["seconds"]) == (16_000, 16_000, 1.0)
    assert facts["n_codebooks"] == 4
    assert facts["file_kbps"] == pytest.approx(encoded.stat().st_size * 8 / 1000)
    n_overhead = 48 + 2 * (2 + 4) + (3 + 4)  # header, two full packets, the last one
    assert facts["payload_kbps"] == pytest.approx((encoded.stat().st_size - n_overhead) * 8 / 1000)
    assert (facts["n_packets"], facts["n_lost_packets"], facts["damage"]) == (3, 0, [])
    lines = dict(line.split(maxsplit=1) for line in invoke("info", encoded).stdout.splitlines())
    assert lines.keys() == facts.keys()
    assert lines["model_id"] == facts["model_id"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--kbps", "0.4"], "0.4 kbps is less than one stage; expected 0.5 to 2 kbps"),
        (["--codebooks", "9"], "9 codebooks asked for; this model has 1 to 4"),
    ],
    ids=["rate", "stages"],
)
def test_an_impossible_rate_is_refused_before_any_work(
    tmp_path, invoke, model_folder, write_noise, options, message
):
    source = write_noise(tmp_path / "a.wav", 100)
    result = invoke("encode", source, tmp_path / "a.codes", "--model", model_folder, *options)
    assert (result.exit_code, result.stderr) == (1, f"error: {message}\n")


def test_a_model_that_is_not_there_is_refused(tmp_path, invoke, write_noise):
    source = write_noise(tmp_path / "a.wav", 100)
    result = invoke("encode", source, tmp_path / "a.codes", "--model", tmp_path / "nothing")
    assert result.exit_code == 1
    assert "expected a folder written by `telucodec train` or a shipped name" in result.stderr


def test_eval_shows_files_and_means_with_intervals(tmp_path, invoke, model_folder, write_noise):
    for name, n_samples in (("a.wav", 8_000), ("b.wav", 9_000)):
        write_noise(tmp_path / "in" / name, n_samples)
    result = invoke("eval", tmp_path / "in", "--kbps", 1, 2, "--model", model_folder, "--snr")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines[1:5]] == ["a.wav", "a.wav", "b.wav", "b.wav"]
    for title in ("SNR dB", "SI-SDR dB", "range", "RMS dB", "DC", "MR-STFT", "PESQ-WB", "STOI"):
        assert title in lines[0]
    assert "telucodec 1" in result.stdout
    assert "[" in result.stdout  # an interval
    assert names(tmp_path) == ["in/a.wav", "in/b.wav"]


def test_eval_prints_an_object_per_file_and_the_summary(tmp_path, invoke, model_folder, write_noise):
    write_noise(tmp_path / "a.wav", 8_000)
    result = invoke("eval", "--data-dir", tmp_path, "--model", model_folder, "--json")
    row, summary = map(json.loads, result.stdout.splitlines())
    assert row["clip"] == "a.wav"
    assert row["kbps"] > row["payload_kbps"] > 0
    assert summary["snr_db"]["mean"] == row["snr_db"]


def test_eval_keeps_the_files_it_made_on_request(tmp_path, invoke, model_folder, write_noise):
    source = write_noise(tmp_path / "a.wav", 8_000)
    arguments = ["eval", source, "--model", model_folder, "--keep", tmp_path / "kept"]
    assert invoke(*arguments).exit_code == 0
    assert names(tmp_path / "kept") == ["a.codes", "a.wav"]
    assert "pass --overwrite" in invoke(*arguments).stderr
    assert invoke(*arguments, "--overwrite").exit_code == 0


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["encode"], id="no files"),
        pytest.param(["encode", "a.wav", "a.codes", "--kbps", "3", "--codebooks", "2"], id="rate and stages"),
        pytest.param(["encode", "a.wav", "a.codes", "--device", "tpu"], id="device"),
        pytest.param(["encode", "a.wav", "a.codes", "--no-such-option"], id="option"),
        pytest.param(["encode", "-", "a.codes"], id="half a pipe"),
        pytest.param(["encode", "a.wav", "a.codes", "--raw", "--rate", "8000"], id="raw file"),
        pytest.param(["encode", "-", "-", "--raw"], id="raw without rate"),
        pytest.param(["truncate", "a.codes", "b.codes"], id="truncate to what"),
        pytest.param(["simulate-loss", "a.codes", "b.wav", "--gilbert", "0.1"], id="half a line"),
        pytest.param(["eval"], id="nothing to measure"),
        pytest.param(["train"], id="nothing to train on"),
        pytest.param(["train", "--data-dir", "d", "--epochs", "1", "--max-steps", "1"], id="two ends"),
        pytest.param(["train", "--data-dir", "d", "--resume", "r", "--out", "o"], id="two run folders"),
        pytest.param(["sing"], id="command"),
    ],
)
def test_wrong_usage_has_status_2_and_an_empty_stdout(invoke, arguments):
    result = invoke(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr


TINY_RUN = (
    *("model.width=8", "model.fine_width=8", "model.n_encoder_units=1", "model.n_decoder_units=1"),
    *("model.n_fine_units=1", "model.latent_dim=16", "model.quantizer.n_codebooks=2"),
    *("model.quantizer.codebook_size=16", "data.crop_s=0.5", "data.validation_share=0.5"),
    *("train.validation_kbps=[0.4]", "train.best_metric=mel@0.4", "train.n_validation_clips=1"),
)


def test_a_trained_run_is_resumed_under_its_own_settings_and_its_weights_encode(
    tmp_path, invoke, write_noise, monkeypatch
):
    monkeypatch.setenv("TELUCODEC_CACHE", str(tmp_path / "cache"))
    for speaker, n_samples in (("a", 16_000), ("b", 16_001)):
        write_noise(tmp_path / "data" / f"{speaker}-1.wav", n_samples)
    run = tmp_path / "run"
    settings = [word for setting in TINY_RUN for word in ("--set", setting)]
    start = ("train", "--data-dir", tmp_path / "data", "--out", run, "--max-steps", 1, "--skip-preflight")
    first = invoke(*start, "--batch-size", 2, *settings)
    assert (first.exit_code, first.stdout) == (0, f"weights  {run / 'weights'}\n"), first.stderr
    for figure in ("loss", "output [", "DC mean", "range ratio", "output_scale", "VQ loss", "SNR"):
        assert figure in first.stderr
    again = invoke(*start, *settings)
    assert again.exit_code == 1
    assert "--resume" in again.stderr
    resumed = invoke("train", "--data-dir", tmp_path / "data", "--resume", run, "--max-steps", 2)
    assert resumed.exit_code == 0, resumed.stderr
    before, after = (json.loads(line)["config"] for line in (run / "run.jsonl").read_text().splitlines())
    assert (before["train"].pop("n_steps"), after["train"].pop("n_steps")) == (1, 2)
    assert before == after
    encoded = invoke("encode", tmp_path / "data/a-1.wav", tmp_path / "a.codes", "--model", run / "weights")
    assert encoded.exit_code == 0
    mode = read_header((tmp_path / "a.codes").read_bytes()).entropy_mode
    assert mode == ENTROPY_MODES["static"], "with the tables that training ends with"


def test_the_doctor_forbids_with_status_3_before_a_run_and_without_one(
    tmp_path, invoke, write_noise, monkeypatch
):
    monkeypatch.setenv("TELUCODEC_CACHE", str(tmp_path / "cache"))
    for speaker, n_samples in (("a", 16_000), ("b", 16_001)):
        write_noise(tmp_path / "data" / f"{speaker}-1.wav", n_samples)
    settings = [
        word for setting in (*TINY_RUN, "doctor.max_parameters_m=0.001") for word in ("--set", setting)
    ]
    checked = invoke("doctor", "--data-dir", tmp_path / "data", *settings)
    assert (checked.exit_code, checked.stdout) == (3, "do not start: parameter-bomb\n")
    assert "largest module" in checked.stderr
    run = tmp_path / "run"
    refused = invoke("train", "--data-dir", tmp_path / "data", "--out", run, *settings)
    assert (refused.exit_code, refused.stdout) == (3, f"diagnosis  {run / 'diagnosis.md'}\n")
    assert names(run) == ["diagnosis.json", "diagnosis.md"]


def test_a_folder_without_audio_cannot_be_trained_on(tmp_path, invoke):
    (tmp_path / "data").mkdir()
    result = invoke("train", "--data-dir", tmp_path / "data", "--out", tmp_path / "run")
    assert (result.exit_code, result.stdout) == (1, "")
    assert str(tmp_path / "data") in result.stderr


def test_a_run_that_never_was_cannot_be_resumed(tmp_path, invoke):
    result = invoke("train", "--data-dir", tmp_path, "--resume", tmp_path / "none")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "is not a run to resume" in result.stderr
    (tmp_path / "run.jsonl").write_text("{}")
    assert "run.jsonl is damaged" in invoke("train", "--data-dir", tmp_path, "--resume", tmp_path).stderr


@pytest.mark.parametrize("command", app.registered_commands, ids=lambda c: c.name or c.callback.__name__)
def test_every_command_says_what_it_does(invoke, command):
    assert command.callback.__doc__
    assert invoke(command.name or command.callback.__name__, "--help").exit_code == 0


def test_the_commands_are_there(invoke):
    shown = invoke("--help").stdout
    assert all(
        f" {command} " in shown
        for command in ("train", "doctor", "encode", "decode", "eval", "info", "truncate")
    )
    assert invoke("--version").stdout.startswith("telucodec ")


def test_help_does_not_wait_for_torch():
    probe = "import sys, telucodec.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", probe], check=False).returncode == 0


def test_the_package_runs_as_a_program():
    result = subprocess.run(
        [sys.executable, "-m", "telucodec", "--help"], check=False, capture_output=True, text=True
    )
    assert result.returncode == 0
    assert "Usage: telucodec" in result.stdout
