"""How the audio encoders of transformers' Qwen models are run, each clip as if it were alone.

A clip's features are computed by themselves and its encoder rows never see another clip, so that a
batch gives what the library gives of a single clip. Where the library computes silence up to a
fixed length, only the frames that reach a clip's rows are computed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import avg_pool1d, gelu, pad

from ..audio.features import HOP, N_FFT, log_mel

SHORTEST = 1_600
"""Samples that shorter clips are zero-padded to (0.1 s): below, some encoders give no row."""

SHORTEST_ASR = 8_000
"""The same for Qwen3-ASR, as its feature extractor does (0.5 s)."""

EDGE = -(-(N_FFT // 2) // HOP)
"""Frames behind a clip's last that its last samples still reach, so that they may be loudest."""


class AudioAdapter(Protocol):
    """How one architecture hears: a clip's features, its encoder, and the rows that come of it."""

    def frames(self, samples: int) -> int:
        """How many frames the features of a clip of so many samples have."""

    def features(self, samples: NDArray[np.float32]) -> Tensor:
        """What `encode` takes of a clip: [mels, frames]. Thread-safe."""

    def rows(self, frames: int) -> int:
        """How many rows, and so audio tokens of a prompt, a clip of so many frames becomes."""

    def encode(self, features: Tensor, lengths: Sequence[int]) -> list[Tensor]:
        """Per clip of [batch, mels, frames], of which `lengths` are its own, its [rows, width]."""


class Qwen2AudioAdapter:
    """Qwen2-Audio: Whisper's encoder, 25 rows a second of at most 30.

    The library computes 3000 frames and hides those behind the clip from attention. A clip of c
    positions of 20 ms sees 2c + 1 mel frames through the convolutions, so these are its features.
    """

    def __init__(self, network: Any) -> None:
        self._tower = network.audio_tower
        self._projector = network.multi_modal_projector
        self._mels: int = self._tower.config.num_mel_bins
        self._window: int = 2 * self._tower.config.max_source_positions

    def frames(self, samples: int) -> int:
        """Two for each position that the clip reaches, and one that its last position sees."""
        return min(2 * _halved(self._own(samples)) + 1, self._window)

    def features(self, samples: NDArray[np.float32]) -> Tensor:
        """Of the first 30 s; the frames behind the clip are those of silence, not zeros."""
        length = min(self._own(len(samples)) + EDGE, self._window)
        heard = log_mel(samples, self._mels, length * HOP)
        return heard[:, : self.frames(len(samples))]

    def _own(self, samples: int) -> int:
        return min(-(-max(samples, SHORTEST) // HOP), self._window)

    def rows(self, frames: int) -> int:
        """Pairs of positions, of which `frames` are two each and perhaps one more."""
        return frames // 4

    def encode(self, features: Tensor, lengths: Sequence[int]) -> list[Tensor]:
        """Pairs of positions are averaged, an odd last one is dropped."""
        tower = self._tower
        positions = max(lengths) // 2
        x = gelu(tower.conv1(features.to(tower.conv1.weight)))
        x = gelu(tower.conv2(x)).transpose(1, 2)[:, :positions]
        x = x + tower.embed_positions.weight[:positions].to(x)
        seen = None
        if min(lengths) < max(lengths):
            ends = torch.tensor(lengths, device=x.device)[:, None] // 2
            seen = (torch.arange(positions, device=x.device) < ends)[:, None, None]
        for layer in tower.layers:
            x = layer(x, seen)
        x = tower.layer_norm(avg_pool1d(x.transpose(1, 2), 2).transpose(1, 2))
        heard: Tensor = self._projector(x)
        return [clip[: self.rows(length)] for clip, length in zip(heard, lengths, strict=True)]


class Qwen25OmniAdapter:
    """Qwen2.5-Omni: windows of 2 s that do not see each other, 25 rows a second."""

    def __init__(self, network: Any) -> None:
        self._tower = network.audio_tower
        self._mels: int = self._tower.config.num_mel_bins
        self._chunk: int = 2 * self._tower.config.n_window

    def frames(self, samples: int) -> int:
        """The whole ones, and one that is not."""
        return -(-max(samples, SHORTEST) // HOP)

    def features(self, samples: NDArray[np.float32]) -> Tensor:
        """As of a clip with silence behind it: its last frames see no mirrored samples."""
        own = self.frames(len(samples))
        return log_mel(samples, self._mels, (own + EDGE) * HOP)[:, :own]

    def rows(self, frames: int) -> int:
        """Pairs of positions of 20 ms."""
        return _halved(frames) // 2

    def encode(self, features: Tensor, lengths: Sequence[int]) -> list[Tensor]:
        """Packed: attention keeps to windows, and the convolutions to a window's own frames."""
        tower = self._tower
        packed = torch.cat([clip[:, :n] for clip, n in zip(features, lengths, strict=True)], dim=1)
        heard: Tensor = tower(
            packed.to(tower.conv1.weight),
            feature_lens=torch.tensor(lengths, device=tower.conv1.weight.device),
            cu_seqlens=_bounds(
                _halved(width) for length in lengths for width in _parts(length, self._chunk)
            ),
        ).last_hidden_state
        return _split(heard, map(self.rows, lengths))


class Qwen3OmniAdapter:
    """Qwen3-Omni: convolutions over 1 s, attention over windows of 8 s, 13 rows a second."""

    shortest = SHORTEST

    def __init__(self, network: Any) -> None:
        self._tower = network.audio_tower
        self._mels: int = self._tower.config.num_mel_bins
        self._chunk: int = 2 * self._tower.config.n_window
        self._window = self.rows(self._chunk) * (self._tower.config.n_window_infer // self._chunk)

    def frames(self, samples: int) -> int:
        """The whole ones."""
        return max(samples, self.shortest) // HOP

    def features(self, samples: NDArray[np.float32]) -> Tensor:
        """As of a clip that nothing follows: its whole frames, the last of mirrored samples."""
        return log_mel(samples, self._mels, max(len(samples), self.shortest))

    def rows(self, frames: int) -> int:
        """Each chunk is halved three times."""
        return sum(_halved(_halved(_halved(width))) for width in _parts(frames, self._chunk))

    def encode(self, features: Tensor, lengths: Sequence[int]) -> list[Tensor]:
        """Packed, but clips below 1 s only with others of their length.

        The library pads chunks to the longest in the call, and what is behind a chunk's end
        changes its rows: a clip below 1 s must not be padded to another's chunk.
        """
        groups: dict[int, list[int]] = {}
        for index, length in enumerate(lengths):
            groups.setdefault(min(length, self._chunk), []).append(index)
        rows: dict[int, Tensor] = {}
        for members in groups.values():
            clips = [features[index, :, : lengths[index]] for index in members]
            rows.update(zip(members, self._encode(clips), strict=True))
        return [rows[index] for index in range(len(lengths))]

    def _encode(self, clips: list[Tensor]) -> list[Tensor]:
        tower = self._tower
        lengths = [clip.shape[1] for clip in clips]
        heard: Tensor = tower(
            torch.cat(clips, dim=1).to(tower.conv2d1.weight),
            feature_lens=torch.tensor(lengths, device=tower.conv2d1.weight.device),
            cu_seqlens=self._windows(lengths),
        ).last_hidden_state
        return _split(heard, map(self.rows, lengths))

    def _windows(self, lengths: Sequence[int]) -> Tensor:
        """The bounds of the attention's windows over the packed rows of these clips."""
        return _bounds(
            width for length in lengths for width in _parts(self.rows(length), self._window)
        )


class Qwen3AsrAdapter(Qwen3OmniAdapter):
    """Qwen3-ASR: Qwen3-Omni's encoder on whole chunks, with a projector of its own."""

    shortest = SHORTEST_ASR

    def __init__(self, network: Any) -> None:
        super().__init__(network)
        self._projector = network.multi_modal_projector

    def encode(self, features: Tensor, lengths: Sequence[int]) -> list[Tensor]:
        """Every chunk is padded with zeros to its full width, even where a clip is a single one."""
        tower = self._tower
        features = features[..., : max(lengths)].to(tower.conv2d1.weight)
        features = pad(features, (0, -features.shape[2] % self._chunk))
        ends = torch.tensor(lengths, device=features.device)[:, None]
        heard = tower(
            features,
            input_features_mask=(torch.arange(features.shape[2], device=ends.device) < ends).long(),
            cu_seqlens=self._windows(lengths),
        ).last_hidden_state
        projected: Tensor = self._projector(heard)
        return _split(projected, map(self.rows, lengths))


def _halved(frames: int) -> int:
    """What a convolution of stride 2 (width 3, one frame padded on both sides) makes of them."""
    return (frames + 1) // 2


def _parts(total: int, width: int) -> list[int]:
    """The widths of the parts that `total` is cut into: all `width`, but the last."""
    return [min(width, total - start) for start in range(0, total, width)]


def _bounds(widths: Iterable[int]) -> Tensor:
    """Where packed stretches begin and end. On the host: every layer reads it there."""
    return torch.tensor([*accumulate(widths, initial=0)], dtype=torch.int32)


def _split(packed: Tensor, rows: Iterable[int]) -> list[Tensor]:
    """Each clip's rows of those of all."""
    return list(torch.split(packed, list(rows)))
