"""Mini as a network: Whisper's encoder, a summary, a projector, a CTC head, and SmolLM2.

It is a Qwen-Audio (arXiv 2311.07919) in small: what its audio tower, decoder and prompts have in
common with the original is the original's code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear, normalize

from ..engine.request import Spelled
from ..errors import ConfigError
from .checkpoint import Checkpoint, blank_embedding
from .mini_config import MiniCheckpoint, MiniConfig
from .packed import projection
from .qwen_decoder import QwenConfig, QwenDecoder
from .qwen_model import FramedEncoder, QwenAudioModel, audio_rows, pooled
from .spelling import SYMBOLS

ANSWERING = ("audio.proj.", "audio.audio_bos_eos_token.", "decoder.wte.tags.")
"""How the names of weights begin, in the network, that learn from answers."""

TRAINED = (*ANSWERING, "audio.norm.", "audio.summary.", "ctc.")
"""Those that are mini's own; all others are frozen."""

ASPECTS = ("language", "gender", "instrument", "pitch", "velocity", "sound-event")
"""The tasks whose answer the rows of a clip's summary come near, one each."""


def read_rows(heard: int) -> int:
    """Rows that the decoder reads of a clip of so many rows of 40 ms, its summary among them."""
    return len(ASPECTS) + (heard + 1) // 2


class ActNorm(nn.Module):
    """A scale and a shift for each channel, set by the data (Kingma, Dhariwal 2018).

    Whisper's states have channels hundreds of times as large as others. They learn no further.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels))
        self.shift = nn.Parameter(torch.zeros(channels))

    def reset_parameters(self) -> None:
        """Change nothing, until `begin`."""
        nn.init.ones_(self.scale)
        nn.init.zeros_(self.shift)

    def forward(self, x: Tensor) -> Tensor:
        """[..., channels] to the same shape."""
        return x * self.scale + self.shift

    @torch.no_grad()
    def begin(self, rows: Tensor) -> None:
        """Make the mean of each channel of `rows` [rows, channels] 0 and its deviation 1."""
        std, mean = torch.std_mean(rows.to(self.scale), 0, correction=0)
        self.scale.copy_(1 / std.clamp(min=1e-3))
        self.shift.copy_(-mean * self.scale)


class Projector(nn.Module):
    """From states to embeddings, two rows to one: a convolution, GELU, a linear map."""

    def __init__(self, states: int, hidden: int, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(states, hidden, kernel_size=3, stride=2, padding=1)
        self.out = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, rows, states] to [batch, ceil(rows / 2), width]; nobody's rows must be zero."""
        hidden = gelu(self.conv(x.transpose(1, 2))).transpose(1, 2)
        projected: Tensor = self.out(hidden)
        return projected


class Summary(nn.Module):
    """What a clip is as a whole: from mean and deviation of its rows (Snyder et al. 2018).

    A row of a convolution hears 0.1 s; who speaks, and in which language, is heard in all of them.
    """

    def __init__(self, states: int, hidden: int, width: int) -> None:
        super().__init__()
        self.scales = nn.Parameter(torch.ones(len(ASPECTS)))
        self.norm = ActNorm(2 * states)
        self.hidden = nn.Linear(2 * states, hidden)
        self.out = nn.Linear(hidden, len(ASPECTS) * width)

    def forward(self, states: Tensor) -> Tensor:
        """Of a clip's states [rows, states] a row for each of `ASPECTS`: [aspects, width]."""
        return self.rows(self.norm(statistics(states)).to(states))

    def rows(self, normed: Tensor) -> Tensor:
        """The same of normed statistics [..., 2 * states]: [..., aspects, width]."""
        out: Tensor = self.out(gelu(self.hidden(normed)))
        return out.view(*normed.shape[:-1], len(ASPECTS), -1)


def likenesses(row: Tensor, labels: Tensor) -> Tensor:
    """Cosines [..., labels] of a summary's row [..., width] with embeddings [labels, width].

    What all labels have in common is left out of these. Times the aspect's scale they are logits.
    """
    return linear(normalize(row, dim=-1), normalize(labels - labels.mean(0), dim=-1))


def statistics(states: Tensor) -> Tensor:
    """Mean and deviation of a clip's rows [rows, states], in float32: [2 * states]."""
    std, mean = torch.std_mean(states.float(), 0, correction=0)
    return torch.cat([mean, std])


class MiniTower(FramedEncoder):
    """The encoder, of which several layers are heard side by side, a summary and a projector."""

    def __init__(self, config: MiniConfig) -> None:
        super().__init__(config.encoder, config.decoder.width)
        self.layers, width = config.layers, config.decoder.width
        states = len(self.layers) * config.encoder.width
        self.norm = ActNorm(states)
        self.proj = Projector(states, config.projector, width)
        self.summary = Summary(states, config.summary, width)

    def encoded(self, mel: Tensor, lengths: Sequence[int]) -> Tensor:
        """What the layers heard make of [batch, mels, frames]: [batch, rows, layers * width].

        Pairs of encoder frames are averaged, to 25 rows a second; an odd last one is dropped. What
        is behind a clip's end is nobody's.
        """
        kept = [
            pooled(state)
            for layer, state in enumerate(self.states(mel, lengths), 1)
            if layer in self.layers
        ]
        return torch.cat(kept, dim=-1)

    def read(self, states: Tensor) -> Tensor:
        """What the decoder reads of a clip's normed states [rows, layers * width].

        Its summary and a row each 80 ms, between the begin and the end vector:
        [read_rows(rows) + 2, width].
        """
        return self.framed(torch.cat([self.summary(states), self.proj(states[None])[0]]))


_SPREADS = (1, 2, 4)
"""How many rows lie between those that a residual convolution of the CTC head hears together."""


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

    It hears the encoder alone, so that it is a second opinion on what the decoder writes. Behind a
    convolution come residual ones, each with rows further apart.
    """

    def __init__(self, states: int, hidden: int) -> None:
        super().__init__()
        self.near = nn.Conv1d(states, hidden, kernel_size=3, padding=1)
        self.norms = nn.ModuleList(nn.LayerNorm(hidden) for _ in _SPREADS)
        self.far = nn.ModuleList(
            nn.Conv1d(hidden, hidden, kernel_size=5, padding=2 * spread, dilation=spread)
            for spread in _SPREADS
        )
        self.out = nn.Linear(hidden, SYMBOLS + 1)

    def forward(self, states: Tensor) -> Tensor:
        """Log-probabilities [rows, SYMBOLS + 1] of normed states [rows, states], the blank last."""
        x = gelu(self.near(states.T[None])[0].T)
        for norm, far in zip(self.norms, self.far, strict=True):
            x = x + gelu(far(norm(x).T[None])[0].T)
        scores: Tensor = self.out(x)
        return scores.float().log_softmax(-1)


class Heard(NamedTuple):
    """A clip: its `rows` [read_rows + 2, width] for the decoder, and what the CTC head says.

    `spelled` [rows of 40 ms, SYMBOLS + 1] are log-probabilities.
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
        # A row of two, and what is spelled of each: in float32, of 8 frames.
        self.frame_bytes = (config.decoder.width + 2 * (SYMBOLS + 1)) // 2

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
        encoded = self.audio.encoded(features.to(self.audio.positional_embedding), lengths)
        return [
            self.heard(clip[: audio_rows(length)])
            for clip, length in zip(encoded, lengths, strict=True)
        ]

    def heard(self, encoded: Tensor) -> Heard:
        """The same of a clip whose encoder states [rows, layers * width] are known."""
        states = self.audio.norm(encoded)
        return Heard(self.audio.read(states), self.ctc(states))

    def open(self, memories: Sequence[object], watch: bool) -> Tensor:
        """The rows of the prompt's clips, in order. There is nothing to `watch`."""
        return super().open([heard.rows for heard in cast("list[Heard]", memories)], watch)

    def spelled(self, memory: object, tokens: Sequence[int]) -> Spelled:
        """What the CTC head hears in a clip, in symbols, and the clip's summary.

        Row n of the result is about 40 ms from n * 0.04 s on.
        """
        said = cast(Heard, memory).spelled.cpu()
        path = [best if best < SYMBOLS else None for best in said.argmax(-1).tolist()]
        summary = cast(Heard, memory).rows[1 : 1 + len(ASPECTS)]
        return Spelled(path, said[:, [*tokens, SYMBOLS]], summary.float().cpu())
