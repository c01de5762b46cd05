"""Mini as a network: Whisper's encoder, a projector, SmolLM2 as the decoder, and a CTC head.

It is a Qwen-Audio (arXiv 2311.07919) in small: what its audio tower, decoder and prompts have in
common with the original is the original's code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear

from ..engine.request import Spelled
from ..errors import ConfigError
from .checkpoint import Checkpoint, blank_embedding
from .mini_config import MiniCheckpoint, MiniConfig
from .packed import projection
from .qwen_decoder import QwenConfig, QwenDecoder
from .qwen_model import AudioTower, QwenAudioModel, audio_rows, pooled
from .spelling import SYMBOLS

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
    """Which symbol each row of audio says, or none: CTC (Graves et al. 2006).

    It hears the encoder alone, so that it is a second opinion on what the decoder writes.
    """

    def __init__(self, states: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(states)
        self.near = nn.Conv1d(states, hidden, kernel_size=3, padding=1)
        self.far = nn.Conv1d(hidden, hidden, kernel_size=3, padding=1)
        self.out = nn.Linear(hidden, SYMBOLS + 1)

    def forward(self, encoded: Tensor) -> Tensor:
        """Log-probabilities [rows, SYMBOLS + 1] of a clip [rows, states], the blank last."""
        x = self.norm(encoded).T[None]
        x = gelu(self.far(gelu(self.near(x))))[0].T
        scores: Tensor = self.out(x)
        return scores.float().log_softmax(-1)


class Heard(NamedTuple):
    """A clip: its `rows` [rows + 2, width] for the decoder, and what the CTC head says of them.

    `spelled` [rows, SYMBOLS + 1] are log-probabilities.
    """

    rows: Tensor
    spelled: Tensor


class MiniModel(QwenAudioModel):
    """All of mini; what `encode` gives of a clip is a `Heard`."""

    audio: MiniTower
    decoder: TaggedDecoder

    def __init__(self, config: MiniConfig, audio_tokens: tuple[int, int, int]) -> None:
        decoder = TaggedDecoder(config.decoder, config.tags)
        super().__init__(MiniTower(config), decoder, audio_tokens)
        self.ctc = CtcHead(len(config.layers) * config.encoder.width, config.spelling)
        self.frame_bytes += SYMBOLS + 1  # a row of 4 frames, in float32

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

    def encode(self, features: Tensor, lengths: Sequence[int]) -> list[Heard]:
        """What is heard in each clip of [batch, mels, frames]."""
        tower = self.audio
        encoded = tower.encoded(features.to(tower.positional_embedding), lengths)
        counts = [audio_rows(length) for length in lengths]
        return [
            Heard(tower.framed(rows[:count]), self.ctc(states[:count]))
            for rows, states, count in zip(
                tower.projected(encoded, counts), encoded, counts, strict=True
            )
        ]

    def open(self, memories: Sequence[object], watch: bool) -> Tensor:
        """The rows of the prompt's clips, in order. There is nothing to `watch`."""
        return super().open([heard.rows for heard in cast("list[Heard]", memories)], watch)

    def spelled(self, memory: object, tokens: Sequence[int]) -> Spelled:
        """What the CTC head hears in a clip, in symbols.

        Row n of the result is about 40 ms from n * 0.04 s on.
        """
        said = cast(Heard, memory).spelled.cpu()
        path = [best if best < SYMBOLS else None for best in said.argmax(-1).tolist()]
        return Spelled(path, said[:, [*tokens, SYMBOLS]])
