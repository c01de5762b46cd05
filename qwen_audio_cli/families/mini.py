"""Mini, this project's own model: a Qwen-Audio on Whisper-base and SmolLM2-135M.

It is asked by tags, and answers, as the base checkpoint of 2023 does; but before the tags it reads
what its CTC head hears. What it writes of speech is compared with that, letter by letter, and that
tells when each word is said. Labels that its summary has learned are told by the summary, which
knows them better than the decoder has learned to read them from it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor

from ..engine.request import Dialogue, Spell, Spelled
from ..errors import ConfigError, UsageError
from ..tags import UNKNOWN, TagSequence
from ..tasks import TASKS
from .accuracy import accuracy
from .adapter import Adapter
from .base import ClipAnswer, Job, Subject
from .calibration import Calibration, Kind
from .ctc_alignment import SpelledWord, align, timed_words
from .mini_config import MiniCheckpoint
from .mini_model import ASPECTS, MiniModel, likenesses, read_rows
from .mini_tokenizer import MiniTokenizer
from .qwen_audio import LANGUAGE_TASK, QwenAudio
from .qwen_prompt import audio_span, rows_in
from .shares import probabilities, ranked
from .spelling import read, symbols
from .spoken_words import spoken_words

PLAIN = TASKS["asr"].instructions
"""How a transcript that is words alone is asked for, the usual way first."""


@dataclass(frozen=True, slots=True)
class Learned:
    """What a checkpoint has heard of in training, by `config.json`: nothing, if it is untrained."""

    languages: tuple[str, ...] = ()
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def read(cls, checkpoint: MiniCheckpoint) -> Learned:
        """Raises ConfigError where it makes no sense."""
        part = checkpoint.config.get("learned", {})
        try:
            labels = {str(task): tuple(map(str, some)) for task, some in part["labels"].items()}
            return cls(tuple(map(str, part["languages"])), labels)
        except (KeyError, TypeError, AttributeError):
            if not part:
                return cls()
            raise ConfigError(
                f"{checkpoint.directory}: config.json: learned has no languages and labels"
            ) from None

    def told(self, task: str) -> tuple[str, ...]:
        """The labels of a task that the summary was taught; of languages, that there is none too.

        What users choose from by `labels` has no languages: these have tags.
        """
        if task == LANGUAGE_TASK and self.languages:
            return (*self.languages, UNKNOWN)
        return self.labels.get(task, ())


@dataclass(frozen=True, slots=True)
class Drafted(Subject):
    """A clip, and what its CTC head and its summary say, of which the decoder reads a `draft`.

    The draft is in tokens. Xia et al. 2017 call a second reader of one a deliberation network.
    """

    draft: tuple[int, ...] = ()
    spelled: Spelled | None = field(default=None, compare=False, repr=False)


class Mini(QwenAudio):
    """A checkpoint of mini; `label` is what records call it."""

    tokenizer: MiniTokenizer
    model: MiniModel
    _network = MiniModel

    def __init__(
        self,
        directory: Path,
        label: str,
        adapter: Adapter | None = None,
        *,
        merged: bool = True,
    ) -> None:
        """Read configuration and vocabulary; `load` gives the network.

        Without `merged` its own low-rank part is left out, for who trains that further.
        """
        checkpoint = MiniCheckpoint(directory, adapter, merged=merged)
        config = checkpoint.geometry()
        tokenizer = MiniTokenizer.read(directory)
        if len(tokenizer) != config.decoder.vocabulary:
            raise ConfigError(
                f"{directory}: the tokenizer has {len(tokenizer)} ids, "
                f"the configuration {config.decoder.vocabulary}"
            )
        self._open(checkpoint, config.encoder, config.decoder, tokenizer, label)
        self.name = "mini"
        self._learned = Learned.read(checkpoint)
        self._labels: dict[str, Tensor] = {}  # embeddings of all that were learned of an aspect
        self._calibration = Calibration.read(checkpoint.config.get("calibration"))
        if self._calibration is not None:
            self._temperature = self._calibration.temperature

    def load(self, dtype: torch.dtype, device: torch.device, device_map: str | None = None) -> None:
        """Load the network. Raises ConfigError where the weights do not fit."""
        if device_map:
            raise UsageError(f"{self.label} is small enough for one device: it takes no device map")
        super().load(dtype, device)

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages that it has learned, of those that it has tags for."""
        return self._learned.languages or self.tokenizer.languages

    def heard(self, subject: Subject, memory: object) -> Subject:
        """With the draft of what is said in a clip that is encoded."""
        return self._drafted(subject, self.model.spelled(memory, ()))

    def _drafted(self, subject: Subject, spelled: Spelled) -> Drafted:
        draft = tuple(self.tokenizer.encode(read(spelled.path)))
        return Drafted(subject.seconds, draft=draft, spelled=spelled)

    def _audio(self, subject: Subject) -> list[int]:
        """The clip and, behind it, the draft of what is said in it, if there is one."""
        (seconds,) = subject.seconds
        draft = subject.draft if isinstance(subject, Drafted) else ()
        return [*audio_span(self.tokenizer, read_rows(rows_in(seconds, self.window))), *draft]

    def answer(self, job: Job, subject: Subject) -> Dialogue[ClipAnswer]:
        """As every Qwen-Audio, and how sure the answer is where the checkpoint is calibrated.

        Where the user names no labels, it chooses among those that it has learned.
        """
        spelled = yield Spell()
        assert isinstance(spelled, Spelled)
        subject = self._drafted(subject, spelled)
        if job.labels and job.labels == job.task.labels:
            job = replace(job, labels=self._learned.labels.get(job.task.name, job.labels))
        answer = yield from super().answer(job, subject)
        return replace(answer, confidence=self._confidence(job, answer))

    def _confidence(self, job: Job, answer: ClipAnswer) -> float | None:
        """None of a translation, too: there is no telling which of many is right."""
        if self._calibration is None or job.tags.task == "translate":
            return None
        if answer.labels is not None:
            return answer.labels[0][1]
        assert answer.avg_logprob is not None
        kind: Kind = "analysis" if answer.agreement is None else "transcript"
        return self._calibration.written(kind, answer.avg_logprob, answer.agreement)

    def embedded(self, labels: Sequence[str]) -> Tensor:
        """What a summary's rows come near where labels are right: [labels, width] in float32.

        The mean embedding of a label's tokens, as text, the n-th turned by n places: otherwise
        pitches 67 and 76 would be one.
        """
        embedding = self.model.decoder.wte.weight.detach()
        rows = []
        for label in labels:
            own = embedding[self.tokenizer.encode(label)].float()
            rows.append(torch.stack([row.roll(n) for n, row in enumerate(own)]).mean(0))
        return torch.stack(rows)

    def _summed_up(self, task: str, labels: Sequence[str], subject: Subject) -> list[float] | None:
        """The logits of labels by a clip's summary; None where it has not learned them all."""
        known = self._learned.told(task)
        assert isinstance(subject, Drafted) and subject.spelled is not None
        whole = subject.spelled.whole
        if task not in ASPECTS or whole is None or not {*labels} <= {*known}:
            return None
        place = ASPECTS.index(task)
        if task not in self._labels:
            self._labels[task] = self.embedded(known).cpu()
        scale = float(self.model.audio.summary.scales[place])
        cosines = likenesses(whole[place], self._labels[task])
        return [scale * float(cosines[known.index(label)]) for label in labels]

    def _chances(self, logits: Sequence[float]) -> list[float]:
        return probabilities([[logit] for logit in logits], self._temperature)

    def _hear(self, subject: Subject) -> Dialogue[dict[str, float]]:
        """By the summary, where it has learned to tell languages apart."""
        codes = (*self.languages, UNKNOWN)
        logits = self._summed_up(LANGUAGE_TASK, codes, subject)
        if logits is None:
            return (yield from super()._hear(subject))
        return dict(zip(codes, self._chances(logits), strict=True))

    def _answer(self, job: Job, tags: TagSequence, subject: Subject) -> Dialogue[ClipAnswer]:
        """Labels are told by the summary, where it has learned them all.

        A transcript is written without times, and then compared with what the head hears.
        """
        logits = self._summed_up(job.task.name, job.labels, subject) if job.labels else None
        if logits is not None:
            chances = dict(zip(job.labels, self._chances(logits), strict=True))
            return ClipAnswer(labels=ranked(chances))
        timed = tags.timestamps
        if job.labels or tags.task != "transcribe" or not (timed or tags.instruction in PLAIN):
            return (yield from super()._answer(job, tags, subject))
        if timed:
            tags = replace(tags, timestamps=False, instruction=PLAIN[0])
        answer = yield from super()._answer(job, tags, subject)
        words = [
            SpelledWord(word.written, tuple(symbols(word.written)))
            for word in spoken_words(answer.text or "", None)
        ]
        assert isinstance(subject, Drafted)
        spelled: object = subject.spelled
        if timed:  # of the letters that were written, row by row
            spelled = yield Spell([token for word in words for token in word.tokens])
        assert isinstance(spelled, Spelled)
        return self._compare(answer, words, spelled, subject, timed=timed)

    def _compare(
        self,
        answer: ClipAnswer,
        words: list[SpelledWord],
        spelled: Spelled,
        subject: Subject,
        *,
        timed: bool,
    ) -> ClipAnswer:
        """What the decoder wrote, if the CTC head heard anything, and how far they agree."""
        (seconds,) = subject.seconds
        heard = [symbol for symbol, _ in groupby(spelled.path) if symbol is not None]
        letters = [symbol for word in words for symbol in word.tokens]
        answer = replace(answer, agreement=accuracy(letters, heard))
        if not (heard and answer.text):
            silent = answer.flags | {"no_speech"}
            return replace(answer, text="", words=() if timed else None, flags=silent)
        if not timed:
            return answer
        spikes = align(spelled.logprobs.numpy(), letters)
        assert answer.avg_logprob is not None
        times = timed_words(words, spikes, seconds, math.exp(answer.avg_logprob))
        unparsed = {"unparsed"} if spikes is None else set()
        return replace(answer, words=times, flags=answer.flags | unparsed)
