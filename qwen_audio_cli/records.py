"""The record: what a user gets for one source, as schema version 1 writes it.

A record that can be built is valid: every rule of the schema is held when it is made. Seconds
are written with three decimals, probabilities and quality values with four.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, get_args

import orjson

from .errors import INPUT_CODES, InputCode

SCHEMA_VERSION = 1
FinishReason = Literal["stop", "length", "repeat", "cancelled", "error"]
FINISH_REASONS: tuple[FinishReason, ...] = get_args(FinishReason)

FLAGS: Mapping[str, str] = MappingProxyType(
    {
        "no_speech": "nothing to write down: silence, or sound without speech",
        "repetition": "the text repeats itself in a loop",
        "truncated": "the answer reached the token limit before its end",
        "cancelled": "the run was stopped before the answer's end",
        "clipping": "the audio is overdriven: samples at full scale in a row",
        "low_confidence": "the model was unsure of what it wrote",
        "abstained": "no label reached the threshold",
        "unparsed": "the answer did not have the form that the task asks for",
    }
)
"""Flag -> its meaning. The text of a flagged record stands as the model wrote it."""

ID_PATTERN = r"[0-9a-f]{32}"
OPTIONS_PATTERN = r"[0-9a-f]{12}"
TASK_PATTERN = r"[a-z0-9]+(-[a-z0-9]+)*"
LANGUAGE_PATTERN = r"[a-z]{2,3}(_[a-z]{2})?"
_SURROGATES = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Word:
    """A word with its begin and end in the source (seconds) and its probability."""

    word: str
    start: float
    end: float
    probability: float | None = None

    def __post_init__(self) -> None:
        _check_span(self.start, self.end)
        _probability("probability", self.probability)

    def as_dict(self) -> dict[str, Any]:
        """Return the word as the record writes it."""
        return _present(
            word=_text(self.word),
            start=_seconds("start", self.start),
            end=_seconds("end", self.end),
            probability=_probability("probability", self.probability),
        )


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of the source (seconds) with its text, and openai/whisper's quality values."""

    start: float
    end: float
    text: str
    words: tuple[Word, ...] | None = None
    avg_logprob: float | None = None
    compression_ratio: float | None = None
    no_speech_prob: float | None = None
    finish_reason: FinishReason | None = None

    def __post_init__(self) -> None:
        _check_span(self.start, self.end)
        _number("avg_logprob", self.avg_logprob)
        _not_negative("compression_ratio", self.compression_ratio)
        _probability("no_speech_prob", self.no_speech_prob)
        if self.finish_reason is not None and self.finish_reason not in FINISH_REASONS:
            raise ValueError(f"unknown finish reason {self.finish_reason!r}")

    def as_dict(self) -> dict[str, Any]:
        """Return the segment as the record writes it."""
        words = self.words
        return _present(
            start=_seconds("start", self.start),
            end=_seconds("end", self.end),
            text=_text(self.text),
            words=None if words is None else [word.as_dict() for word in words],
            avg_logprob=_number("avg_logprob", self.avg_logprob),
            compression_ratio=_not_negative("compression_ratio", self.compression_ratio),
            no_speech_prob=_probability("no_speech_prob", self.no_speech_prob),
            finish_reason=self.finish_reason,
        )


@dataclass(frozen=True, slots=True)
class Label:
    """A label and its probability among the labels it was scored with."""

    label: str
    probability: float

    def __post_init__(self) -> None:
        _probability("probability", self.probability)

    def as_dict(self) -> dict[str, Any]:
        """Return the label as the record writes it."""
        return _present(
            label=_text(self.label),
            probability=_probability("probability", self.probability),
        )


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of work spent on a source, by stage."""

    decode: float | None = None
    encode: float | None = None
    generate: float | None = None

    def __post_init__(self) -> None:
        self.as_dict()

    def as_dict(self) -> dict[str, Any]:
        """Return the timing as the record writes it."""
        return _present(
            decode=_seconds("decode", self.decode),
            encode=_seconds("encode", self.encode),
            generate=_seconds("generate", self.generate),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """The answer for one source. `file` is its name as `os.fsdecode` gives it.

    `files` are the names of all clips that a request about several adds: in a conversation those
    of this turn, where `file` is the first of the whole. `duration` is that of all its clips.
    `question` is what an `ask` asked. `confidence` is the calibrated probability that the answer is
    right, of a transcript the share of its words that are. At least one of `text`, `segments` and
    `labels` is there.

    Raises ValueError for what the schema does not allow.
    """

    id: str
    task: str
    file: str
    model: str
    options: str
    files: tuple[str, ...] | None = None
    question: str | None = None
    text: str | None = None
    language: str | None = None
    duration: float | None = None
    segments: tuple[Segment, ...] | None = None
    labels: tuple[Label, ...] | None = None
    confidence: float | None = None
    flags: frozenset[str] = frozenset()
    timing: Timing | None = None

    def __post_init__(self) -> None:
        _check_source(self.id, self.task, self.file, self.files)
        _check_form("options", self.options, OPTIONS_PATTERN)
        if not self.model:
            raise ValueError("model is empty")
        if self.language is not None:
            _check_form("language", self.language, LANGUAGE_PATTERN)
        _seconds("duration", self.duration)
        _probability("confidence", self.confidence)
        if self.text is None and self.segments is None and self.labels is None:
            raise ValueError("a record needs text, segments or labels")
        if unknown := sorted(self.flags - FLAGS.keys()):
            raise ValueError(f"unknown flags: {', '.join(unknown)}")

    def as_dict(self) -> dict[str, Any]:
        """Return the record as it is written, without the keys that do not apply."""
        segments, labels, timing = self.segments, self.labels, self.timing
        return _present(
            schema=SCHEMA_VERSION,
            id=self.id,
            task=self.task,
            **_file(self.file),
            **_files(self.files),
            question=None if self.question is None else _text(self.question),
            status="ok",
            text=None if self.text is None else _text(self.text),
            language=self.language,
            duration=_seconds("duration", self.duration),
            segments=None if segments is None else [segment.as_dict() for segment in segments],
            labels=None if labels is None else [label.as_dict() for label in labels],
            confidence=_probability("confidence", self.confidence),
            flags=[flag for flag in FLAGS if flag in self.flags],
            model=_text(self.model),
            options=self.options,
            timing=None if timing is None else timing.as_dict(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorRecord:
    """What stands in place of a record for a source that failed. Raises ValueError as Record."""

    id: str
    task: str
    file: str
    code: InputCode
    message: str
    files: tuple[str, ...] | None = None
    question: str | None = None

    def __post_init__(self) -> None:
        _check_source(self.id, self.task, self.file, self.files)
        if self.code not in INPUT_CODES:
            raise ValueError(f"unknown error code {self.code!r}")

    def as_dict(self) -> dict[str, Any]:
        """Return the error record as it is written."""
        return _present(
            schema=SCHEMA_VERSION,
            id=self.id,
            task=self.task,
            **_file(self.file),
            **_files(self.files),
            question=None if self.question is None else _text(self.question),
            status="error",
            error={"code": self.code, "message": _text(self.message)},
        )


def to_json(record: Record | ErrorRecord) -> bytes:
    """Return a record as one line of JSON in UTF-8, without the newline."""
    return orjson.dumps(record.as_dict())


def record_id(fingerprint: str, task: str, model: str, options: str) -> str:
    """Return the id of a piece of work: 32 hex digits.

    It is the same for the same audio (`fingerprint`), task, model with revision and
    `options_hash`, whatever the file is called.
    """
    return _digest([fingerprint, task, model, options], 32)


def options_hash(options: Mapping[str, object]) -> str:
    """Return 12 hex digits that stand for the options that shape an answer.

    Neither the order of the keys nor the Python version matters. Raises TypeError or ValueError
    for values that JSON cannot hold.
    """
    return _digest(dict(options), 12)


def _digest(value: object, digits: int) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:digits]


def _present(**fields: Any) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value is not None}


def _text(text: str) -> str:
    """Return text that UTF-8 can hold: bytes of no character become U+FFFD."""
    return _SURROGATES.sub("\ufffd", text)


def _file(name: str) -> dict[str, str]:
    lossy = _text(name)
    if lossy == name:
        return {"file": name}
    return {"file": lossy, "file_b64": _name_bytes(name)}


def _files(names: tuple[str, ...] | None) -> dict[str, list[str]]:
    """The keys for the names of several clips; all names' bytes, where one is not UTF-8."""
    if names is None:
        return {}
    lossy = [_text(name) for name in names]
    if lossy == [*names]:
        return {"files": lossy}
    return {"files": lossy, "files_b64": [_name_bytes(name) for name in names]}


def _name_bytes(name: str) -> str:
    return base64.b64encode(os.fsencode(name)).decode()


# The checks below return the value as it is written, None for one that does not apply.


def _number(what: str, value: float | None, decimals: int = 4) -> float | None:
    if value is None:
        return None
    if not math.isfinite(value):
        raise ValueError(f"{what} is not a finite number: {value}")
    # Adding zero turns -0.0 into 0.0.
    return round(float(value), decimals) + 0.0


def _not_negative(what: str, value: float | None, decimals: int = 4) -> float | None:
    number = _number(what, value, decimals)
    if number is not None and number < 0:
        raise ValueError(f"{what} is negative: {value}")
    return number


def _seconds(what: str, value: float | None) -> float | None:
    return _not_negative(what, value, 3)


def _probability(what: str, value: float | None) -> float | None:
    number = _not_negative(what, value)
    if number is not None and number > 1:
        raise ValueError(f"{what} is above 1: {value}")
    return number


def _check_span(start: float, end: float) -> None:
    for what, value in (("start", start), ("end", end)):
        _seconds(what, value)
    if round(end, 3) < round(start, 3):
        raise ValueError(f"ends before it starts: {start} to {end}")


def _check_form(what: str, text: str, pattern: str) -> None:
    if re.fullmatch(pattern, text) is None:
        raise ValueError(f"{what} is malformed: {text!r}")


def _check_source(identifier: str, task: str, file: str, files: tuple[str, ...] | None) -> None:
    _check_form("id", identifier, ID_PATTERN)
    _check_form("task", task, TASK_PATTERN)
    for name in (file, *(files or ())):
        if not name:
            raise ValueError("file is empty")
        _file(name)
