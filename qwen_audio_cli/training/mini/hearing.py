"""How mini learns to spell what is said, before its decoder learns anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import ctc_loss
from torch.nn.utils.rnn import pad_sequence

from ...families.mini import Mini
from ...families.qwen_audio import SILENCE
from ...families.spelling import SYMBOLS, spelling, symbols
from ..manifest import Item
from .pieces import PieceHead


class Hearing(nn.Module):
    """The loss of the CTC head, and that of a head for pieces, which is left behind."""

    def __init__(self, family: Mini) -> None:
        super().__init__()
        self.pieces = PieceHead(family.tokenizer, family.model.decoder.wte.weight)
        self._family = family

    def forward(self, items: Sequence[Item], encoded: Sequence[Tensor]) -> Tensor:
        """The loss of each clip, by what the encoder makes of it, [rows, layers * width]."""
        model = self._family.model
        said = {n: text for n, item in enumerate(items) if (text := said_in(item)) is not None}
        states = {n: model.audio.norm(encoded[n]) for n in said}
        rows = {n: model.audio.proj(own[None])[0].float() for n, own in states.items()}
        letters = spelled(said, {n: model.ctc(own) for n, own in states.items()}, len(items))
        with torch.autocast(encoded[0].device.type, enabled=False):
            return letters + self._pieced(said, rows, len(items))

    def _pieced(self, said: Mapping[int, str], rows: Mapping[int, Tensor], count: int) -> Tensor:
        """The CTC loss of the decoder's pieces, by the rows that the decoder reads."""
        targets = {place: self._family.tokenizer.encode(text) for place, text in said.items()}
        pieces = self.pieces.among([*targets.values()])
        column = {int(piece): place for place, piece in enumerate(pieces)}
        scores = {place: self.pieces(rows[place], pieces) for place in said}
        columns = {place: [column[piece] for piece in own] for place, own in targets.items()}
        return _ctc(scores, columns, len(pieces), count)


def spelled(said: Mapping[int, str], scores: Mapping[int, Tensor], count: int) -> Tensor:
    """The CTC loss of the letters of each clip, by its place of `count`; of others 0."""
    targets = {place: symbols(text) for place, text in said.items()}
    return _ctc(scores, targets, SYMBOLS, count)


def said_in(item: Item) -> str | None:
    """How what is said in an item's recording is spelled, where that is known; of silence ""."""
    if item.task == "asr" and item.target == SILENCE:
        return ""
    if item.words is None:
        return None
    return spelling(" ".join(word for word, _, _ in item.words))


def _ctc(
    scores: Mapping[int, Tensor], targets: Mapping[int, Sequence[int]], blank: int, count: int
) -> Tensor:
    """CTC losses by place, of `count` places: log-probabilities [rows, classes] and what is said.

    What is said faster than a class every row has no loss.
    """
    if not scores:
        return torch.zeros(count)
    lengths = [len(scores[place]) for place in scores]
    losses = ctc_loss(
        pad_sequence(list(scores.values())),
        torch.tensor([one for place in scores for one in targets[place]]),
        torch.tensor(lengths),
        torch.tensor([len(targets[place]) for place in scores]),
        blank=blank,
        reduction="none",
        zero_infinity=True,
    )
    places = torch.tensor([*scores], device=losses.device)
    return losses.new_zeros(count).index_copy(0, places, losses)
