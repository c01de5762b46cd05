"""What can be asked of a model about one clip, what comes back, and what the engine drives."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeVar, runtime_checkable

from torch import Tensor

from .arena import CacheShape
from .attention import Step

FinishReason = Literal["stop", "length", "repeat"]
"""Why an answer ended: a stop token, the longest length, or a loop of repeated tokens."""


@dataclass(frozen=True, slots=True, eq=False)
class Generate:
    """Write an answer behind `prompt`, token by token.

    `bias` and `first_bias` [vocabulary] are added to the scores (minus infinity forbids a token),
    the latter only to the first token's. `temperature` 0 is greedy; above it, noise depends on
    (`seed`, position) alone, so a sample is the same in any batch. `watch` keeps the attention that
    word times are read from, for families that have it.
    """

    prompt: Sequence[int]
    longest: int
    stop: frozenset[int]
    bias: Tensor | None = None
    first_bias: Tensor | None = None
    temperature: float = 0.0
    seed: int = 0
    watch: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Score:
    """The log-likelihood of each of `continuations` behind `prompt`, which is computed once."""

    prompt: Sequence[int]
    continuations: Sequence[Sequence[int]]


@dataclass(frozen=True, slots=True, eq=False)
class Classify:
    """The likeliest class at each of `rows`, positions in `prompt`: one at least.

    For networks whose head gives classes where others give the next token.
    """

    prompt: Sequence[int]
    rows: Sequence[int]


@dataclass(frozen=True, slots=True, eq=False)
class Spell:
    """What the clip says by the model's own spelling head, without the decoder.

    For a `Speller`, about a single clip. `tokens` are those whose probability is wanted of every
    row of audio; one may be there twice.
    """

    tokens: Sequence[int] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Consult:
    """Another dialogue, about the same clips, with the model of the engine's colleague.

    It is answered with that dialogue's result; what that one raises is raised here.
    """

    dialogue: Dialogue[object]


Request = Generate | Score | Classify | Spell | Consult


@dataclass(frozen=True, slots=True, eq=False)
class Generated:
    """Tokens (without the stop token) and their log-probabilities, the stop token's behind them."""

    tokens: list[int]
    logprobs: list[float]
    finish: FinishReason
    watched: object = None
    """With `watch`: the request's context (`Model.open`), with what the model kept in it."""

    @property
    def avg_logprob(self) -> float:
        """Mean log-probability of what was said, the stop token included (as openai/whisper)."""
        return sum(self.logprobs) / len(self.logprobs) if self.logprobs else 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """Per continuation the log-probability of each of its tokens."""

    logprobs: list[list[float]]


@dataclass(frozen=True, slots=True, eq=False)
class Classified:
    """The likeliest class of each row that was asked for, and its log-probability."""

    classes: list[int]
    logprobs: list[float]


@dataclass(frozen=True, slots=True, eq=False)
class Spelled:
    """What is heard in each row of a clip's audio, by CTC (Graves et al. 2006).

    `path` has the likeliest id of each row, None for the blank. `logprobs` [rows, tokens + 1], on
    the host in float32, are those of the tokens asked for, in order, and the blank's. `whole`
    [aspects, width], there in float32, is what the model says of the clip as a whole, if it does.
    """

    path: list[int | None]
    logprobs: Tensor
    whole: Tensor | None = None


Answer = Generated | Scored | Classified | Spelled | object
"""`object` is what a dialogue that was consulted results in."""

T_co = TypeVar("T_co", covariant=True)

Dialogue = Generator[Request, Answer, T_co]
"""One clip's questions to the model: yields requests, is sent their answers, returns its result.

A family writes its strategy (detect the language, answer, fall back to a higher temperature, …) as
plain code; the engine runs the dialogues of many clips in one batch. Requests of one dialogue whose
prompts begin alike share what was computed of that beginning.
"""


@dataclass(slots=True, eq=False)
class AudioInput:
    """One clip on its way through the encoder; several requests use the one result."""

    features: Tensor | None
    memory: object = field(default=None)


class Model(Protocol):
    """What the engine drives. One clip's results never depend on its neighbours in a batch."""

    vocabulary: int
    positions: int
    """The longest sequence of prompt and answer, in tokens."""
    frame_bytes: int
    """What `encode` gives of a mel frame (10 ms), in bytes."""
    capturable: bool
    """Whether `forward` of single rows is tensor work alone, so that a CUDA graph can hold it."""

    @property
    def cache(self) -> CacheShape:
        """What the decoder keeps of every position, and where."""

    def encode(self, features: Tensor, lengths: Sequence[int]) -> Sequence[object]:
        """What the decoder needs of each clip of [batch, mels, frames]; opaque to the engine.

        `lengths` are the clips' own frames; behind them are zeros, which must not matter.
        """

    def open(self, memories: Sequence[object], watch: bool) -> object:
        """What `forward` needs of one request beside its cache: its audio, in order."""

    def forward(self, tokens: Tensor, positions: Tensor, step: Step, rows: Tensor) -> Tensor:
        """Compute packed `tokens` [n] at `positions` [n]; float32 scores [len(rows), vocabulary].

        A prompt's audio is in its first rows, and these come in one piece. A step that failed may
        be computed again.
        """


@runtime_checkable
class Speller(Protocol):
    """A model that has a spelling head over what it encodes."""

    def spelled(self, memory: object, tokens: Sequence[int]) -> Spelled:
        """What `encode` heard in one clip, token by token."""
