"""The six subcommands that answer for audio: what each of them lets a user choose."""

from __future__ import annotations

from typing import Annotated

from typer import Argument, Option

from ..errors import UsageError
from .options import AnswerOptions, RunOptions, Sources, expand, parse_labels, task_option
from .run import execute


@expand
def transcribe(
    *,
    sources: Sources = None,
    task: Annotated[str | None, task_option("transcribe")] = None,
    timestamps: Annotated[
        bool, Option("--timestamps", help="Say when each word is spoken, too.")
    ] = False,
    answer: AnswerOptions,
    how: RunOptions,
) -> None:
    """Write down what is said."""
    execute("transcribe", sources, answer, how, task=task, timestamps=timestamps)


@expand
def translate(
    *,
    sources: Sources = None,
    to: Annotated[
        str | None,
        Option("--to", metavar="LANGUAGE", help="The language to write: English if not given."),
    ] = None,
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
    style: Annotated[
        str | None,
        Option("--style", metavar="STYLE", help="The output instruction, as caption_audiocaps."),
    ] = None,
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
    labels: Annotated[
        str | None,
        Option(
            "--labels",
            metavar="A,B,C|@FILE",
            help="Labels to choose from instead of the task's own; a file has one a line.",
        ),
    ] = None,
    top_k: Annotated[
        int | None,
        Option("--top-k", metavar="COUNT", min=1, help="Keep the likeliest labels only."),
    ] = None,
    threshold: Annotated[
        float,
        Option(
            "--threshold",
            metavar="PROBABILITY",
            help="Drop labels below it; a record without any is flagged 'abstained'.",
        ),
    ] = 0.0,
    free: Annotated[
        bool, Option("--free", help="Let the model write an answer instead of scoring labels.")
    ] = False,
    answer: AnswerOptions,
    how: RunOptions,
) -> None:
    """Give each label of a set its probability."""
    execute(
        "classify",
        sources,
        answer,
        how,
        task=task,
        labels=parse_labels(labels),
        top_k=top_k,
        threshold=threshold,
        free=free,
    )


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


COMMANDS = (transcribe, translate, caption, classify, timestamp, ask)
