"""What is done with every source of a run, and what its records say of it whatever the answer."""

from __future__ import annotations

from dataclasses import dataclass

from .answering import IsDone
from .audio.sources import Source
from .audio.vad import Vad
from .errors import InputError
from .families.base import Family, Job
from .groups import verify
from .merge import Choice
from .records import ErrorRecord, record_id


@dataclass(frozen=True, slots=True)
class TaskPlan:
    """What is asked of every clip for one task, and how its records come of the answers.

    `options` is the hash of all that shapes an answer.
    """

    job: Job
    options: str
    choice: Choice

    @property
    def question(self) -> str | None:
        """What is asked, where the task is to answer a question of the user's."""
        return self.job.tags.question if self.job.task.command == "ask" else None

    def identify(self, content: str, model: str) -> str:
        """The id of the record about a source; `content` is its fingerprint."""
        return record_id(content, self.job.task.name, model, self.options)

    def files(self, source: Source) -> tuple[str, ...] | None:
        """The names of the clips that are new in a request about several."""
        if self.job.task.clips == 1:
            return None
        return source.names[sum(turn.clips for turn in self.job.history) :]

    def give_up(self, model: str, content: str, source: Source, error: InputError) -> ErrorRecord:
        """What stands in place of the record about a source whose work was lost."""
        return self.error_record(self.identify(content, model), source, error)

    def error_record(self, identifier: str, source: Source, error: InputError) -> ErrorRecord:
        """What stands in place of a record that could not be."""
        return ErrorRecord(
            id=identifier,
            task=self.job.task.name,
            file=source.name,
            files=self.files(source),
            question=self.question,
            code=error.code,
            message=str(error),
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """What is done with every source: one record for each of `tasks`, which hear the same clips.

    `is_done` says whether a record is there already. `vad` finds speech; without it all
    of a source is heard. `readers` is how many threads decode. `in_order` keeps the records in the
    order of the sources.
    """

    family: Family
    tasks: tuple[TaskPlan, ...]
    vad: Vad | None
    is_done: IsDone
    readers: int
    in_order: bool

    @property
    def whole(self) -> bool:
        """Whether each file is one clip: all tasks of a run take their sources alike."""
        return self.tasks[0].job.task.whole

    def identify(self, content: str) -> tuple[str, ...]:
        """The ids of the records about a source; `content` is its fingerprint."""
        return tuple(task.identify(content, self.family.label) for task in self.tasks)

    def verify(self, source: Source) -> None:
        """Raise InputError for a source that is not all that a request is to be about."""
        verify(source, self.tasks[0].job.task)
