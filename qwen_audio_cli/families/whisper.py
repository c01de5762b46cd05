"""The Whisper family: its prompt dialect, its thresholds and how its answers are read.

It does the transcription branch of the tags: transcription, translation into English, word times
and language identification (Radford et al. 2022, section 2.3 and appendix D; openai/whisper).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..audio import SAMPLE_RATE
from ..audio.features import HOP, log_mel
from ..engine.request import Dialogue, Generate, Generated, Score, Scored
from ..errors import ConfigError, UsageError
from ..languages import LANGUAGES, UNSPACED
from .adapter import Adapter
from .base import ClipAnswer, Job, Subject, TimedWord
from .checkpoint import Checkpoint
from .quality import FINISH_FLAGS, compression_ratio
from .whisper_checkpoint import facts, geometry
from .whisper_decoder import Hearing
from .whisper_model import WhisperModel, parameter_name
from .whisper_tokenizer import WhisperTokenizer
from .word_times import find_pauses, group_words, token_onsets, word_frames

FRAME_SECONDS = 2 * HOP / SAMPLE_RATE
"""Seconds between two frames of the encoder's output."""

BUCKET = 32 * HOP
"""Lengths in samples are rounded up to this, so that clips of like length share a batch."""

MARGIN = 2 * SAMPLE_RATE
"""Silence in samples that the encoder hears behind a clip at least."""

# openai/whisper, `transcribe.py`: when an answer is tried again at a higher temperature, and when
# it is taken for no speech.
TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
COMPRESSION_RATIO = 2.4
AVG_LOGPROB = -1.0
NO_SPEECH_PROB = 0.6


class Whisper:
    """A Whisper checkpoint; `label` is what records call it."""

    name = "whisper"
    colleague = None

    def __init__(
        self,
        directory: Path,
        label: str,
        *,
        full_window: bool = False,
        adapter: Adapter | None = None,
    ) -> None:
        """Read the vocabulary; `load` gives the network.

        With `full_window` every clip is encoded as a whole window (30 s for all published
        checkpoints), as the reference does; without, at its own length, which is several times
        faster. Raises ModelError or ConfigError.
        """
        self._checkpoint = Checkpoint(directory, adapter)
        encoder, decoder = geometry(self._checkpoint)
        self._facts = facts(self._checkpoint, decoder)
        self._mels, self._window = encoder.mels, 2 * encoder.positions * HOP
        self.window = self._window / SAMPLE_RATE
        self.label = self._checkpoint.title(label)
        self._full_window = full_window
        self._longest = decoder.positions // 2
        self._tokenizer = WhisperTokenizer.read(directory)
        self._read_tokens(decoder.vocabulary)

    @property
    def parameters(self) -> int:
        """How many weights `load` loads."""
        return self._checkpoint.count(lambda name: parameter_name(name) is not None)

    def load(self, dtype: torch.dtype, device: torch.device, device_map: str | None = None) -> None:
        """Load the network."""
        if device_map:
            raise UsageError(f"{self.label} is small enough for one device: it takes no device map")
        self.model = WhisperModel.load(self._checkpoint, dtype, device)
        said = self._tokenizer.is_text
        mute = [id for id in range(self.model.vocabulary) if not said(id) and id != self._end]
        bias = torch.zeros(self.model.vocabulary)
        bias[[*mute, *self._facts.suppressed]] = -math.inf
        first = bias.clone()
        first[[*self._facts.suppressed_first]] = -math.inf
        self._bias, self._first_bias = bias.to(device), first.to(device)

    def _read_tokens(self, vocabulary: int) -> None:
        def token(name: str) -> int:
            number = self._tokenizer.tag(name)
            if number is None or number >= vocabulary:
                what = "no" if number is None else f"{number}, past vocab_size, for"
                raise ConfigError(f"{self._checkpoint.directory}: tokenizer has {what} <|{name}|>")
            return number

        self._start, self._end = token("startoftranscript"), token("endoftext")
        self._no_timestamps = token("notimestamps")
        # The token before <|notimestamps|> was renamed between releases of the vocabulary.
        self._no_speech = self._no_timestamps - 1
        self._tasks: dict[str, int] = {}
        self._languages: dict[str, int] = {}
        if self._facts.multilingual:
            self._tasks = {name: token(name) for name in ("transcribe", "translate")}
            known = [code for code in LANGUAGES if self._tokenizer.tag(code) is not None]
            self._languages = {code: token(code) for code in known}
            if not known:
                directory = self._checkpoint.directory
                raise ConfigError(f"{directory}: multilingual, but the tokenizer has no languages")

    def check(self, job: Job) -> None:
        """Raise UsageError for what Whisper cannot do."""
        tags = job.tags
        job.require("whisper")
        if not self._facts.multilingual:
            self._check_english_only(job)
        elif tags.task not in self._tasks:
            raise UsageError(f"{self.label} has no task <|{tags.task}|>")
        elif tags.audio_language not in (None, *self._languages):
            raise UsageError(f"{self.label} does not know the language '{tags.audio_language}'")
        if tags.task == "transcribe" and tags.text_language != tags.audio_language:
            raise UsageError(f"{self.label} writes speech down in its own language")
        if job.task.name == "language":
            self._check_language_task(job)

    def _check_english_only(self, job: Job) -> None:
        if job.task.name == "language":
            raise UsageError(f"{self.label} is English-only: it tells no languages apart")
        if job.tags.task != "transcribe":
            raise UsageError(f"{self.label} is English-only: it has no task <|{job.tags.task}|>")
        if job.tags.audio_language not in (None, "en"):
            language = job.tags.audio_language
            raise UsageError(f"{self.label} is English-only: it does not know '{language}'")

    def _check_language_task(self, job: Job) -> None:
        if job.tags.audio_language is not None:
            raise UsageError("the language is what 'language' asks for: it cannot be given")
        if not job.labels:
            raise UsageError(f"{self.label} scores languages, it does not write them")
        unknown = [label for label in job.labels if label not in self._languages]
        if unknown and job.labels != job.task.labels:
            raise UsageError(f"{self.label} does not know the language '{unknown[0]}'")

    def features(self, samples: NDArray[np.float32]) -> Tensor:
        """Log-mel features [mels, frames] of a clip, as long as it needs to be encoded."""
        needed = -(-(len(samples) + MARGIN) // BUCKET) * BUCKET
        length = self._window if self._full_window else min(self._window, needed)
        return log_mel(samples, self._mels, length)

    def answer(self, job: Job, subject: Subject) -> Dialogue[ClipAnswer]:
        """Detect what is needed, write, and try again while the answer looks wrong."""
        scored = yield Score(
            (self._start,), [*([n] for n in self._languages.values()), [self._no_speech]]
        )
        assert isinstance(scored, Scored)
        *languages, no_speech = (math.exp(logprobs[0]) for logprobs in scored.logprobs)
        ranked = sorted(
            (
                (code, p / sum(languages))
                for code, p in zip(self._languages, languages, strict=True)
            ),
            key=lambda item: -item[1],
        ) or [("en", 1.0)]
        if job.task.name == "language":
            return ClipAnswer(
                language=ranked[0][0], labels=_only(ranked, job.labels), no_speech_prob=no_speech
            )
        language = job.tags.audio_language or ranked[0][0]
        prompt = self._prompt(job, language)
        generated = yield from self._generate(job, prompt)
        (seconds,) = subject.seconds
        return self._read(job, language, prompt, generated, no_speech, seconds)

    def _prompt(self, job: Job, language: str) -> tuple[int, ...]:
        """The tags in Whisper's dialect: its own tags have no text language and no instruction.

        English-only checkpoints were trained without a language and a task.
        """
        if not self._facts.multilingual:
            return self._start, self._no_timestamps
        task = self._tasks[job.tags.task]
        return self._start, self._languages[language], task, self._no_timestamps

    def _generate(self, job: Job, prompt: tuple[int, ...]) -> Dialogue[Generated]:
        """The first answer that passes Whisper's thresholds, or else the likeliest of all.

        openai/whisper then keeps the last, sampled at temperature 1: often a long invention.
        """
        request = Generate(
            prompt=prompt,
            longest=min(job.longest or self._longest, self._longest),
            stop=frozenset({self._end}),
            bias=self._bias,
            first_bias=self._first_bias,
            seed=job.seed,
            watch=job.tags.timestamps,
        )
        temperatures = (job.temperature,) if job.temperature else TEMPERATURES
        tried: list[tuple[bool, float, Generated]] = []
        for temperature in temperatures:
            answer = yield replace(request, temperature=temperature)
            assert isinstance(answer, Generated)
            ratio = compression_ratio(self._tokenizer.decode(answer.tokens))
            sound = answer.finish == "stop" and ratio <= COMPRESSION_RATIO
            if sound and answer.avg_logprob >= AVG_LOGPROB:
                return answer
            tried.append((sound, answer.avg_logprob, answer))
        return max(tried, key=lambda one: one[:2])[2]

    def _read(
        self,
        job: Job,
        language: str,
        prompt: tuple[int, ...],
        generated: Generated,
        no_speech: float,
        seconds: float,
    ) -> ClipAnswer:
        text = self._tokenizer.decode(generated.tokens).strip()
        ratio = compression_ratio(text)
        flags = FINISH_FLAGS[generated.finish]
        words: tuple[TimedWord, ...] | None = None
        if no_speech > NO_SPEECH_PROB and generated.avg_logprob < AVG_LOGPROB:
            text, flags = "", frozenset({"no_speech"})
            words = () if job.tags.timestamps else None
        else:
            if generated.avg_logprob < AVG_LOGPROB:
                flags |= {"low_confidence"}
            if ratio > COMPRESSION_RATIO:
                flags |= {"repetition"}
            if job.tags.timestamps:
                spoken = "en" if job.tags.task == "translate" else language
                words = tuple(self._words(generated, len(prompt), spoken, seconds))
        return ClipAnswer(
            text=text,
            language=language,
            words=words,
            avg_logprob=generated.avg_logprob,
            compression_ratio=ratio,
            no_speech_prob=no_speech,
            finish_reason=generated.finish,
            flags=flags,
        )

    def _words(
        self, generated: Generated, prompt: int, language: str, seconds: float
    ) -> Iterator[TimedWord]:
        """Words with times in seconds from the clip's begin and the mean of their tokens."""
        if not generated.tokens:
            return
        heard = generated.watched
        assert isinstance(heard, Hearing)
        frames = max(1, math.ceil(seconds / FRAME_SECONDS))
        # A row of attention belongs to the token that follows the one whose row it is.
        attention = heard.attention(prompt - 1, len(generated.logprobs))
        onsets = token_onsets(attention, frames)
        pauses = find_pauses(heard.audio.level[:frames].cpu().numpy())
        groups = group_words(self._pieces(generated.tokens), spaced=language not in UNSPACED)
        for group, place in zip(groups, word_frames(groups, onsets, pauses), strict=True):
            logprobs = generated.logprobs[group.start : group.stop]
            yield TimedWord(
                group.word,
                min(place.start * FRAME_SECONDS, seconds),
                min(place.stop * FRAME_SECONDS, seconds),
                math.exp(sum(logprobs) / len(logprobs)),
            )

    def _pieces(self, tokens: list[int]) -> list[str]:
        """What each token adds to the text; a token that leaves a character open adds nothing."""
        pieces: list[str] = []
        said = ""
        for count in range(1, len(tokens) + 1):
            text = self._tokenizer.decode(tokens[:count])
            whole = not text.endswith("\ufffd")
            pieces.append(text[len(said) :] if whole else "")
            said = text if whole else said
        return pieces


def _only(
    ranked: list[tuple[str, float]], labels: tuple[str, ...]
) -> tuple[tuple[str, float], ...]:
    """The ranked labels that were asked for, normalised among themselves."""
    chosen = [(label, p) for label, p in ranked if label in labels]
    total = sum(p for _, p in chosen)
    return tuple((label, p / total) for label, p in chosen)
