"""A model's scores for whole prompts, computed in one packed step without the engine's loop."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qwen_audio_cli.engine.arena import Arena
from qwen_audio_cli.engine.attention import Span, Step, views
from qwen_audio_cli.engine.request import Model


@torch.inference_mode()
def prompt_scores(
    model: Model, prompts: Sequence[Sequence[int]], memories: Sequence[Sequence[object]]
) -> list[Tensor]:
    """Scores [tokens, vocabulary] of every position of each prompt over its own audio."""
    arena = Arena(model.cache, sum(map(len, prompts)))
    spans: list[Span] = []
    targets: list[int] = []
    for ids, memory in zip(prompts, memories, strict=True):
        extent = arena.open(len(ids))
        start = len(targets)
        spans.append(Span(start, start + len(ids), extent, ids, model.open(memory, False)))
        targets += range(extent.start, extent.start + len(ids))
    tokens = torch.tensor([token for ids in prompts for token in ids])
    positions = torch.tensor([place for ids in prompts for place in range(len(ids))])
    step = Step(arena, spans, torch.tensor(targets), views)
    scores = model.forward(tokens, positions, step, torch.arange(len(tokens)))
    return [scores[span.start : span.stop] for span in spans]
