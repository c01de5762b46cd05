"""What a task is: the row of the task table, and how its tags follow from a user's options."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Literal, get_args

from .errors import UsageError
from .tags import PHASE_OF, TRADITIONAL_CHINESE, TagSequence, TaskTag, neutralise

Command = Literal["transcribe", "translate", "caption", "classify", "timestamp", "ask"]
Family = Literal[
    "whisper",
    "mini",
    "qwen-audio",
    "qwen-audio-chat",
    "qwen2-audio",
    "qwen2-audio-instruct",
    "qwen-omni",
    "qwen3-omni-captioner",
    "qwen3-asr",
    "qwen3-forced-aligner",
]
Metric = Literal["wer", "bleu", "spider", "accuracy", "map", "eer", "f1", "aas", "event-f1", "der"]
COMMANDS: tuple[Command, ...] = get_args(Command)
FAMILIES: tuple[Family, ...] = get_args(Family)
TAKES_CONTEXT: frozenset[Family] = frozenset({"qwen3-asr"})
"""The families that can be told of names and terms that may be spoken."""
WRITES_ENGLISH: frozenset[Family] = frozenset({"whisper", "mini"})
"""The families that learned to write English alone, but for what is said in another language."""


class Parser(Enum):
    """How the answer of a task is read."""

    TEXT = "text"
    """Free text. A transcription with timestamps is read as WORDS."""
    LABEL = "label"
    """One label of a set, chosen by the likelihood of each."""
    KEYWORDS = "keywords"
    """Free labels, parted by ", "."""
    WORDS = "words"
    """Words, each between its start and end time."""
    SPANS = "spans"
    """Sounds or speakers, each with start and end time."""
    NOTE = "note"
    """Pitch, velocity, instrument and qualities of one note."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One row of the table.

    `instructions` and `timestamps` hold what a user may choose, the default first.
    `audio_language` is the tag where the user names none: None to detect it. `question` is the
    text where the user asks none. `labels` is the built-in set, empty where the user gives one.
    `clips` is how many clips one request takes, None for any number. `speech` is whether only
    speech is listened to, so that voice activity may cut the source. `aligns` is whether a text
    that the user gives is looked for in the audio. `inferred` marks a tag path read off the names
    of the original's tokens; the others stand in its scripts. `experimental` are the families that
    do the task, and not well enough to be chosen for it by anyone but the user.
    """

    name: str
    command: Command
    title: str
    tag: TaskTag
    parser: Parser
    metric: Metric
    families: frozenset[Family]
    instructions: tuple[str, ...] = ()
    timestamps: tuple[bool, ...] = (False,)
    audio_language: str | None = None
    question: str | None = None
    labels: tuple[str, ...] = ()
    clips: int | None = 1
    speech: bool = False
    aligns: bool = False
    inferred: bool = False
    experimental: frozenset[Family] = frozenset()

    @property
    def scored(self) -> bool:
        """Whether labels are scored; otherwise the model writes freely."""
        return self.parser is Parser.LABEL

    @property
    def whole(self) -> bool:
        """Whether a source is one clip: cut in pieces, it would not be what is asked about."""
        return self.clips != 1 or self.aligns

    def tags(
        self,
        *,
        language: str | None = None,
        target: str | None = None,
        timestamps: bool | None = None,
        instruction: str | None = None,
        question: str | None = None,
    ) -> TagSequence:
        """Return the tag sequence for these options, codes as `languages.resolve` gives them.

        Options left out take the task's defaults. A typed tag in the question becomes plain
        text. Raises UsageError for an option that the task does not have.
        """
        phase = PHASE_OF[self.tag]
        audio = language or self.audio_language
        timed = self._timed(timestamps)
        if self.tag == "question":
            self._refuse(target=target, instruction=instruction)
            text = self.question if question is None else question
            if text is None:
                raise UsageError(f"{self.name}: give a question")
            return TagSequence(phase, audio, self.tag, question=neutralise(text))
        self._refuse(question=question)
        output = self._text_language(audio, target)
        if timed and phase == "startoftranscript":
            self._refuse(instruction=instruction)
            return TagSequence(phase, audio, self.tag, output, timestamps=True)
        return TagSequence(phase, audio, self.tag, output, timed, self._instruction(instruction))

    def require(self, family: str, target: str | None = None) -> None:
        """Raise UsageError naming the families that can, where this one cannot do the task.

        `target` is the code of the language to write, if the user chose one.
        """
        if family not in self.families:
            raise UsageError(
                f"{family} cannot do {self.name} ({self.title}); families that can: "
                f"{', '.join(able_families([self]))}"
            )
        english_alone = self.tag != "transcribe" and family in WRITES_ENGLISH
        if english_alone and target not in (None, "en"):
            able = able_families([self], besides=WRITES_ENGLISH)
            does = "translates into" if self.tag == "translate" else "answers in"
            raise UsageError(
                f"{family} {does} English only; families that can write {target}: {', '.join(able)}"
            )

    def _timed(self, asked: bool | None) -> bool:
        if asked is None:
            return self.timestamps[0]
        if asked not in self.timestamps:
            raise UsageError(f"{self.name}: {'has no' if asked else 'needs'} timestamps")
        return asked

    def _instruction(self, asked: str | None) -> str:
        if asked is None:
            return self.instructions[0]
        if asked not in self.instructions:
            can = ", ".join(self.instructions)
            raise UsageError(f"{self.name}: unknown instruction '{asked}', expected one of {can}")
        return asked

    def _text_language(self, audio: str | None, target: str | None) -> str | None:
        if self.tag != "transcribe":
            return target or "en"
        if target in (None, audio):
            return audio
        if target == TRADITIONAL_CHINESE and audio in (None, "zh"):
            return target
        raise UsageError(
            f"{self.name}: speech is written in its own language; use 'qwa translate' for others"
        )

    def _refuse(self, **options: str | None) -> None:
        for option, value in options.items():
            if value is not None:
                raise UsageError(f"{self.name}: takes no {option}")


def able_families(tasks: Collection[Task], besides: frozenset[Family] = frozenset()) -> list[str]:
    """The families, but for `besides`, that can do all of `tasks`, experimental ones marked."""
    return [
        marked(family, family, tasks)
        for family in FAMILIES
        if family not in besides and all(family in task.families for task in tasks)
    ]


def marked(name: str, family: Family, tasks: Iterable[Task]) -> str:
    """The name of a family, or of a model of it, as one that does all of `tasks`."""
    experimental = any(family in task.experimental for task in tasks)
    return f"{name} (experimental)" if experimental else name
