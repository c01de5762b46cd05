"""What the projector learns first: that a row is near the piece of text that is said in it.

This head is for training alone. Its scores are cosines with the decoder's own embeddings, so that
rows become what the decoder can read before it has learned anything about audio.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, normalize

from ...families.mini_tokenizer import MiniTokenizer

_SCALE = 20.0
_RIVALS = 3000
"""Pieces drawn for each batch that its transcripts are told apart from, beside their own: all
33,000 would take ten times as long."""

# Letters, an apostrophe before them, or the bytes of a letter that has no piece of its own.
_SPELLING = re.compile(r" ?'?[^\W\d_]+| ?'| ?\ufffd+")


class PieceHead(nn.Module):
    """Which piece of text each row says, or none, by CTC (Graves et al. 2006)."""

    def __init__(self, tokenizer: MiniTokenizer, embedding: Tensor) -> None:
        """`embedding` [pieces, width] is the decoder's, frozen."""
        super().__init__()
        width = embedding.shape[1]
        self.proj = nn.Linear(width, width)
        self.blank = nn.Parameter(embedding.float().mean(0))
        self.scale = nn.Parameter(torch.tensor(_SCALE))
        nn.init.eye_(self.proj.weight)
        nn.init.zeros_(self.proj.bias)
        self._embedding = embedding.detach()  # no parameter of this module
        self._pieces = torch.tensor(spelling_pieces(tokenizer))
        self.to(embedding.device)

    def forward(self, rows: Tensor, pieces: Tensor) -> Tensor:
        """Log-probabilities [rows, pieces + 1] of rows [rows, width] in float32, the blank last."""
        tokens = torch.cat([self._embedding[pieces].float(), self.blank[None]])
        cosines = linear(normalize(self.proj(rows), dim=-1), normalize(tokens, dim=-1))
        return (self.scale * cosines).log_softmax(-1)

    def among(self, targets: Sequence[Sequence[int]]) -> Tensor:
        """The pieces of some transcripts and their rivals, which depend on these alone."""
        own = {piece for target in targets for piece in target}
        generator = torch.Generator().manual_seed(sum(own))
        drawn = self._pieces[torch.randint(len(self._pieces), (_RIVALS,), generator=generator)]
        pieces = torch.cat([drawn, torch.tensor(sorted(own), dtype=torch.long)])
        return torch.unique(pieces)  # type: ignore[no-any-return]


def spelling_pieces(tokenizer: MiniTokenizer) -> list[int]:
    """The pieces that a spelling is made of: in lower case, without figures and signs."""
    pieces = enumerate(tokenizer.decode([id]) for id in range(min(tokenizer.tags.values())))
    return [
        id
        for id, piece in pieces
        if _SPELLING.fullmatch(piece) and (piece.islower() or not piece.strip().isalpha())
    ]
