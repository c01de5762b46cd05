"""Qwen-Audio's prompt dialect: audio spans, ChatML, and how a label is written behind a prompt.

Sources: QwenLM/Qwen-Audio, `tokenization_qwen.py`, `qwen_generation_utils.py` and `eval_audio/`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from ..audio import SAMPLE_RATE
from ..errors import UsageError
from ..tags import TagSequence
from ..tasks import Task
from .qwen_model import audio_rows, mel_frames
from .qwen_tokenizer import QwenTokenizer

AUDIO_TOKENS = ("<audio>", "[[[AUDIO:modality]]]", "</audio>")
"""Begin, pad and end of an audio span."""

SYSTEM = "You are a helpful assistant."

NOTE_TAGS: Mapping[str, str] = MappingProxyType(
    {
        "pitch": "<|pitch|>",
        "velocity": "<|velocity|>",
        "instrument": "<|instrument|>",
        "qualities": "<|sonic|>",
    }
)
"""Task -> the tag that opens its part of the answer to `<|note_analysis|>`."""

# Tasks whose labels are tags of their own: NSynth's MIDI numbers.
_LABEL_TAGS = MappingProxyType({"pitch": "<|midi_pitch_{}|>", "velocity": "<|midi_velocity_{}|>"})


def audio_span(tokenizer: QwenTokenizer, seconds: float, window: float) -> list[int]:
    """Ids that a clip of `seconds` takes in a prompt; no more than one of `window` seconds does."""
    begin, pad, end = (tokenizer.special[token] for token in AUDIO_TOKENS)
    frames = mel_frames(round(seconds * SAMPLE_RATE), round(window * SAMPLE_RATE))
    return [begin, *[pad] * audio_rows(frames), end]


def chat_prompt(
    tokenizer: QwenTokenizer, audios: Sequence[Sequence[int]], question: str
) -> list[int]:
    """ChatML of one turn: the system's line, the audio spans each on its line, the question.

    The label of a span has no space behind it, as `from_list_format` writes it. Nothing in the
    question is a live tag.
    """
    start, end = (tokenizer.special[token] for token in ("<|im_start|>", "<|im_end|>"))
    encode = tokenizer.encode
    newline = encode("\n")
    ids = [start, *encode("system"), *newline, *encode(SYSTEM), end, *newline]
    ids += [start, *encode("user"), *newline]
    text = ""
    for number, audio in enumerate(audios, 1):
        ids += [*encode(f"{text}Audio {number}:"), *audio]
        text = "\n"
    ids += [*encode(text + question), end, *newline]
    return [*ids, start, *encode("assistant"), *newline]


def base_prompt(
    tokenizer: QwenTokenizer, audio: Sequence[int], tags: TagSequence, task: Task
) -> list[int]:
    """The audio span, the tags, and for one quality of a note the tag that asks for it."""
    ids = [*audio, *tokenizer.encode_tags(tags)]
    if task.name in NOTE_TAGS and tags.instruction == "note_analysis":
        ids.append(tokenizer.special[NOTE_TAGS[task.name]])
    return ids


def label_tokens(tokenizer: QwenTokenizer, task: Task, label: str, stop: int) -> list[int]:
    """Ids of a label as the whole answer, up to `stop`; a part of a note's answer has no stop.

    Raises UsageError for a label that is empty, or none of those the task has tags for.
    """
    if task.name in _LABEL_TAGS:
        tag = tokenizer.special.get(_LABEL_TAGS[task.name].format(label))
        if tag is None:
            raise UsageError(f"{task.name}: the model has no tag for the label '{label}'")
        return [tag]
    ids = tokenizer.encode(label)
    if not ids:
        raise UsageError(f"{task.name}: an empty label")
    return ids if task.name in NOTE_TAGS else [*ids, stop]
