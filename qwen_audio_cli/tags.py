"""The hierarchical tags of Qwen-Audio (arXiv 2311.07919): their spelling, order and grammar.

A sequence is printed and read in the original's own spelling. `SPECIAL_TOKENS` is the original
tokenizer's list of special tokens, in the order of their ids.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal, cast, get_args

from .errors import UsageError
from .languages import LANGUAGES, resolve

Phase = Literal["startoftranscript", "startofanalysis"]
TaskTag = Literal["transcribe", "translate", "caption", "keyword", "question"]

PHASES: tuple[Phase, ...] = get_args(Phase)
PHASE_OF: Mapping[TaskTag, Phase] = MappingProxyType(
    {
        "transcribe": "startoftranscript",
        "translate": "startoftranscript",
        "caption": "startofanalysis",
        "keyword": "startofanalysis",
        "question": "startofanalysis",
    }
)
"""Task tag -> the phase it belongs to."""

INSTRUCTIONS: Mapping[TaskTag, tuple[str, ...]] = MappingProxyType(
    {
        "transcribe": ("wo_itn", "itn", "named_entity_recognition"),
        "translate": ("itn", "wo_itn"),
        "caption": ("caption_clotho", "caption_audiocaps", "caption_plain", "music_description"),
        "keyword": (
            "audioset_ontology",
            "event",
            "scene",
            "vocal_classification",
            "emotion_recognition",
            "speaker_meta",
            "song_meta",
            "note_analysis",
            "speech_understanding",
            "audio_grounding",
        ),
        "question": (),
    }
)
"""Task tag -> the output instructions that may end its sequence."""

UNKNOWN = "unknown"
"""The audio-language tag of sounds without speech, and of speech in no language with a tag."""

AUDIO_LANGUAGES: tuple[str, ...] = ("en", "zh", "de", "es", "ko", "fr", "ja", "it")
"""Languages the 2023 checkpoints have a tag for, in the order of their ids."""

TRADITIONAL_CHINESE = "zh_tr"
TEXT_LANGUAGES: tuple[str, ...] = (*AUDIO_LANGUAGES, TRADITIONAL_CHINESE)
"""Languages the 2023 checkpoints can write."""

# Stands for a language that the model has yet to hear; no checkpoint has a token for it.
_AUTO = "auto"
_FIRST_TIME = "0.00"
_STAMPS = ("timestamps", "notimestamps")
_AN_AUDIO_LANGUAGE = "an audio language, as <|en|> or <|unknown|>"
_A_TEXT_LANGUAGE = "a text language, as <|en|>"
_MISSPELT_PHASES = ("startoftranscription", "startoftranscripts")
_TAG = re.compile(r"<\|([^|<>]*)\|>")
_LIVE = re.compile(r"<(?=\|[^|<>]*\|>|/?audio>)|\[(?=\[\[AUDIO:modality\]\]\])")


def _tag(name: str) -> str:
    return f"<|{name}|>"


def _special_tokens() -> tuple[str, ...]:
    def tags(names: str) -> list[str]:
        return [_tag(name) for name in names.split()]

    return (
        *tags("endoftext im_start im_end"),
        *(f"<|extra_{n}|>" for n in range(205)),
        "[[[AUDIO:modality]]]",
        *tags("startoftranscript startofanalysis translate transcribe caption keyword unknown"),
        *(f"<|{code}|>" for code in TEXT_LANGUAGES),
        *tags("notimestamps sil timestamps"),
        *(f"<|{n // 100}.{n % 100:02d}|>" for n in range(3001)),
        *tags("caption_audiocaps caption_clotho audioset_ontology caption_plain itn wo_itn"),
        *tags("startofentityvalue endofentityvalue startofentitytype endofentitytype"),
        *tags("named_entity_recognition audio_grounding startofword endofword delim"),
        *tags("emotion_recognition music_description note_analysis pitch"),
        *(f"<|midi_pitch_{n}|>" for n in range(128)),
        "<|velocity|>",
        *(f"<|midi_velocity_{n}|>" for n in range(128)),
        *tags("sonic instrument speaker_meta song_meta question answer choice scene event"),
        *tags("vocal_classification speech_understanding scenario action entities speech_edit"),
        "<audio>",
        "</audio>",
    )


FIRST_SPECIAL_ID = 151_643
"""Id of `SPECIAL_TOKENS[0]` in the 2023 checkpoints; the others follow one by one."""

SPECIAL_TOKENS: tuple[str, ...] = _special_tokens()
"""The 3,522 special tokens of the 2023 tokenizer in the order of their ids."""


def neutralise(text: str) -> str:
    """Return a user's text with every tag in it made plain text, by a space after its first sign.

    The text comes back in NFC, as the tokenizer would turn it, so that no tag can appear later.
    Applying it twice changes nothing more.
    """
    return _LIVE.sub(lambda match: match[0] + " ", unicodedata.normalize("NFC", text))


def text_language(language: str) -> str:
    """Return the code of a language to write: as `languages.resolve`, and `zh_tr`.

    Raises UsageError for one that is not known.
    """
    if language.strip().lower() in (TRADITIONAL_CHINESE, "traditional chinese"):
        return TRADITIONAL_CHINESE
    return resolve(language)


@dataclass(frozen=True, slots=True)
class TagSequence:
    """One prompt in tags: phase, audio language, task, text language, timestamps, instruction.

    `audio_language` is a code, `unknown`, or None where the model has yet to detect it, which
    only the transcription phase can; such a sequence prints `<|auto|>`, which no checkpoint has
    a token for: give it a language with `detected` first. In the question form the question
    takes the place of all that follows the task. Timestamps in the transcription phase take the
    place of the instruction by the first time, `<|0.00|>`. Raises UsageError for a sequence
    outside the grammar, naming the tag and what was expected.
    """

    phase: Phase
    audio_language: str | None
    task: TaskTag
    text_language: str | None = None
    timestamps: bool = False
    instruction: str | None = None
    question: str | None = None

    def __post_init__(self) -> None:
        _check_phase(self.phase)
        _check_audio_language(self.phase, self.audio_language)
        _check_task(self.phase, self.task)
        if self.task == "question":
            self._check_question()
        else:
            self._check_output()

    def __str__(self) -> str:
        return "".join(self.pieces())

    def pieces(self) -> tuple[str, ...]:
        """Return the sequence in order: tags, each one piece, and the question's plain text."""
        head = tuple(_tag(name) for name in (self.phase, self.audio_language or _AUTO, self.task))
        if self.question is not None:
            return (*head, self.question, "<|answer|>")
        stamps = "timestamps" if self.timestamps else "notimestamps"
        tail = (self.text_language or _AUTO, stamps, self.instruction or _FIRST_TIME)
        return head + tuple(_tag(name) for name in tail)

    @classmethod
    def parse(cls, text: str) -> TagSequence:
        """Read a sequence as `str` prints it. Raises UsageError naming what does not fit."""
        reader = _Reader(text)
        phase = cast(Phase, reader.take(_any_of(PHASES)))
        _check_phase(phase)
        audio_language = _language(reader.take(_AN_AUDIO_LANGUAGE))
        _check_audio_language(phase, audio_language)
        task = cast(TaskTag, reader.take(_any_of(PHASE_OF)))
        _check_task(phase, task)
        if task == "question":
            question = reader.take_until("<|answer|>")
            reader.finish()
            return cls(phase, audio_language, task, question=question)
        target = _language(reader.take(_A_TEXT_LANGUAGE))
        _check_text_language(audio_language, task, target)
        stamps = reader.take(_any_of(_STAMPS))
        if stamps not in _STAMPS:
            raise _unexpected(_tag(stamps), _any_of(_STAMPS))
        timed = stamps == "timestamps"
        allowed = _endings(phase, task, timed)
        last = reader.take(_any_of(allowed))
        if last not in allowed:
            raise _unexpected(_tag(last), _any_of(allowed))
        reader.finish()
        instruction = None if last == _FIRST_TIME else last
        return cls(phase, audio_language, task, target, timed, instruction)

    @property
    def determined(self) -> bool:
        """Whether every tag is known, so that the sequence can be given to a model."""
        return self.audio_language is not None

    def detected(self, language: str) -> TagSequence:
        """Return a transcription-phase sequence with the audio language the model has heard.

        A text language left open becomes the same.
        """
        text = self.text_language or language
        return replace(self, audio_language=language, text_language=text)

    def require_original(self) -> None:
        """Raise UsageError unless the 2023 checkpoints have a token for every tag."""
        known = [(self.audio_language or _AUTO, (*AUDIO_LANGUAGES, UNKNOWN))]
        if self.question is None:
            known.append((self.text_language or _AUTO, TEXT_LANGUAGES))
        for language, languages in known:
            if language not in languages:
                raise _unexpected(_tag(language), f"{_any_of(languages)} by Qwen-Audio")

    def _check_question(self) -> None:
        if self.text_language is not None or self.timestamps or self.instruction is not None:
            raise _unexpected("a tag after <|question|>", "the text of the question only")
        if self.question is None or not self.question.strip():
            raise _unexpected("an empty question", "text between <|question|> and <|answer|>")
        if live := _LIVE.search(unicodedata.normalize("NFC", self.question)):
            tag = live.string[live.start() :].partition(">")[0] + ">"
            raise _unexpected(f"{tag} within the question", "plain text")

    def _check_output(self) -> None:
        if self.question is not None:
            raise _unexpected(f"a question after {_tag(self.task)}", "it after <|question|>")
        _check_text_language(self.audio_language, self.task, self.text_language)
        allowed = _endings(self.phase, self.task, self.timestamps)
        if self.instruction == _FIRST_TIME or (self.instruction or _FIRST_TIME) not in allowed:
            found = _tag(self.instruction) if self.instruction else "no output instruction"
            raise _unexpected(f"{found} after {_tag(self.task)}", _any_of(allowed))


class _Reader:
    """Takes tag after tag off a text."""

    def __init__(self, text: str) -> None:
        self._rest = text.strip()

    def take(self, expected: str) -> str:
        match = _TAG.match(self._rest)
        if match is None:
            raise _unexpected(self._found(), expected)
        self._rest = self._rest[match.end() :]
        return match[1]

    def take_until(self, tag: str) -> str:
        text, found, self._rest = self._rest.partition(tag)
        if not found:
            raise _unexpected("the end", tag)
        return text

    def finish(self) -> None:
        if self._rest:
            raise _unexpected(self._found(), "the end")

    def _found(self) -> str:
        if match := _TAG.match(self._rest):
            return match[0]
        text = self._rest.partition("<|")[0] or self._rest
        return f"text {text[:40]!r}" if text else "the end"


def _check_phase(phase: str) -> None:
    if phase in _MISSPELT_PHASES:
        raise _unexpected(_tag(phase), "its right spelling, <|startoftranscript|>")
    if phase not in PHASES:
        raise _unexpected(_tag(phase), _any_of(PHASES))


def _check_audio_language(phase: Phase, language: str | None) -> None:
    if language is None:
        if phase == "startofanalysis":
            raise _unexpected(_tag(_AUTO), "a language or <|unknown|>: analysis detects none")
    elif language not in LANGUAGES and language != UNKNOWN:
        raise _unexpected(_tag(language), _AN_AUDIO_LANGUAGE)


def _check_task(phase: Phase, task: str) -> None:
    tasks = [name for name, its_phase in PHASE_OF.items() if its_phase == phase]
    if task not in tasks:
        raise _unexpected(f"{_tag(task)} after {_tag(phase)}", _any_of(tasks))


def _check_text_language(audio: str | None, task: TaskTag, text: str | None) -> None:
    if text is None:
        if task != "transcribe" or audio is not None:
            raise _unexpected(f"no text language for {_tag(task)}", _A_TEXT_LANGUAGE)
    elif text not in LANGUAGES and text != TRADITIONAL_CHINESE:
        raise _unexpected(_tag(text), _A_TEXT_LANGUAGE)


def _endings(phase: Phase, task: TaskTag, timestamps: bool) -> tuple[str, ...]:
    """Return the tags that may come last."""
    if timestamps and phase == "startoftranscript":
        return (_FIRST_TIME,)
    return INSTRUCTIONS[task]


def _language(name: str) -> str | None:
    return None if name == _AUTO else name


def _any_of(names: Iterable[str]) -> str:
    return " or ".join(_tag(name) for name in names)


def _unexpected(found: str, expected: str) -> UsageError:
    return UsageError(f"tags: found {found}, expected {expected}")
