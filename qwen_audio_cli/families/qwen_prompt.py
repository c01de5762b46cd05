"""Qwen-Audio's prompt dialect: audio spans, ChatML, and how a label is written behind a prompt.

Sources: QwenLM/Qwen-Audio, `tokenization_qwen.py`, `qwen_generation_utils.py` and `eval_audio/`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from ..audio import SAMPLE_RATE
from ..errors import UsageError
from ..tags import TagSequence
from ..tasks import Task
from .base import Turn
from .chatml import Message, Piece, chatml, encode
from .qwen_model import audio_rows, mel_frames
from .tag_tokenizer import TagTokenizer

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

_TAG = re.compile(r"(<\|[^|<>]*\|>)")
_NEVER_ANSWERED = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

# Tasks whose labels are tags of their own: NSynth's MIDI numbers.
_LABEL_TAGS = MappingProxyType({"pitch": "<|midi_pitch_{}|>", "velocity": "<|midi_velocity_{}|>"})


def rows_in(seconds: float, window: float) -> int:
    """Rows of a clip of `seconds`; no more than one of `window` seconds has."""
    return audio_rows(mel_frames(round(seconds * SAMPLE_RATE), round(window * SAMPLE_RATE)))


def audio_span(tokenizer: TagTokenizer, rows: int) -> list[int]:
    """Ids that a clip of so many rows takes in a prompt."""
    begin, pad, end = (tokenizer.special[token] for token in AUDIO_TOKENS)
    return [begin, *[pad] * rows, end]


def chat_prompt(
    tokenizer: TagTokenizer,
    audios: Sequence[Sequence[int]],
    question: str,
    history: Sequence[Turn] = (),
) -> list[int]:
    """ChatML: the system's line, the turns before, then audio spans and the question about them.

    `audios` are those of all turns in order. Nothing in a question or an answer is a live tag.
    """
    messages: list[Message] = [("system", [SYSTEM])]
    heard = 0
    for turn in history:
        said = _said(tokenizer, audios[heard : heard + turn.clips], turn.question)
        messages += [("user", [said]), ("assistant", [turn.answer])]
        heard += turn.clips
    messages.append(("user", [_said(tokenizer, audios[heard:], question)]))
    return chatml(tokenizer, messages)


def _said(tokenizer: TagTokenizer, audios: Sequence[Sequence[int]], question: str) -> list[int]:
    """What a user says: each audio span on its line, numbered in each turn anew, and the question.

    The label of a span has no space behind it, as `from_list_format` writes it.
    """
    spans: list[Piece] = []
    for number, audio in enumerate(audios, 1):
        spans += [f"Audio {number}:", audio, "\n"]
    return encode(tokenizer, [*spans, question])


def base_prompt(
    tokenizer: TagTokenizer, audio: Sequence[int], tags: TagSequence, task: Task
) -> list[int]:
    """The audio span, the tags, and for one quality of a note the tag that asks for it."""
    ids = [*audio, *tokenizer.encode_tags(tags)]
    if task.name in NOTE_TAGS and tags.instruction == "note_analysis":
        ids.append(tokenizer.special[NOTE_TAGS[task.name]])
    return ids


def answer_tokens(tokenizer: TagTokenizer, answer: str) -> list[int]:
    """Ids of an answer that holds tags, as `<|0.00|>` or `<|midi_pitch_60|>`, and text.

    Raises UsageError for a tag that there is no token for, or that no answer holds.
    """
    ids: list[int] = []
    for piece in _TAG.split(answer):
        if not _TAG.fullmatch(piece):
            ids += tokenizer.encode(piece)
        elif piece in _NEVER_ANSWERED or piece not in tokenizer.special:
            raise UsageError(f"no answer holds the tag {piece}")
        else:
            ids.append(tokenizer.special[piece])
    return ids


def label_tokens(tokenizer: TagTokenizer, task: Task, label: str, stop: int) -> list[int]:
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
