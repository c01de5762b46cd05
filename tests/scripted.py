"""A scripted model: what is said is known, so that tests judge the engine's loop alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from conftest import CPU
from torch import Tensor

from qwen_audio_cli.engine.arena import CacheShape
from qwen_audio_cli.engine.attention import Span, Step
from qwen_audio_cli.engine.engine import Engine
from qwen_audio_cli.engine.request import AudioInput, Generate, Generated
from qwen_audio_cli.engine.work import Done, Work

END = 0
VOCABULARY = 32
Script = tuple[int, ...]


class ScriptedModel:
    """Says what a clip's features spell, then the end; notes how it was driven.

    The tokens fed are written to the arena as keys, and what is said next is worked out from what
    is read there: a wrong row, a wrong length or a foreign token changes the answer.
    """

    vocabulary = VOCABULARY
    positions = 100
    capturable = False
    frame_bytes = 1
    cache = CacheShape(1, 1, torch.float32, (CPU,))

    def __init__(self, disturb: Callable[[Script, int], None] | None = None) -> None:
        """`disturb` is called with each clip's script and the rows of the step before it runs."""
        self.disturb = disturb or (lambda script, rows: None)
        self.encoded = 0
        self.most_encoded = self.most_seats = self.most_prompts = self.fed = 0

    def encode(self, features: Tensor, lengths: Sequence[int]) -> Sequence[object]:
        scripts = [tuple(map(int, clip[0, :n])) for clip, n in zip(features, lengths, strict=True)]
        for script in scripts:
            self.disturb(script, len(scripts))
        self.encoded += len(scripts)
        self.most_encoded = max(self.most_encoded, features.shape[0] * features.shape[2])
        return scripts

    def open(self, memories: Sequence[object], watch: bool) -> object:
        return tuple(token for script in memories for token in script)  # type: ignore[attr-defined]

    def forward(self, tokens: Tensor, positions: Tensor, step: Step, rows: Tensor) -> Tensor:
        for span in step.spans:
            self.disturb(script_of(span), len(tokens))
        self.most_seats = max(self.most_seats, len(step.spans))
        prompts = [span.rows for span in step.spans if span.rows > 1]
        if len(prompts) > 1:
            self.most_prompts = max(self.most_prompts, sum(prompts))
        self.fed += sum(span.rows for span in step.spans)
        keys = tokens[:, None, None].float()
        step.attend(0, keys, keys, keys)
        scores = torch.full((len(tokens), VOCABULARY), -10.0)
        for span in step.spans:
            extent, script = span.extent, script_of(span)
            begin = extent.start
            held = step.arena.keys[0][begin : begin + extent.length + span.rows, 0, 0].tolist()
            past, ends = held[: extent.length], list(span.branches) or [span.rows]
            first = 0
            for length in ends:
                for row in range(length):
                    known = past + held[extent.length + first : extent.length + first + row + 1]
                    assert positions[span.start + first + row] == len(known) - 1
                    if 1.0 not in known:  # which ends a prompt
                        continue
                    said = known[known.index(1.0) + 1 :]
                    right = said == list(script[: len(said)])
                    more = right and len(said) < len(script)
                    token = script[len(said)] if more else END
                    scores[span.start + first + row, token] = 10.0
                first += length
        return scores[rows]


def script_of(span: Span) -> Script:
    assert isinstance(span.context, tuple)
    return span.context


def say(longest: int = 64, prompt: Sequence[int] = (1,)) -> Any:
    """A dialogue of one request; its result is the answer."""
    answer = yield Generate(prompt=prompt, longest=longest, stop=frozenset({END}))
    assert isinstance(answer, Generated)
    return answer


def run(
    engine: Engine[int, Any], scripts: Sequence[Sequence[float]], dialogue: Any = say
) -> dict[int, Done[int, Any]]:
    """Outcomes by the scripts' numbers; the arena must be one free run at the end."""
    for key, script in enumerate(scripts):
        engine.add(Work(key, (AudioInput(torch.tensor([list(script)])),), dialogue()))
    return finish(engine)


def finish(engine: Engine[int, Any]) -> dict[int, Done[int, Any]]:
    """Turn the engine until nothing is left."""
    found: dict[int, Done[int, Any]] = {}
    for _ in range(10_000):
        if engine.idle:
            assert engine.arena.holes == [(1, 1 + engine.arena.rows)]
            return found
        for done in engine.turn():
            assert done.key not in found
            found[done.key] = done
    raise AssertionError("the engine starved")
