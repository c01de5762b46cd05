"""Qwen3-ForcedAligner (arXiv 2601.21337): when each word of a given text is spoken.

The text stands behind the audio with two marks behind each word; the network gives each mark a
class, which is a time, all in one step.
"""

from __future__ import annotations

import math
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ..audio import SAMPLE_RATE
from ..engine.request import Classified, Classify, Dialogue
from ..errors import ConfigError, UsageError
from ..languages import LANGUAGES
from .adapter import Adapter
from .ascending import ascending
from .base import ClipAnswer, Job, Refused, Subject, TimedWord, TooLong
from .library import LibraryFamily
from .spoken_words import SpokenWord, spoken_words

if TYPE_CHECKING:
    pass

ALIGNED = ("zh", "en", "yue", "fr", "de", "it", "ja", "ko", "pt", "ru", "es")
"""The languages whose words it finds."""

MILLISECONDS = 80
"""From one class to the next, where the checkpoint does not say."""


class Qwen3Aligner(LibraryFamily):
    """A Qwen3-ForcedAligner checkpoint; `label` is what records call it."""

    name = "qwen3-forced-aligner"
    window = 180.0

    def __init__(self, directory: Path, label: str, adapter: Adapter | None = None) -> None:
        """Read configuration and vocabulary; `load` gives the network.

        Raises ModelError or ConfigError.
        """
        tokens = ("<|audio_start|>", "<|audio_pad|>", "<|audio_end|>")
        super().__init__(directory, label, tokens, adapter)
        (self._mark,) = self.tokenizer.require("<timestamp>")
        self._milliseconds = self._checkpoint.config.get("timestamp_segment_time", MILLISECONDS)
        if not isinstance(self._milliseconds, (int, float)):
            raise ConfigError(f"{directory}: timestamp_segment_time is no number")

    def check(self, job: Job) -> None:
        """Raise UsageError for another task, and for a language that it does not align."""
        job.require(self.name)
        self.require(job.tags.audio_language)

    def require(self, language: str | None) -> None:
        """Raise UsageError for a language, by code, that it does not align; None may be any."""
        if (reason := self._refusal(language)) is not None:
            raise UsageError(reason)

    def answer(self, job: Job, subject: Subject) -> Dialogue[ClipAnswer]:
        """The times of the words that the user says are spoken."""
        assert subject.text is not None
        (seconds,) = subject.seconds
        language = job.tags.audio_language
        words = yield from self.align(subject.text, language, seconds)
        return ClipAnswer(text=subject.text, language=language, words=words)

    def align(
        self, text: str, language: str | None, seconds: float
    ) -> Dialogue[tuple[TimedWord, ...]]:
        """The words of a text in a language, by code, that is spoken in a clip of so many seconds.

        A text without words gives none. Raises Refused for a language that it does not align,
        TooLong for a longer clip than its window or a text that has no room behind it.
        """
        if (reason := self._refusal(language)) is not None:
            raise Refused(reason)
        if round(seconds * SAMPLE_RATE) > self.window * SAMPLE_RATE:
            raise TooLong(
                f"{self.name} aligns {self.window:g} s at most, and the clip has {seconds:.1f} s"
            )
        words = spoken_words(text, language)
        if not words:
            return ()
        prompt = self._prompt(words, seconds)
        if len(prompt) > self.model.positions:
            raise TooLong(
                f"{self.name} takes {self.model.positions} tokens at most: "
                f"{len(words)} words with {seconds:.1f} s of audio are {len(prompt)}"
            )
        marks = [row for row, token in enumerate(prompt) if token == self._mark]
        found = yield Classify(prompt, marks)
        assert isinstance(found, Classified)
        return tuple(self._timed(words, found, seconds))

    def _prompt(self, words: list[SpokenWord], seconds: float) -> list[int]:
        prompt = self._audio(seconds)
        for word in words:
            prompt += [*self.tokenizer.encode(word.spoken), self._mark, self._mark]
        return prompt

    def _timed(self, words: list[SpokenWord], found: Classified, seconds: float) -> list[TimedWord]:
        """Words with the times of their marks; a probability is the mean of their two classes'."""
        # Whole milliseconds, as the authors have them, and no time behind the clip's end.
        raw = [number * self._milliseconds for number in found.classes]
        times = [min(int(time) / 1000, seconds) for time in ascending(raw)]
        shares = [math.exp(logprob) for logprob in found.logprobs]
        marks = zip(words, times[::2], times[1::2], shares[::2], shares[1::2], strict=True)
        return [
            TimedWord(word.written, start, end, (one + other) / 2)
            for word, start, end, one, other in marks
        ]

    def _refusal(self, language: str | None) -> str | None:
        """Why a language is not aligned."""
        if language not in (None, *ALIGNED):
            known = ", ".join(LANGUAGES[code].title() for code in ALIGNED)
            name = LANGUAGES.get(str(language), str(language)).title()
            return f"{self.label} does not align {name}; it knows {known}"
        if language == "ja" and find_spec("nagisa") is None:
            return (
                f"{self.label} needs the words of a Japanese text, which has no spaces: "
                "install the package nagisa, which finds them"
            )
        return None
