"""The JSON Schema (2020-12) of a record, of both kinds; `qwa schema` prints it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .errors import INPUT_CODES
from .records import (
    FINISH_REASONS,
    FLAGS,
    ID_PATTERN,
    LANGUAGE_PATTERN,
    OPTIONS_PATTERN,
    SCHEMA_VERSION,
    TASK_PATTERN,
)

_TEXT = {"type": "string"}
_NAME = {"type": "string", "minLength": 1}
_NUMBER = {"type": "number"}
_NOT_NEGATIVE = {"type": "number", "minimum": 0}
_SECONDS = {"type": "number", "minimum": 0, "description": "seconds, three decimals"}
_PROBABILITY = {"type": "number", "minimum": 0, "maximum": 1}


def _pattern(form: str) -> dict[str, Any]:
    return {"type": "string", "pattern": f"^{form}$"}


def _object(required: Iterable[str], properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "required": list(required),
        "properties": properties,
        "additionalProperties": False,
    }


def _list(of: str) -> dict[str, Any]:
    return {"type": "array", "items": {"$ref": f"#/$defs/{of}"}}


_FLAG = {"oneOf": [{"const": flag, "description": text} for flag, text in FLAGS.items()]}
_SOURCE = {
    "schema": {"const": SCHEMA_VERSION},
    "id": {**_pattern(ID_PATTERN), "description": "same audio, task, model and options: same id"},
    "task": _pattern(TASK_PATTERN),
    "file": {**_NAME, "description": "the source's name; bytes outside UTF-8 are U+FFFD"},
    "file_b64": {
        **_NAME,
        "contentEncoding": "base64",
        "description": "the name's bytes, where they are not UTF-8",
    },
    "files": {
        "type": "array",
        "items": _NAME,
        "description": "of a request about several clips the names of those it adds, in order; "
        "in a conversation, file is the first clip of all its turns",
    },
    "files_b64": {
        "type": "array",
        "items": {**_NAME, "contentEncoding": "base64"},
        "description": "the bytes of all these names, where one is not UTF-8",
    },
    "question": {**_TEXT, "description": "what was asked about the source"},
}
_REQUIRED = ("schema", "id", "task", "file", "status")
_WORD = _object(
    ("word", "start", "end"),
    {"word": _TEXT, "start": _SECONDS, "end": _SECONDS, "probability": _PROBABILITY},
)
_SEGMENT = _object(
    ("start", "end", "text"),
    {
        "start": _SECONDS,
        "end": _SECONDS,
        "text": _TEXT,
        "words": _list("word"),
        "avg_logprob": _NUMBER,
        "compression_ratio": _NOT_NEGATIVE,
        "no_speech_prob": _PROBABILITY,
        "finish_reason": {"enum": list(FINISH_REASONS)},
    },
)
_RECORD = _object(
    (*_REQUIRED, "flags", "model", "options"),
    {
        **_SOURCE,
        "status": {"const": "ok"},
        "text": {**_TEXT, "description": "as the model wrote it"},
        "language": {**_pattern(LANGUAGE_PATTERN), "description": "spoken language"},
        "duration": {**_SECONDS, "description": "seconds, three decimals; of all clips together"},
        "segments": _list("segment"),
        "labels": _list("label"),
        "confidence": {
            **_PROBABILITY,
            "description": "how likely the answer is right, of a transcript the share of its words "
            "that are; there where the model is calibrated",
        },
        "flags": {"type": "array", "items": _FLAG, "uniqueItems": True},
        "model": {**_NAME, "description": "name@revision"},
        "options": {**_pattern(OPTIONS_PATTERN), "description": "hash of the options"},
        "timing": _object((), {"decode": _SECONDS, "encode": _SECONDS, "generate": _SECONDS}),
    },
)
_RECORD["anyOf"] = [{"required": [answer]} for answer in ("text", "segments", "labels")]
_ERROR_RECORD = _object(
    (*_REQUIRED, "error"),
    {
        **_SOURCE,
        "status": {"const": "error"},
        "error": _object(
            ("code", "message"), {"code": {"enum": list(INPUT_CODES)}, "message": _TEXT}
        ),
    },
)

SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": f"qwa record, schema version {SCHEMA_VERSION}",
    "oneOf": [{"$ref": "#/$defs/record"}, {"$ref": "#/$defs/error_record"}],
    "$defs": {
        "record": _RECORD,
        "error_record": _ERROR_RECORD,
        "segment": _SEGMENT,
        "word": _WORD,
        "label": _object(("label", "probability"), {"label": _TEXT, "probability": _PROBABILITY}),
    },
}
"""Strict: every key that may occur is named, and every enumeration closed."""
