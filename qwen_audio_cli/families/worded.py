"""What the models that are told in words have in common: their audio spans, and how they answer.

Their networks are those of transformers; a dialect (`chat.py`, `qwen2_audio.py`, `qwen3_asr.py`)
says how a job becomes a prompt.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..engine.request import Dialogue, Generate, Generated, Score, Scored
from ..languages import resolve
from ..prompts import language_name
from ..tags import UNKNOWN
from ..tasks import Parser
from .adapter import Adapter
from .base import ClipAnswer, Job, Lesson, Subject, require_room
from .chatml import END
from .library import LibraryFamily
from .quality import FINISH_FLAGS, compression_ratio
from .shares import shares
from .spans import read_spans

if TYPE_CHECKING:
    pass

LONGEST = 256
"""Tokens of a transcript or a translation at most, of a clip of 30 s or less."""

TOKENS_PER_SECOND = 16
"""The same for each second of longer clips: twice what fast speech takes in most languages."""

LONGEST_REPLY = 512
"""Tokens of a caption or a reply at most."""

LONGEST_ANALYSIS = 64
"""Tokens of any other answer in free text at most."""


class Worded(LibraryFamily, ABC):
    """A checkpoint that is told in words what to do.

    Greedy unless a temperature is asked for, and without repetition penalty, whatever the
    checkpoint's `generation_config.json` says.
    """

    end = END
    """What a label ends with where it is the whole answer."""

    def __init__(
        self,
        directory: Path,
        label: str,
        audio_tokens: Sequence[str],
        adapter: Adapter | None = None,
    ) -> None:
        super().__init__(directory, label, audio_tokens, adapter)
        self._stops = self.tokenizer.require(END, "<|endoftext|>")
        (self._end,) = self.tokenizer.require(self.end)

    def check(self, job: Job) -> None:
        """Raise UsageError for what this checkpoint cannot do."""
        job.require(self.name)
        self._prompt(job, Subject(()))

    def answer(self, job: Job, subject: Subject) -> Dialogue[ClipAnswer]:
        """Score the labels, or write."""
        prompt = self._prompt(job, subject)
        language = job.tags.audio_language if job.task.speech else None
        if job.labels:
            scored = yield self._score(prompt, self._continuations(job))
            return self._labelled(job, scored, language)
        said = yield self._generate(job, prompt, subject)
        assert isinstance(said, Generated)
        return self._read(job, said, subject, language)

    def heard(self, subject: Subject, memory: object) -> Subject:
        """Its length is all that a prompt tells of a clip."""
        return subject

    def lesson(self, job: Job, subject: Subject, target: str) -> Lesson:
        """The prompt of the job, and the target as the whole answer."""
        answer = language_name(resolve(target)) if job.task.name == "language" else target
        return self._lesson(self._prompt(job, subject), self.tokenizer.encode(answer))

    def _lesson(self, prompt: list[int], answer: list[int]) -> Lesson:
        lesson = Lesson(prompt, [*answer, self._end])
        self._fit(len(prompt), len(lesson.answer))
        return lesson

    @abstractmethod
    def _prompt(self, job: Job, subject: Subject) -> list[int]:
        """The prompt of a job about a subject's clips. Raises UsageError for what has no words."""

    def _continuations(self, job: Job) -> list[list[int]]:
        """The ids of each label as the whole answer."""
        naming = job.task.name == "language"
        texts = [language_name(label) if naming else label for label in job.labels]
        return [[*self.tokenizer.encode(text), self._end] for text in texts]

    def _score(self, prompt: list[int], continuations: Sequence[Sequence[int]]) -> Score:
        self._fit(len(prompt), max(map(len, continuations)))
        return Score(prompt, continuations)

    def _generate(self, job: Job, prompt: list[int], subject: Subject) -> Generate:
        longest = job.longest or self._longest(job, sum(subject.seconds))
        self._fit(len(prompt), longest)
        return Generate(
            prompt=prompt,
            longest=longest,
            stop=frozenset(self._stops),
            temperature=job.temperature,
            seed=job.seed,
        )

    def _longest(self, job: Job, seconds: float) -> int:
        if job.tags.phase == "startoftranscript":
            return LONGEST + max(0, round(TOKENS_PER_SECOND * (seconds - 30)))
        talks = job.task.command in ("ask", "caption", "timestamp")
        return LONGEST_REPLY if talks else LONGEST_ANALYSIS

    def _fit(self, prompt: int, answer: int) -> None:
        """Raise TooLong where prompt and answer have no room together."""
        require_room(self.name, self.model.positions, prompt, answer)

    def _labelled(self, job: Job, scored: object, language: str | None) -> ClipAnswer:
        assert isinstance(scored, Scored)
        labels = shares(job.labels, scored)
        if job.task.name == "language":
            language = labels[0][0]
        return ClipAnswer(language=None if language == UNKNOWN else language, labels=labels)

    def _read(
        self, job: Job, said: Generated, subject: Subject, language: str | None
    ) -> ClipAnswer:
        text = self.tokenizer.decode(said.tokens).strip()
        spans, whole = None, True
        if job.task.parser is Parser.SPANS:
            spans, whole = read_spans(text, sum(subject.seconds), said.logprobs)
        return ClipAnswer(
            text=text,
            language=None if language == UNKNOWN else language,
            words=spans,
            avg_logprob=said.avg_logprob,
            compression_ratio=compression_ratio(text),
            finish_reason=said.finish,
            flags=FINISH_FLAGS[said.finish] | (set() if whole else {"unparsed"}),
        )
