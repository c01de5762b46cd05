"""Examples and exit codes, as the help of each command and its man page show them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType

from ..exits import MEANINGS

EXAMPLES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "qwa": (
            "qwa transcribe talk.wav",
            "qwa transcribe *.wav -o talks.jsonl",
            "find . -name '*.flac' -print0 | qwa transcribe -0 --files-from - | jq -r .text",
        ),
        "transcribe": (
            "qwa transcribe examples/*.wav",
            "qwa transcribe --timestamps interview.m4a",
            "qwa transcribe --model qwen3-asr-0.6b talks/",
            "cat a.wav | qwa transcribe -",
            "qwa transcribe -r archive/ -o archive.jsonl --resume",
        ),
        "translate": (
            "qwa translate --to en examples/fr-*.wav",
            "qwa translate --language fr lecture.mp3 | jq -r .text",
        ),
        "caption": (
            "qwa caption --model qwen-audio street.wav",
            "qwa caption --task music-caption --model qwen-audio song.flac",
        ),
        "classify": (
            "qwa classify --task language examples/",
            "qwa classify --task emotion --top-k 1 --model qwen-audio calls/*.mp3",
            "qwa classify --labels siren,dog,rain --model qwen-audio clips/",
            "qwa classify --task speaker-verification --model qwen-audio-chat a.wav b.wav",
        ),
        "timestamp": (
            "qwa timestamp --words interview.m4a",
            "qwa timestamp --events --model qwen-audio street.wav",
            "qwa timestamp --text talk.txt --model qwen3-forced-aligner talk.wav",
        ),
        "ask": (
            'qwa ask "What is the dog doing?" a.wav b.wav --model qwen-audio-chat',
            'qwa ask --together "What is heard?" a.wav b.wav -o chat.jsonl --model qwen-audio-chat',
            'qwa ask --history chat.jsonl "Which is louder?" -o chat.jsonl --model qwen-audio-chat',
        ),
        "run": (
            "qwa run --tasks transcribe,translate,classify:language --top-k 1 examples/",
            "qwa run --tasks transcribe,caption,classify:scene --model qwen-audio street.wav",
            'qwa run --question "Who speaks?" --question "Where?" --model qwen-audio-chat a.wav',
        ),
        "train": (
            "qwa train --model qwen3-asr-0.6b --manifest calls.jsonl -o tuned",
            "qwa train --model qwen-audio --manifest calls.jsonl -o tuned --resume",
            "qwa transcribe --model tuned call.wav",
        ),
        "bench": ("qwa bench", "qwa bench --model qwen-audio --device cuda talks/"),
        "tasks": ("qwa tasks", "qwa tasks --json | jq -r 'select(.models != []).name'"),
        "models": ("qwa models", "qwa models --json | jq -r 'select(.present).name'"),
        "models pull": (
            "qwa models pull qwen2-audio-instruct",
            "qwa models pull openai/whisper-small --revision main",
        ),
        "schema": ("qwa schema > record.schema.json",),
    }
)
"""Command lines by command; `qwa` stands for the program as a whole."""


_SOURCE = (
    "SOURCE is an audio file, a directory (the audio files in it), a glob, or - for audio on "
    "standard input."
)


def description(command: Callable[..., None]) -> str:
    """What a command's help begins with."""
    text = inspect.getdoc(command) or ""
    parameters = inspect.signature(command).parameters
    if "sources" not in parameters:
        return text
    if "output" not in parameters:  # it writes no records
        return f"{text}\n\n{_SOURCE}"
    records = "one record a task" if "tasks" in parameters else "one record"
    return f"{text}\n\n{_SOURCE} Each gives {records}: a line of JSON on standard output."


def epilog(name: str) -> str:
    """What a command's help ends with. `\\b` keeps a paragraph's lines as they are."""
    examples = "\n".join(["\b", "Examples:", *(f"  {line}" for line in EXAMPLES[name])])
    if name != "qwa":
        return examples
    codes = (f"  {code:<5d}{meaning}" for code, meaning in MEANINGS.items())
    return "\n".join([examples, "", "\b", "Exit status:", *codes])
