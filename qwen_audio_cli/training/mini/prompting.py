"""Mini asked in other ways than by hierarchical tags, to see what these are for.

Chu et al. 2023 (arXiv 2311.07919, section 3.2) give each label its place in a sequence of tags, so
that tasks share what they have in common. Here are the two ways beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from ...families.base import Job, Subject
from ...families.mini import Mini
from ...families.qwen_audio import LANGUAGE_TASK
from ...tags import TagSequence
from ...tasks import TASKS

_FLAT = {task: f"<|{number / 25:.2f}|>" for number, task in enumerate(TASKS)}
"""A tag for each task: times, which no task of the comparison has in prompt or answer."""


class Flat(Mini):
    """Asked by one tag, the task's own, which has nothing in common with another task's."""

    def _prompt(self, job: Job, tags: TagSequence, subject: Subject) -> list[int]:
        return [*self._asked(job.task.name, subject), *self._question(tags)]

    def _opening(self, subject: Subject) -> list[int]:
        return self._asked(LANGUAGE_TASK, subject)

    def _asked(self, task: str, subject: Subject) -> list[int]:
        return [*self._audio(subject), self.tokenizer.special[_FLAT[task]]]

    def _question(self, tags: TagSequence) -> list[int]:
        return self.tokenizer.encode(tags.question) if tags.question else []


class Untagged(Flat):
    """Asked by nothing but the audio and, where there is one, the question."""

    def _asked(self, task: str, subject: Subject) -> list[int]:
        return self._audio(subject)


PROMPTINGS: Mapping[str, type[Mini]] = MappingProxyType(
    {"tags": Mini, "flat": Flat, "none": Untagged}
)
"""The paper's way, one tag a task, and none."""
