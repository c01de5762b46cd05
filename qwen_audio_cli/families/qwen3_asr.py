"""Qwen3-ASR (arXiv 2601.21337): transcription in thirty languages, word times by its aligner.

Prompts and limits are those of QwenLM/Qwen3-ASR, `qwen_asr/inference`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

from ..engine.request import Consult, Dialogue, Generated, Scored
from ..errors import ModelError, UsageError
from ..languages import resolve
from ..prompts import language_name
from .adapter import Adapter
from .base import ClipAnswer, Family, Job, Lesson, Subject, TimedWord
from .chatml import chatml
from .qwen3_aligner import Qwen3Aligner
from .shares import ranked, shares
from .worded import Worded

SPOKEN = (
    "zh", "en", "yue", "ar", "de", "fr", "es", "pt", "id", "it", "ko", "ru", "th", "vi", "ja",
    "tr", "hi", "ms", "nl", "sv", "da", "fi", "pl", "cs", "tl", "fa", "el", "ro", "hu", "mk",
)  # fmt: skip
"""The languages it hears."""

_NAMES = {code: "Filipino" if code == "tl" else language_name(code) for code in SPOKEN}
_CODES = {name.lower(): code for code, name in _NAMES.items()}
_NONE = "none"


class Qwen3Asr(Worded):
    """A Qwen3-ASR checkpoint; word times need its `aligner`."""

    name = "qwen3-asr"
    # The authors take 20 minutes; at a pause each minute, more clips are in work side by side.
    window = 60.0

    def __init__(
        self,
        directory: Path,
        label: str,
        aligner: Family | None = None,
        adapter: Adapter | None = None,
    ) -> None:
        audio = ("<|audio_start|>", "<|audio_pad|>", "<|audio_end|>")
        super().__init__(directory, label, audio, adapter)
        (self._marker,) = self.tokenizer.require("<asr_text>")
        if not (aligner is None or isinstance(aligner, Qwen3Aligner)):
            raise UsageError(f"{aligner.label} is no forced aligner")
        self.colleague = self._aligner = aligner

    def check(self, job: Job) -> None:
        """Raise UsageError for what it cannot do, ModelError where it needs its aligner."""
        job.require(self.name)
        language = job.tags.audio_language
        named = () if job.labels == job.task.labels else job.labels
        if unknown := [code for code in (language, *named) if code not in (None, *SPOKEN)]:
            raise UsageError(f"{self.label} does not know the language '{unknown[0]}'")
        if not job.tags.timestamps:
            return
        if self._aligner is None:
            raise ModelError(
                f"{self.label} needs its forced aligner for word times: "
                "'qwa models pull qwen3-forced-aligner' fetches it, --aligner PATH names another"
            )
        self._aligner.require(language)

    def answer(self, job: Job, subject: Subject) -> Dialogue[ClipAnswer]:
        """Write, with the language first where it is not told; then find the words' times."""
        prompt = self._prompt(job, subject)
        if job.task.name == "language":
            return (yield from self._identify(job, prompt))
        said = yield self._generate(job, prompt, subject)
        assert isinstance(said, Generated)
        language, tokens = job.tags.audio_language, said.tokens
        if language is None:
            language, tokens = self._split(said.tokens)
        answer = self._read(job, replace(said, tokens=tokens), subject, language)
        if not answer.text:
            answer = replace(answer, flags=answer.flags | {"no_speech"})
        elif language is None:  # it wrote, but not what it heard: its own format is broken
            answer = replace(answer, flags=answer.flags | {"unparsed"})
        if not job.tags.timestamps:
            return answer
        return replace(answer, words=(yield from self._times(answer, subject)))

    def lesson(self, job: Job, subject: Subject, target: str) -> Lesson:
        """The language is part of the answer, as where it is not told and as its authors train."""
        naming, language = job.task.name == "language", job.tags.audio_language
        if (heard := resolve(target) if naming else language) not in _NAMES:
            raise UsageError(f"{self.label} learns from speech whose language is named, and known")
        if job.tags.timestamps:
            raise UsageError(f"{self.label} writes no times of words: its aligner finds them")
        prompt = self._prompt(replace(job, tags=replace(job.tags, audio_language=None)), subject)
        said = [] if naming else self.tokenizer.encode(target)
        return self._lesson(prompt, [*self._named(_NAMES[heard]), *said])

    def _identify(self, job: Job, prompt: list[int]) -> Dialogue[ClipAnswer]:
        """Probability of each language that it may name first, and that it names none."""
        codes = SPOKEN if job.labels in ((), job.task.labels) else job.labels
        named = [self._named(name) for name in (*(_NAMES[code] for code in codes), "None")]
        scored = yield self._score(prompt, named)
        assert isinstance(scored, Scored)
        heard = dict(shares((*codes, _NONE), scored))
        no_speech = heard.pop(_NONE)
        labels = ranked(heard)
        return ClipAnswer(language=labels[0][0], labels=labels, no_speech_prob=no_speech)

    def _times(self, answer: ClipAnswer, subject: Subject) -> Dialogue[tuple[TimedWord, ...]]:
        """The times of the words of an answer, by the aligner. Raises Refused for its language."""
        aligner = self._aligner
        assert aligner is not None
        if not answer.text:
            return ()
        (seconds,) = subject.seconds
        words = yield Consult(aligner.align(answer.text, answer.language, seconds))
        return cast("tuple[TimedWord, ...]", words)

    def _prompt(self, job: Job, subject: Subject) -> list[int]:
        audio = [id for seconds in subject.seconds for id in self._audio(seconds)]
        language = job.tags.audio_language
        reply = [] if language is None else [self._named(_NAMES[language])]
        return chatml(self.tokenizer, [("system", [job.context]), ("user", [audio])], reply)

    def _named(self, name: str) -> list[int]:
        """How an answer begins: the language, and the marker that its text comes behind."""
        return [*self.tokenizer.encode(f"language {name}"), self._marker]

    def _split(self, tokens: list[int]) -> tuple[str | None, list[int]]:
        """The language that an answer begins with, and the rest; without a marker all is text."""
        if self._marker not in tokens:
            return None, tokens
        at = tokens.index(self._marker)
        name = self.tokenizer.decode(tokens[:at]).strip().removeprefix("language").strip()
        return _CODES.get(name.lower()), tokens[at + 1 :]
