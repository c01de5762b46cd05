"""The subcommands that answer for audio: what each of them lets a user choose."""

from __future__ import annotations

from typing import Annotated

from typer import Argument, Option

from ..errors import UsageError
from .options import AnswerOptions, RunOptions, Sources, expand
from .run import RUN, execute
from .task_options import Questions, ScoreOptions, Style, Tasks, Timestamps, To, task_option


@expand
def transcribe(
    *,
    sources: Sources = None,
    task: Annotated[str | None, task_option("transcribe")] = None,
    timestamps: Timestamps = False,
    answer: AnswerOptions,
    how: RunOptions,
) -> None:
    """Write down what is said."""
    execute("transcribe", sources, answer, how, task=task, timestamps=timestamps)


@expand
def translate(
    *,
    sources: Sources = None,
    to: To = None,
    task: Annotated[str | None, task_option("translate")] = None,
    answer: AnswerOptions,
    how: RunOptions,
) -> None:
    """Write down in one language what is said in another."""
    execute("translate", sources, answer, how, task=task, to=to)


@expand
def caption(
    *,
    sources: Sources = None,
    task: Annotated[str | None, task_option("caption")] = None,
    style: Style = None,
    answer: AnswerOptions,
    how: RunOptions,
) -> None:
    """Describe in a sentence what is heard."""
    execute("caption", sources, answer, how, task=task, style=style)


@expand
def classify(
    *,
    sources: Sources = None,
    task: Annotated[str | None, task_option("classify")] = None,
    scores: ScoreOptions,
    answer: AnswerOptions,
    how: RunOptions,
) -> None:
    """Give each label of a set its probability."""
    execute("classify", sources, answer, how, task=task, **scores.values())


@expand
def timestamp(
    *,
    sources: Sources = None,
    words: Annotated[
        bool, Option("--words", help="When each word is spoken: --task word-times, the default.")
    ] = False,
    events: Annotated[
        bool, Option("--events", help="When which sounds are heard: --task sound-event-times.")
    ] = False,
    task: Annotated[str | None, task_option("timestamp")] = None,
    answer: AnswerOptions,
    how: RunOptions,
) -> None:
    """Say when words are spoken or sounds are heard."""
    named = {"word-times": words, "sound-event-times": events}
    chosen = [*(name for name, is_chosen in named.items() if is_chosen), *([task] if task else [])]
    if len(chosen) > 1:
        raise UsageError("--words, --events and --task exclude each other")
    execute("timestamp", sources, answer, how, task=chosen[0] if chosen else None)


@expand
def ask(
    *,
    question: Annotated[str, Argument(metavar="QUESTION", hidden=True)],
    sources: Sources = None,
    task: Annotated[str | None, task_option("ask")] = None,
    answer: AnswerOptions,
    how: RunOptions,
) -> None:
    """Answer QUESTION about each SOURCE."""
    execute("ask", sources, answer, how, task=task, question=question)


@expand
def run(
    *,
    sources: Sources = None,
    tasks: Tasks = None,
    questions: Questions = None,
    to: To = None,
    timestamps: Timestamps = False,
    style: Style = None,
    scores: ScoreOptions,
    answer: AnswerOptions,
    how: RunOptions,
) -> None:
    """Do several tasks about each SOURCE, hearing it once.

    Each option is for those of the tasks that have it.
    """
    execute(
        RUN,
        sources,
        answer,
        how,
        tasks=tasks or [],
        questions=questions or [],
        to=to,
        timestamps=timestamps,
        style=style,
        **scores.values(),
    )


COMMANDS = (transcribe, translate, caption, classify, timestamp, ask, run)
