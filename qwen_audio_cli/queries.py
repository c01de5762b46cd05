"""What a run asks of every source: one task, or several that share its audio and its options."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace

from .errors import UsageError
from .options import Options, skips_silence, takes_context
from .tags import TagSequence
from .tasks import Task, find


@dataclass(frozen=True, slots=True)
class Query:
    """A subcommand and its options. The properties raise UsageError as those of `Options`."""

    command: str
    options: Options

    @property
    def task(self) -> Task:
        """The task that is chosen."""
        return self.options.find_task(self.command)

    @property
    def tags(self) -> TagSequence:
        """The tags to give the model."""
        return self.options.tag_sequence(self.command)

    @property
    def finds_speech(self) -> bool:
        """Whether only what is spoken is heard."""
        return skips_silence(self.task) and self.options.vad


def each_once(queries: Iterable[Query]) -> bool:
    """Whether a source that is named again is heard only once.

    Where clips are heard together, their places matter: each mention counts.
    """
    return all(query.task.clips == 1 for query in queries)


def share(tasks: Iterable[str], questions: Sequence[str], shared: Options) -> tuple[Query, ...]:
    """The queries of a run of several tasks, in the order of `tasks`.

    An item of `tasks` is `COMMAND[:TASK]`, or several of them parted by commas. Each `ask` among
    them asks all `questions`; where there is none, they are asked last. An option of `shared` is
    for the tasks that have it; labels are for those that need some, or else for all that score.

    Raises UsageError for no or unknown tasks, for what is asked twice, for tasks that differ in how
    many clips they take, and for an option that no task has.
    """
    queries = list(_named(tasks, questions))
    if not queries:
        raise UsageError("name tasks (--tasks) or ask questions (--question)")
    defaults = {field.name: field.default for field in fields(shared)}
    for option, default in defaults.items():
        if (value := getattr(shared, option)) == default:
            continue
        takers = _takers(option, queries, shared)
        if not takers:
            spelling = "no-vad" if option == "vad" else option.replace("_", "-")
            raise UsageError(f"no task of this run takes --{spelling}")
        for place in takers:
            query = queries[place]
            queries[place] = replace(query, options=replace(query.options, **{option: value}))
    _refuse_repeated(queries)
    _refuse_mixed(queries)
    return tuple(queries)


def _named(tasks: Iterable[str], questions: Sequence[str]) -> Iterator[Query]:
    """The queries by name alone, without the options that they share."""
    words = [word.strip() for item in tasks for word in item.split(",")]
    if questions and not any(word.partition(":")[0] == "ask" for word in words):
        words.append("ask")
    for word in words:
        command, colon, name = word.partition(":")
        task = find(command, name if colon else None).name
        if command == "ask" and questions:
            for question in questions:
                yield Query(command, Options(task=task, question=question))
        else:
            yield Query(command, Options(task=task))


def _takers(option: str, queries: Sequence[Query], shared: Options) -> list[int]:
    """The places of the queries that a shared option is for."""
    able = [place for place, query in enumerate(queries) if _has(query, option, shared)]
    needy = [place for place in able if not queries[place].task.labels]
    return needy if needy and option == "labels" else able


def _has(query: Query, option: str, shared: Options) -> bool:
    """Whether the task has an option, as its subcommand does."""
    task, command = query.task, query.command
    scores = task.scored and not shared.free
    match option:
        case "language":
            return task.name != "language"  # which finds it out
        case "to":
            return command == "translate"
        case "timestamps":
            return command == "transcribe" and True in task.timestamps
        case "style":
            return command == "caption" and shared.style in task.instructions
        case "free":
            return task.scored
        case "labels" | "top_k" | "threshold":
            return scores
        case "temperature" | "seed" | "max_tokens":
            return not scores
        case "vad":
            return skips_silence(task)
        case "context":
            return takes_context(task)
        case _:  # such as a question, which is not shared
            return False


def _refuse_repeated(queries: Iterable[Query]) -> None:
    known: set[tuple[str, str]] = set()
    for query in queries:
        key = query.task.name, str(query.tags)
        if key in known:
            question = query.options.question
            same = "" if question is None else f" with the question '{question}'"
            raise UsageError(f"'{query.task.name}'{same} is in this run twice")
        known.add(key)


def _refuse_mixed(queries: Sequence[Query]) -> None:
    """Refuse tasks of which one hears a source alone and another in a pair or with all others."""
    first, *others = queries
    for query in others:
        if query.task.clips != first.task.clips:
            counts = " and ".join(
                f"'{task.name}' takes {task.clips or 'all'} at once"
                for task in (first.task, query.task)
            )
            raise UsageError(f"tasks of one run hear the same clips: {counts}")
