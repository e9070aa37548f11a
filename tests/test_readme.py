"""Every command that the README shows can be typed: it exists, and so does every option it is given."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from telucodec.cli import app

ROOT = Path(__file__).parents[1]
SHELL = {"", "bash", "console", "sh", "shell"}  # other fences hold output, code or settings
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)


def shell_lines(text):
    """Lines of the shell fences, continuations joined, prompts removed, cut at pipes and joins."""
    for language, body in FENCE.findall(text):
        if language in SHELL:
            for line in body.replace("\\\n", " ").splitlines():
                words = shlex.split(line.removeprefix("$ "), comments=True)
                yield from split_at_operators(words)


def split_at_operators(words):
    command = []
    for word in [*words, ";"]:
        if word in {"|", "||", "&&", ";", ">", ">>", "2>"}:
            if command:
                yield command
            command = []
        else:
            command.append(word)


def readme_commands(program):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = [words for words in shell_lines(text) if Path(words[0]).name == program]
    return [pytest.param(words[1:], id=" ".join(words)) for words in found]


def parse(arguments):
    """Parse without running anything and without looking at the disk; raises on anything unknown."""
    group = typer.main.get_command(app)
    if arguments[0].startswith("-"):
        group.make_parser(typer.Context(group)).parse_args(list(arguments))
        return
    command = group.commands[arguments[0]]
    _, left, _ = command.make_parser(typer.Context(command)).parse_args(list(arguments[1:]))
    assert not left, f"arguments that nothing takes: {left}"


@pytest.mark.parametrize("arguments", readme_commands("telucodec"))
def test_a_telucodec_line_of_the_readme_parses(arguments):
    parse(arguments)


@pytest.mark.parametrize("arguments", readme_commands("make"))
def test_a_make_line_of_the_readme_names_targets(arguments):
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    named = [word for word in arguments if "=" not in word]
    assert set(named) <= set(targets)


@pytest.mark.parametrize("verb", ["train", "encode", "decode", "eval", "info"])
def test_the_readme_shows_every_verb(verb):
    assert any(param.values[0][:1] == [verb] for param in readme_commands("telucodec"))


@pytest.mark.parametrize(
    "line", ["frobnicate a b", "info --no-such-option a.codes", "decode a.codes --overwrit"]
)
def test_a_line_that_could_not_be_typed_is_noticed(line):
    with pytest.raises(Exception, match=r"frobnicate|no-such-option|overwrit"):
        parse(shlex.split(line))
