"""Mini as a network: Whisper's encoder, a projector, SmolLM2 as the decoder, and a CTC head.

It is a Qwen-Audio (arXiv 2311.07919) in small: what its audio tower, decoder and prompts have in
common with the original is the original's code.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear, normalize

from ..engine.request import Spelled
from ..engine.transfer import to_device
from ..errors import ConfigError
from .checkpoint import Checkpoint, blank_embedding
from .mini_config import MiniCheckpoint, MiniConfig
from .packed import projection
from .qwen_decoder import QwenConfig, QwenDecoder
from .qwen_model import AudioTower, QwenAudioModel, audio_rows, pooled

TRAINED = ("audio.norms.", "audio.proj.", "audio.audio_bos_eos_token.", "ctc.", "decoder.wte.tags.")
"""How the names of weights begin, in the network, that are mini's own; all others are frozen."""


class Projector(nn.Module):
    """From encoder states to embeddings: a convolution over three rows, GELU, a linear map."""

    def __init__(self, states: int, hidden: int, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(states, hidden, kernel_size=3, padding=1)
        self.out = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, rows, states] to [batch, rows, width]; rows of nobody must be zero."""
        hidden = gelu(self.conv(x.transpose(1, 2))).transpose(1, 2)
        projected: Tensor = self.out(hidden)
        return projected


class MiniTower(AudioTower):
    """The encoder, of which several layers are heard side by side, and the projector.

    The last layer has Whisper's own norm, every other one a norm of its own in `norms`.
    """

    proj: Projector

    def __init__(self, config: MiniConfig) -> None:
        super().__init__(config.encoder, config.decoder.width)
        width = config.encoder.width
        self.layers = config.layers
        self.norms = nn.ModuleDict({str(layer): nn.LayerNorm(width) for layer in self.layers[:-1]})
        self.proj = Projector(len(self.layers) * width, config.projector, config.decoder.width)

    def heard(self, mel: Tensor, lengths: Sequence[int]) -> Tensor:
        """[batch, mels, frames] to [batch, rows, width]; what is behind a clip's end is nobody's.

        Pairs of encoder frames are averaged; an odd last one is dropped.
        """
        return self.projected(self.encoded(mel, lengths), list(map(audio_rows, lengths)))

    def encoded(self, mel: Tensor, lengths: Sequence[int]) -> Tensor:
        """What the layers heard make of [batch, mels, frames]: [batch, rows, layers * width]."""
        kept = [
            pooled(state)
            for layer, state in enumerate(self.states(mel, lengths), 1)
            if layer in self.layers
        ]
        return torch.cat(kept, dim=-1)

    def projected(self, encoded: Tensor, rows: Sequence[int]) -> Tensor:
        """[batch, rows, layers * width] to [batch, rows, width]; `rows` are the clips' own."""
        norms = [*self.norms.values(), self.ln_post]
        parts = encoded.chunk(len(norms), dim=-1)
        x = torch.cat([norm(part) for norm, part in zip(norms, parts, strict=True)], dim=-1)
        if min(rows) < x.shape[1]:  # the convolution must not see a neighbour's rows
            ends = torch.tensor(rows, device=x.device)
            x = x * (torch.arange(x.shape[1], device=x.device) < ends[:, None])[..., None]
        projected: Tensor = self.proj(x)
        return projected


class TaggedEmbedding(nn.Module):
    """An embedding of `text`, frozen, and behind its ids that of the `tags`."""

    def __init__(self, text: int, tags: int, width: int) -> None:
        super().__init__()
        self.text = blank_embedding(text, width)
        self.tags = blank_embedding(tags, width)

    @property
    def weight(self) -> Tensor:
        """The embedding of the text, [text, width]."""
        return self.text.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """[rows] to [rows, width]."""
        first = self.text.num_embeddings
        text, tags = self.text(tokens.clamp(max=first - 1)), self.tags((tokens - first).clamp(0))
        return torch.where((tokens < first)[:, None], text, tags)


class TaggedDecoder(QwenDecoder):
    """The decoder over a `TaggedEmbedding`, which is its output projection too."""

    wte: TaggedEmbedding  # type: ignore[assignment]

    def __init__(self, config: QwenConfig, tags: int) -> None:
        super().__init__(config)
        self.wte = TaggedEmbedding(config.vocabulary - tags, tags, config.width)

    def tie(self) -> None:
        """Make the output projection, once all is loaded."""
        text = projection(self.wte.weight)
        self.lm_head = lambda x: torch.cat([text(x), linear(x, self.wte.tags.weight)], dim=-1)


class CtcHead(nn.Module):
    """Which token each row of audio says, or none: CTC (Graves et al. 2006) over the text's tokens.

    The score of a token is the cosine of the row, mapped by `proj`, and the token's embedding, so
    that what the projector learns is near what the decoder reads.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, width)
        self.blank = nn.Parameter(torch.empty(width))
        self.scale = nn.Parameter(torch.empty(()))

    def forward(self, rows: Tensor, embedding: Tensor) -> Tensor:
        """Log-probabilities [..., tokens + 1] of rows [..., width], in float32, the blank last.

        `embedding` [tokens, width] holds the tokens that may be said.
        """
        return self.compare(rows, normalize(embedding.float(), dim=-1))

    def compare(self, rows: Tensor, directions: Tensor) -> Tensor:
        """The same of embeddings [tokens, width] that are of length 1, in float32."""
        heard = normalize(self.proj(rows).float(), dim=-1)
        blank = normalize(self.blank.float(), dim=-1)
        cosines = torch.cat([linear(heard, directions), linear(heard, blank[None])], dim=-1)
        return (self.scale.float() * cosines).log_softmax(-1)


class MiniModel(QwenAudioModel):
    """All of mini; what `encode` gives of a clip is what `spelled` takes."""

    audio: MiniTower
    decoder: TaggedDecoder

    def __init__(self, config: MiniConfig, audio_tokens: tuple[int, int, int]) -> None:
        decoder = TaggedDecoder(config.decoder, config.tags)
        super().__init__(MiniTower(config), decoder, audio_tokens)
        self.ctc = CtcHead(config.decoder.width)
        self.spellable: Sequence[int] = range(config.decoder.vocabulary - config.tags)
        """The tokens of text that the CTC head tells apart; all, where it is not said which."""

    @classmethod
    def build(cls, checkpoint: Checkpoint, audio_tokens: tuple[int, int, int]) -> MiniModel:
        """The network that a checkpoint's configuration describes. Raises ConfigError."""
        if not isinstance(checkpoint, MiniCheckpoint):
            raise ConfigError(f"{checkpoint.directory}: not a checkpoint of mini")
        return cls(checkpoint.geometry(), audio_tokens)

    @staticmethod
    def parameter_name(name: str) -> str:
        """What a weight of a checkpoint is called here; names are in the 2023 layout."""
        ours = name.removeprefix("transformer.")
        return ours if ours.startswith("ctc.") else QwenAudioModel.parameter_name(name)

    def spelled(self, memory: object, tokens: Sequence[int]) -> Spelled:
        """What the CTC head hears in a clip, of the spellable tokens and those asked for.

        `memory` [rows + 2, width] is what `encode` gives, with begin and end; row n of the result
        is about 40 ms from n * 0.04 s on.
        """
        rows = cast(Tensor, memory)[1:-1]
        directions = self._spellable_directions
        known = frozenset(self.spellable)
        others = list(dict.fromkeys(token for token in tokens if token not in known))
        if others:
            directions = torch.cat([directions, self._directions(others)])
        heard = self.ctc.compare(rows, directions)
        ids = [*self.spellable, *others]
        columns = {id: column for column, id in enumerate(ids)}
        asked = to_device([*(columns[token] for token in tokens), len(ids)], rows.device)
        path = [ids[best] if best < len(ids) else None for best in heard.argmax(-1).tolist()]
        return Spelled(path, heard[:, asked].cpu())

    @cached_property
    def _spellable_directions(self) -> Tensor:
        """Kept, since to make them of the embedding takes as long as to spell a few seconds."""
        return self._directions(self.spellable)

    def _directions(self, tokens: Sequence[int]) -> Tensor:
        """The embeddings of tokens, of length 1: [tokens, width], in float32."""
        embedding = self.decoder.wte.weight
        chosen = embedding[to_device(list(tokens), embedding.device)]
        return normalize(chosen.float(), dim=-1)
