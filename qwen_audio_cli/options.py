"""What a user can ask of a run, whatever the way: command line or Python."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from .errors import UsageError
from .languages import resolve
from .readback import Exchange
from .records import options_hash
from .tags import TagSequence, neutralise, text_language
from .tasks import Task, find

_SCORED = ("labels", "top_k", "threshold")
_WRITTEN = ("temperature", "seed", "max_tokens")

LEAST_TEMPERATURE = 0.01
MOST_TEMPERATURE = 10.0


def skips_silence(task: Task) -> bool:
    """Whether a task hears only what is spoken, where the user does not want otherwise."""
    return task.speech and not task.whole


def takes_context(task: Task) -> bool:
    """Whether a task writes down what is said, so that it helps to know what may be said."""
    return task.tag in ("transcribe", "translate") and not (task.scored or task.aligns)


def _is_text(text: str) -> bool:
    """Whether UTF-8 can hold it; bytes of the command line that are no text cannot be."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options of one run; those that its task does not have are refused, not ignored.

    `language` is what is spoken (None: detected), `to` what is written. `style` is the output
    instruction of the tags. `labels` replaces the task's own set; with `free` the model writes
    instead of scoring labels. `tags` is a whole tag sequence to use instead of the task's.
    `max_tokens` bounds the answer about a clip; `vad` False hears the silence too. `context` names
    what may be spoken. `text` is what is spoken, in the one source or by the sources' names: it is
    aligned. `together` is one conversation about all sources, `history` what was said in it before.
    """

    task: str | None = None
    language: str | None = None
    to: str | None = None
    timestamps: bool = False
    style: str | None = None
    question: str | None = None
    labels: tuple[str, ...] = ()
    free: bool = False
    tags: str | None = None
    temperature: float = 0.0
    seed: int = 0
    max_tokens: int | None = None
    vad: bool = True
    top_k: int | None = None
    threshold: float = 0.0
    context: str = ""
    text: str | Mapping[str, str] | None = None
    together: bool = False
    history: tuple[Exchange, ...] = ()

    def __post_init__(self) -> None:
        if self.temperature and not LEAST_TEMPERATURE <= self.temperature <= MOST_TEMPERATURE:
            raise UsageError(
                f"the temperature is 0, or from {LEAST_TEMPERATURE} to {MOST_TEMPERATURE}"
            )
        for name in ("question", "tags", "context", "text"):
            value = getattr(self, name)
            if isinstance(value, str) and not _is_text(value):
                raise UsageError(f"the {name}: not text in any encoding")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise UsageError("max-tokens must be at least 1")
        if self.top_k is not None and self.top_k < 1:
            raise UsageError("top-k must be at least 1")
        if not 0 <= self.threshold <= 1:
            raise UsageError("the threshold lies between 0 and 1")

    def find_task(self, command: str) -> Task:
        """The task of a subcommand that is named, or that an option is for, or its default.

        Raises UsageError for one it does not have, and for an option that is for another one.
        """
        meant: dict[str, str] = {}
        if self.text is not None:
            meant["text"] = "alignment"
        if self.together or self.history:
            meant["together" if self.together else "history"] = "conversation"
        for option, name in meant.items():
            task = find(command, self.task or name)
            if task.name != name:
                raise UsageError(f"'{task.name}' takes no --{option}: that is for '{name}'")
        return find(command, self.task or next(iter(meant.values()), None))

    def source_language(self) -> str | None:
        """The code of the language that is spoken, None to detect it."""
        return None if self.language in (None, "auto") else resolve(self.language or "")

    def target_language(self) -> str | None:
        """The code of the language that is written, None for the task's own."""
        return None if self.to is None else text_language(self.to)

    def tag_sequence(self, command: str) -> TagSequence:
        """The tags of a run, or the user's own. Raises UsageError for what does not go together."""
        task = self.find_task(command)
        self._verify(task)
        if self.tags is None:
            return task.tags(
                language=self.source_language(),
                target=self.target_language(),
                timestamps=self.timestamps or None,
                instruction=self.style,
                question=self.question,
            )
        self._refuse("tags are the whole sequence", "language", "to", "timestamps", "style")
        sequence = TagSequence.parse(self.tags)
        if sequence.task != task.tag:
            raise UsageError(
                f"tags: '{task.name}' is a task of <|{task.tag}|>, not of <|{sequence.task}|>"
            )
        if sequence.timestamps not in task.timestamps:
            needs = "has no" if sequence.timestamps else "needs"
            raise UsageError(f"tags: '{task.name}' {needs} timestamps")
        if self.question is not None and sequence.question != neutralise(self.question):
            raise UsageError("tags: they ask another question")
        return sequence

    def chosen_labels(self, task: Task) -> tuple[str, ...]:
        """The labels to score, none for an answer in free text."""
        if not task.scored:
            self._refuse(f"'{task.name}' scores no labels", *_SCORED, "free")
            return ()
        if self.free:
            self._refuse("with free text no labels are scored", *_SCORED)
            return ()
        self._refuse("labels are scored, nothing is written", *_WRITTEN)
        labels = self.labels or task.labels
        if task.name == "language":
            labels = tuple(map(resolve, labels))
        if not labels:
            raise UsageError(f"'{task.name}' needs labels (--labels)")
        return tuple(dict.fromkeys(labels))

    def _verify(self, task: Task) -> None:
        """Raise UsageError for what is wanted of a task that does not have it, or needs it."""
        if not (self.vad or skips_silence(task)):
            raise UsageError(f"'{task.name}' hears all there is anyway: it takes no --no-vad")
        if not takes_context(task):
            self._refuse(f"'{task.name}' does not write down what is said", "context")
        if task.aligns:
            self._refuse(f"'{task.name}' writes nothing", *_WRITTEN)
            if self.text is None:
                raise UsageError(f"'{task.name}' needs the text that is spoken (--text)")

    def _refuse(self, reason: str, *names: str) -> None:
        """Raise UsageError for those of these options that are not at their defaults."""
        defaults = {field.name: field.default for field in fields(self)}
        for name in names:
            if getattr(self, name) != defaults[name]:
                raise UsageError(f"{reason}: it takes no --{name.replace('_', '-')}")

    def hash(self, command: str, *, full_window: bool, vad: bool) -> str:
        """What stands in records for the options that shape an answer.

        `vad` is whether speech is looked for: the tasks of one run share what they hear.
        """
        task = self.find_task(command)
        turns = [(turn.question, turn.answer, len(turn.files)) for turn in self.history]
        given = {"context": self.context, "history": turns}
        return options_hash(
            {
                "tags": str(self.tag_sequence(command)),
                "labels": self.chosen_labels(task),
                "temperature": self.temperature,
                "seed": self.seed,
                "max_tokens": self.max_tokens,
                "vad": vad,
                "top_k": self.top_k,
                "threshold": self.threshold,
                "full_window": full_window,
                **{name: value for name, value in given.items() if value},
            }
        )
