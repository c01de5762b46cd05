"""The subcommands that answer for audio: what each of them lets a user choose."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from ..errors import UsageError
from .given import earlier_turns, spoken_text
from .options import AnswerOptions, RunOptions, Sources, expand
from .run import RUN, execute, refuse_output
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
    """Give each label of a set its probability.

    With --task speaker-verification, which compares two recordings, SOURCEs are taken in pairs, one
    record for each: a file counts as often as it is named.
    """
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
    text: Annotated[
        Path | None,
        Option(
            "--text",
            metavar="FILE",
            show_default=False,
            help="When each word of this text is spoken: --task alignment. FILE is the text of "
            "one SOURCE or, for several, records with file and text; - is standard input.",
        ),
    ] = None,
    task: Annotated[str | None, task_option("timestamp")] = None,
    answer: AnswerOptions,
    how: RunOptions,
) -> None:
    """Say when words are spoken or sounds are heard."""
    named = {"word-times": words, "sound-event-times": events}
    chosen = [*(name for name, is_chosen in named.items() if is_chosen), *([task] if task else [])]
    if len(chosen) > 1:
        raise UsageError("--words, --events and --task exclude each other")
    given = spoken_text(text, [*(sources or ()), *([how.files_from] if how.files_from else ())])
    refuse_output(text, how)
    execute("timestamp", sources, answer, how, task=chosen[0] if chosen else None, text=given)


@expand
def ask(
    *,
    question: Annotated[str, Argument(metavar="QUESTION", hidden=True)],
    sources: Sources = None,
    task: Annotated[str | None, task_option("ask")] = None,
    together: Annotated[
        bool,
        Option("--together", help="Ask once about all SOURCEs together: --task conversation."),
    ] = False,
    history: Annotated[
        Path | None,
        Option(
            "--history",
            metavar="FILE",
            show_default=False,
            help="The records of the questions before, as -o has written them: their clips are "
            "heard again, before any SOURCE. FILE may be that of -o.",
        ),
    ] = None,
    answer: AnswerOptions,
    how: RunOptions,
) -> None:
    """Answer QUESTION about each SOURCE, or about all of them together.

    Together they are one conversation, which goes on with --history: a file is heard as often as it
    is named, and in the order of the names.
    """
    turns = earlier_turns(history)
    together = together or turns is not None
    own = {"question": question, "together": together, "history": turns or ()}
    execute("ask", sources, answer, how, task=task, **own)


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
