"""Qwen2-Audio's base checkpoint, by the prompts that it was evaluated with (arXiv 2407.10759)."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import torch

from ..engine.request import Dialogue, Generate, Scored
from ..errors import UsageError
from ..prompts import BASE_LANGUAGES, base_prompt, language_tag
from ..tags import UNKNOWN
from .adapter import Adapter
from .base import ClipAnswer, Job, Lesson, Subject
from .shares import probabilities
from .worded import Worded


class Qwen2Audio(Worded):
    """The base checkpoint: it goes on with what it is given, and knows a few prompts."""

    name = "qwen2-audio"
    window = 30.0
    end = "<|endoftext|>"

    def __init__(self, directory: Path, label: str, adapter: Adapter | None = None) -> None:
        super().__init__(directory, label, ("<|audio_bos|>", "<|AUDIO|>", "<|audio_eos|>"), adapter)

    def load(self, dtype: torch.dtype, device: torch.device, device_map: str | None = None) -> None:
        """Load the network. Raises ConfigError where the weights do not fit."""
        super().load(dtype, device, device_map)
        # The evaluation scripts ask for one token at least.
        self._first_bias = torch.zeros(self.model.vocabulary, device=device)
        self._first_bias[list(self._stops)] = -math.inf

    def check(self, job: Job) -> None:
        """Raise UsageError for what this checkpoint cannot do."""
        super().check(job)
        language = job.tags.audio_language
        if job.task.speech and language not in (None, UNKNOWN, *BASE_LANGUAGES):
            raise UsageError(f"{self.label} does not know the language '{language}'")

    def answer(self, job: Job, subject: Subject) -> Dialogue[ClipAnswer]:
        """Find the language out where it is needed, then score the labels or write."""
        if not job.tags.determined:
            language = yield from self._hear(job, subject)
            job = replace(job, tags=job.tags.detected(language))
        return (yield from super().answer(job, subject))

    def lesson(self, job: Job, subject: Subject, target: str) -> Lesson:
        """The prompt of the job, which names the language, and the target behind it."""
        if not job.tags.determined:
            raise UsageError(f"{self.label} learns from speech whose language is named")
        return super().lesson(job, subject, target)

    def _hear(self, job: Job, subject: Subject) -> Dialogue[str]:
        """The language that the model most likely goes on with where its prompt names one."""
        prompts = [
            self._prompt(replace(job, tags=job.tags.detected(code)), subject)
            for code in BASE_LANGUAGES
        ]
        same = next(i for i, ids in enumerate(zip(*prompts, strict=False)) if len({*ids}) > 1)
        scored = yield self._score(prompts[0][:same], [prompt[same:] for prompt in prompts])
        assert isinstance(scored, Scored)
        chances = probabilities(scored.logprobs)
        return BASE_LANGUAGES[chances.index(max(chances))]

    def _prompt(self, job: Job, subject: Subject) -> list[int]:
        text = base_prompt(job.task, job.tags)
        if job.tags.phase == "startoftranscript":
            text += language_tag(job.tags.audio_language or BASE_LANGUAGES[0])
        audio = [id for seconds in subject.seconds for id in self._audio(seconds)]
        return [*audio, *self.tokenizer.encode(text)]

    def _generate(self, job: Job, prompt: list[int], subject: Subject) -> Generate:
        return replace(super()._generate(job, prompt, subject), first_bias=self._first_bias)
