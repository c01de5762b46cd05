"""The Qwen-Audio family (2023): base and chat checkpoints, their tasks and answers.

Chu et al. 2023 (arXiv 2311.07919); the prompts and answer lengths are those of the original's
evaluation scripts (QwenLM/Qwen-Audio, `eval_audio/`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..audio import SAMPLE_RATE
from ..audio.features import HOP, log_mel
from ..engine.request import Dialogue, Generate, Generated, Score, Scored
from ..errors import ConfigError, UsageError
from ..languages import resolve
from ..tags import UNKNOWN, TagSequence
from ..tasks import Parser
from .adapter import Adapter
from .base import ClipAnswer, Job, Lesson, Subject, TooLong, require_room
from .checkpoint import Checkpoint
from .encoder import EncoderConfig
from .quality import FINISH_FLAGS, compression_ratio
from .qwen_answer import plain_text, timeline
from .qwen_decoder import QwenConfig
from .qwen_model import QwenAudioModel, geometry, mel_frames
from .qwen_prompt import (
    AUDIO_TOKENS,
    answer_tokens,
    audio_span,
    base_prompt,
    chat_prompt,
    label_tokens,
    rows_in,
)
from .qwen_tokenizer import QwenTokenizer
from .shares import probabilities, ranked, shares
from .tag_tokenizer import TagTokenizer

LANGUAGE_TASK = "language"
"""The classification whose answer is the audio-language tag itself."""

SILENCE = "<|sil|>"
"""The tag that is written where nothing is said: its text is empty."""

LONGEST = 256
"""Tokens of a transcript, a translation or words with times at most."""

LONGEST_ANALYSIS = 30
"""Tokens of any other answer to tags at most, where its instruction has no limit of its own."""

LONGEST_BY_INSTRUCTION: Mapping[str, int] = MappingProxyType(
    {"scene": 10, "emotion_recognition": 4, "vocal_classification": 4}
)

LONGEST_REPLY = 512
"""Tokens of a chat reply at most, where the checkpoint does not say."""


class QwenAudio:
    """A Qwen-Audio or Qwen-Audio-Chat checkpoint; `label` is what records call it.

    A chat checkpoint answers `ask` in its chat format and everything else by tags, as the base one.
    """

    colleague = None
    _network: type[QwenAudioModel] = QwenAudioModel
    _temperature = 1.0
    """What log-likelihoods are divided by before they become probabilities."""

    def __init__(self, directory: Path, label: str, adapter: Adapter | None = None) -> None:
        """Read configuration and vocabulary; `load` gives the network.

        Raises ModelError or ConfigError.
        """
        checkpoint = Checkpoint(directory, adapter)
        shape = geometry(checkpoint)
        self._open(checkpoint, *shape, QwenTokenizer.read(directory / "qwen.tiktoken"), label)

    def _open(
        self,
        checkpoint: Checkpoint,
        encoder: EncoderConfig,
        decoder: QwenConfig,
        tokenizer: TagTokenizer,
        label: str,
    ) -> None:
        self._checkpoint, self.tokenizer = checkpoint, tokenizer
        if len(tokenizer) > decoder.vocabulary:
            raise ConfigError(
                f"{checkpoint.directory}: the tokenizer has {len(tokenizer)} ids, "
                f"the configuration {decoder.vocabulary}"
            )
        self._mels, self._positions = encoder.mels, decoder.positions
        self._window = 2 * encoder.positions * HOP
        self.window = self._window / SAMPLE_RATE
        facts = self._checkpoint.json("generation_config.json")
        self._chats = facts.get("chat_format") == "chatml"
        self._longest_reply: int = facts.get("max_new_tokens", LONGEST_REPLY)
        self.name = "qwen-audio-chat" if self._chats else "qwen-audio"
        self.label = self._checkpoint.title(label)
        # The end of an answer by tags first, that of a chat turn second.
        ends = ("<|endoftext|>", "<|im_end|>", "<|im_start|>")[: 3 if self._chats else 1]
        self._stops = tuple(self.tokenizer.special[token] for token in ends)

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages that it tells apart."""
        return self.tokenizer.languages

    @property
    def parameters(self) -> int:
        """How many weights `load` loads."""
        return self._checkpoint.count()

    def load(self, dtype: torch.dtype, device: torch.device, device_map: str | None = None) -> None:
        """Load the network. Raises ConfigError where the weights do not fit."""
        begin, pad, end = (self.tokenizer.special[token] for token in AUDIO_TOKENS)
        self.model = self._network.load(
            self._checkpoint, (begin, pad, end), dtype, device, device_map
        )
        # The evaluation scripts ask for one token at least.
        self._first_bias = torch.zeros(self.model.vocabulary, device=device)
        self._first_bias[list(self._stops)] = -math.inf

    def check(self, job: Job) -> None:
        """Raise UsageError for what this checkpoint cannot do, too long a prompt among it."""
        task, tags = job.task, job.tags
        job.require(self.name)
        if task.name == LANGUAGE_TASK:
            self._languages(job)
            return
        tags = tags if tags.determined else tags.detected(self.tokenizer.languages[0])
        prompt = self._prompt(job, tags, Subject((self.window,)))
        continuations = self._continuations(job)
        try:  # of several clips it is known when they are heard
            self._fit(prompt, max(map(len, continuations), default=self._longest(job)))
        except TooLong as error:
            raise UsageError(str(error)) from None

    def features(self, samples: NDArray[np.float32]) -> Tensor:
        """Log-mel features [mels, frames] of a clip, cut where the model's encoder ends."""
        frames = mel_frames(len(samples), self._window)
        return log_mel(samples, self._mels, self._window)[:, :frames].contiguous()

    def answer(self, job: Job, subject: Subject) -> Dialogue[ClipAnswer]:
        """Find the language out where it is needed, then score the labels or write."""
        finding = job.task.name == LANGUAGE_TASK
        if job.tags.determined and not finding:
            return (yield from self._answer(job, job.tags, subject))
        heard = yield from self._hear(subject)
        no_speech = heard.pop(UNKNOWN)
        language = max(heard, key=heard.__getitem__)
        if finding:
            chosen = {code: heard[code] for code in self._languages(job)}
            answer = ClipAnswer(language=language, labels=ranked(chosen))
        else:
            answer = yield from self._answer(job, job.tags.detected(language), subject)
        # The text stands even then: the tag is for sound without speech, and may be wrong.
        silent = {"no_speech"} if no_speech > heard[language] else set()
        return replace(answer, no_speech_prob=no_speech, flags=answer.flags | silent)

    def heard(self, subject: Subject, memory: object) -> Subject:
        """Its length is all that a prompt tells of a clip."""
        return subject

    def lesson(self, job: Job, subject: Subject, target: str) -> Lesson:
        """The target behind the tags; tags that are part of an answer are tags in it, too.

        The language itself is learned by `classify --task language`: its tag is the answer.
        """
        task, tags = job.task, job.tags
        if task.name == LANGUAGE_TASK:
            special = self.tokenizer.special
            return Lesson(self._opening(subject), [special[f"<|{self._tagged(target)}|>"]])
        if not tags.determined:
            raise UsageError(f"{self.label} learns from speech whose language is named")
        prompt = self._prompt(job, tags, subject)
        stop = self._stops[1 if self._chatting(job) else 0]
        if job.labels:
            answer = label_tokens(self.tokenizer, task, target, stop)
        elif tags.timestamps or _says_tags(job, tags) or target == SILENCE:
            answer = [*answer_tokens(self.tokenizer, target), stop]
        else:
            answer = [*self.tokenizer.encode(target), stop]
        self._fit(prompt, len(answer))
        return Lesson(prompt, answer)

    def _tagged(self, language: str) -> str:
        """The code of a language, or of none, that there is a tag for."""
        code = UNKNOWN if language == UNKNOWN else resolve(language)
        if code not in (*self.tokenizer.languages, UNKNOWN):
            raise UsageError(f"{self.label} has no tag for the language '{code}'")
        return code

    def _hear(self, subject: Subject) -> Dialogue[dict[str, float]]:
        """Probability of each audio language and of `unknown`, at their place in the prompt."""
        special = self.tokenizer.special
        codes = (*self.languages, UNKNOWN)
        scored = yield Score(self._opening(subject), [[special[f"<|{code}|>"]] for code in codes])
        assert isinstance(scored, Scored)
        chances = probabilities(scored.logprobs, self._temperature)
        return dict(zip(codes, chances, strict=True))

    def _answer(self, job: Job, tags: TagSequence, subject: Subject) -> Dialogue[ClipAnswer]:
        prompt = self._prompt(job, tags, subject)
        spoken = tags.phase == "startoftranscript" and tags.audio_language != UNKNOWN
        language = tags.audio_language if spoken else None
        if job.labels:
            continuations = self._continuations(job)
            self._fit(prompt, max(map(len, continuations)))
            scored = yield Score(prompt, continuations)
            assert isinstance(scored, Scored)
            labels = shares(job.labels, scored, self._temperature)
            return ClipAnswer(language=language, labels=labels)
        longest = self._longest(job)
        self._fit(prompt, longest)
        said = yield Generate(
            prompt=prompt,
            longest=longest,
            stop=frozenset(self._stops),
            first_bias=None if self._chatting(job) else self._first_bias,
            temperature=job.temperature,
            seed=job.seed,
        )
        assert isinstance(said, Generated)
        return self._read(job, tags, said, sum(subject.seconds), language)

    def _read(
        self, job: Job, tags: TagSequence, said: Generated, seconds: float, language: str | None
    ) -> ClipAnswer:
        times = timeline(self.tokenizer, said, seconds) if tags.timestamps else None
        if _says_tags(job, tags):
            text = self.tokenizer.decode(said.tokens, tags=True).strip()
        else:
            text = plain_text(self.tokenizer, said.tokens, tags.text_language)
        unparsed = {"unparsed"} if times and not times.whole else set()
        return ClipAnswer(
            text=text,
            language=language,
            words=times.words if times else None,
            avg_logprob=said.avg_logprob,
            compression_ratio=compression_ratio(text),
            finish_reason=said.finish,
            flags=FINISH_FLAGS[said.finish] | unparsed,
        )

    def _chatting(self, job: Job) -> bool:
        asks = job.task.command == "ask" or job.task.clips != 1
        return self._chats and asks and job.tags.question is not None

    def _prompt(self, job: Job, tags: TagSequence, subject: Subject) -> list[int]:
        if self._chatting(job) and tags.question is not None:
            spans = [
                audio_span(self.tokenizer, rows_in(seconds, self.window))
                for seconds in subject.seconds
            ]
            return chat_prompt(self.tokenizer, spans, tags.question, job.history)
        return base_prompt(self.tokenizer, self._audio(subject), tags, job.task)

    def _opening(self, subject: Subject) -> list[int]:
        """The prompt up to where the audio language comes."""
        return [*self._audio(subject), self.tokenizer.special["<|startoftranscript|>"]]

    def _audio(self, subject: Subject) -> list[int]:
        (seconds,) = subject.seconds
        return audio_span(self.tokenizer, rows_in(seconds, self.window))

    def _fit(self, prompt: Sequence[int], answer: int) -> None:
        """Raise TooLong where prompt and answer have no room together.

        Past its `seq_length` the original counts otherwise (dynamic NTK, log-n scaling).
        """
        require_room(self.name, self._positions, len(prompt), answer)

    def _longest(self, job: Job) -> int:
        if job.longest is not None:
            return job.longest
        if self._chatting(job):
            return self._longest_reply
        tags = job.tags
        if tags.phase == "startoftranscript" or tags.timestamps:
            return LONGEST
        return LONGEST_BY_INSTRUCTION.get(tags.instruction or "", LONGEST_ANALYSIS)

    def _continuations(self, job: Job) -> list[list[int]]:
        stop = self._stops[1 if self._chatting(job) else 0]
        return [label_tokens(self.tokenizer, job.task, label, stop) for label in job.labels]

    def _languages(self, job: Job) -> tuple[str, ...]:
        """The labels of a language identification: all with a tag where the user names none."""
        if job.labels in ((), job.task.labels):
            return self.languages
        if unknown := [label for label in job.labels if label not in self.languages]:
            raise UsageError(f"{self.label} does not know the languages {', '.join(unknown)}")
        return job.labels


def _says_tags(job: Job, tags: TagSequence) -> bool:
    """Whether tags carry the answer itself, so that its text must keep them."""
    return (
        job.task.parser is Parser.NOTE
        or job.task.command == "ask"  # replies point at times by <|2.33|>
        or tags.instruction == "named_entity_recognition"
    )
