"""What the hierarchical tags are for: the same budget with them, with one tag a task, with none."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import orjson

from ..files import write_text
from ..loop import Tell, Training
from .learner import MiniLearner, States
from .prompting import PROMPTINGS
from .recipe import MiniRecipe
from .tag_plot import draw
from .tag_results import Result, table
from .train import load, prepare

RESULTS, TABLE, PLOT = "results.jsonl", "tags.md", "tags.svg"


def compare(
    base: Path,
    data: Sequence[Path],
    recipe: MiniRecipe,
    seeds: Iterable[int],
    output: Path,
    *,
    device: str,
    dtype: str,
    tell: Tell,
) -> list[Result]:
    """Train once for each way of prompting and each seed; the results go to `output`, too.

    A run that is done is not done again. Raises as `prepare` and `Training.run`.
    """
    results: list[Result] = []
    states: States = {}
    for seed in seeds:
        for name, family in PROMPTINGS.items():
            done = output / f"{name}-{seed}" / RESULTS
            if not done.exists():
                tell(f"{name}, seed {seed}")
                learner = load(
                    base,
                    replace(recipe, seed=seed),
                    device=device,
                    dtype=dtype,
                    family_type=family,
                    states=states,
                )
                training = prepare(learner, data, done.parent, workers=1, tell=tell)
                training.run(resume=False)
                lines = [orjson.dumps(asdict(one)).decode() for one in measured(training, name)]
                write_text("\n".join(lines), done)
            results += [Result(**orjson.loads(line)) for line in done.read_text().splitlines()]
    write_text(table(results), output / TABLE)
    write_text(draw(results), output / PLOT)
    return results


def measured(training: Training[MiniLearner], prompting: str) -> list[Result]:
    """The dev split by task, as it was heard last."""
    *_, last = (line for line in training.state.recorded if "dev" in line)
    return [
        Result(
            prompting=prompting,
            seed=training.recipe.seed,
            task=task,
            items=last["items"][task],
            loss=loss,
            sure=last["sure"][task],
        )
        for task, loss in last["dev"].items()
    ]
