"""Voice activity detection: how probably each 32 ms frame of a stream holds speech."""

from __future__ import annotations

import logging
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

FRAME = 512
"""Samples in a frame: 32 ms at 16 kHz."""

Samples = NDArray[np.float32]


class VadStream(Protocol):
    """The detector's state within one source. The size of the blocks does not change the answer."""

    def feed(self, samples: Samples) -> Samples:
        """Take a block [n] and return the probabilities [frames] of the frames it completes."""

    def flush(self) -> Samples:
        """End the source: the probability [0 or 1] of its last, incomplete frame."""


class Vad(Protocol):
    """A detector of speech; threads may share it."""

    def stream(self) -> VadStream:
        """Begin a source."""


def load_vad() -> Vad:
    """The Silero network where its wheel is installed, else, with a warning, energy alone."""
    try:
        return SileroVad()
    except PackageNotFoundError:
        logging.getLogger(__name__).warning("silero-vad is not installed: finding speech by energy")
        return EnergyVad()


class _Frames:
    """Cuts blocks of any size into whole frames."""

    def __init__(self) -> None:
        self._rest: Samples = np.empty(0, np.float32)

    def feed(self, samples: Samples) -> Samples:
        """The frames [frames, FRAME] that `samples` completes."""
        samples = np.concatenate([self._rest, samples])
        whole = len(samples) - len(samples) % FRAME
        self._rest = samples[whole:]
        return samples[:whole].reshape(-1, FRAME)

    def flush(self) -> Samples:
        """What is left, filled up with zeros: [0 or 1, FRAME]."""
        return self.feed(np.zeros(-len(self._rest) % FRAME, np.float32))


_CONTEXT = 64
"""Samples of the frame before that the network sees with each frame."""


class _SileroNetwork(nn.Module):
    """Silero VAD at 16 kHz (Silero Team, github.com/snakers4/silero-vad, MIT licence).

    A short-time Fourier transform written as a convolution, four convolutions that reduce a frame
    to one vector of 128, an LSTM over the frames, and a logistic output. The parameters have the
    names that the checkpoint gives them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stft_conv = nn.Conv1d(1, 258, 256, stride=128, bias=False)
        self.conv1 = nn.Conv1d(129, 128, 3, padding=1)
        self.conv2 = nn.Conv1d(128, 64, 3, stride=2, padding=1)
        self.conv3 = nn.Conv1d(64, 64, 3, stride=2, padding=1)
        self.conv4 = nn.Conv1d(64, 128, 3, padding=1)
        self.lstm_cell = nn.LSTM(128, 128)
        self.final_conv = nn.Conv1d(128, 1, 1)

    def forward(
        self, frames: Tensor, state: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Frames with their context [frames, _CONTEXT + FRAME] -> probabilities [frames], state."""
        padded = nn.functional.pad(frames[:, None], (0, _CONTEXT), mode="reflect")
        real, imaginary = self.stft_conv(padded).chunk(2, dim=1)
        hidden = torch.hypot(real, imaginary)
        for convolution in (self.conv1, self.conv2, self.conv3, self.conv4):
            hidden = convolution(hidden).relu()
        hidden, state = self.lstm_cell(hidden[:, :, 0], state)
        return self.final_conv(hidden.relu()[:, :, None]).sigmoid().flatten(), state


@cache
def _load_network() -> _SileroNetwork:
    # Importing silero_vad would set the number of torch's threads for the whole process to one.
    file = distribution("silero-vad").locate_file("silero_vad/data/silero_vad_16k.safetensors")
    weights = load_file(Path(str(file)))
    for name in [name for name in weights if name.startswith("lstm_cell.")]:
        weights[f"{name}_l0"] = weights.pop(name)
    network = _SileroNetwork()
    network.load_state_dict(weights)
    return network.eval().requires_grad_(False)


class SileroVad:
    """The Silero network with the safetensors weights of the installed `silero-vad` wheel.

    They are another training than the wheel's default, which is TorchScript (silero-vad#768).
    """

    def __init__(self) -> None:
        """Raises `importlib.metadata.PackageNotFoundError` where the wheel is not installed."""
        self._network = _load_network()

    def stream(self) -> VadStream:
        """Begin a source with a state of its own; the network is shared."""
        return _SileroStream(self._network)


class _SileroStream:
    def __init__(self, network: _SileroNetwork) -> None:
        self._network = network
        self._frames = _Frames()
        self._context: Samples = np.zeros(_CONTEXT, np.float32)
        self._state: tuple[Tensor, Tensor] | None = None

    def feed(self, samples: Samples) -> Samples:
        return self._probabilities(self._frames.feed(samples))

    def flush(self) -> Samples:
        return self._probabilities(self._frames.flush())

    def _probabilities(self, frames: Samples) -> Samples:
        if not len(frames):
            return np.empty(0, np.float32)
        stretch = np.concatenate([self._context, frames.reshape(-1)])
        self._context = stretch[-_CONTEXT:]
        with torch.inference_mode():
            overlapping = torch.from_numpy(stretch).unfold(0, _CONTEXT + FRAME, FRAME)
            probabilities, self._state = self._network(overlapping, self._state)
        result: Samples = probabilities.numpy()
        return result


_QUIETEST_DB = -60.0
"""Below this level (dB re full scale) there is no speech."""

_RISE_DB = 0.1
"""How fast the noise floor may rise, in dB a frame: 3 dB/s."""

_MARGIN_DB = 10.0
"""How far above the noise floor a frame is as likely speech as not."""

_SLOPE_DB = 3.0


class EnergyVad:
    """Speech by level alone: frames that stand out from an adaptive noise floor.

    The floor follows the quietest frames at once and rises slowly (after minimum statistics, Martin
    2001). It cannot tell speech from other loud sounds.
    """

    def stream(self) -> VadStream:
        """Begin a source."""
        return _EnergyStream()


class _EnergyStream:
    def __init__(self) -> None:
        self._frames = _Frames()
        self._floor = _QUIETEST_DB

    def feed(self, samples: Samples) -> Samples:
        return self._probabilities(self._frames.feed(samples))

    def flush(self) -> Samples:
        return self._probabilities(self._frames.flush())

    def _probabilities(self, frames: Samples) -> Samples:
        if not len(frames):
            return np.empty(0, np.float32)
        power = frames.var(axis=1, dtype=np.float64)
        level = 10 * np.log10(np.maximum(power, 10 ** (_QUIETEST_DB / 10)))
        # floor[t] = min(level[t], floor[t - 1] + rise), for all frames of the block at once
        rise = _RISE_DB * np.arange(1, len(frames) + 1)
        floor = np.minimum(np.minimum.accumulate(level - rise), self._floor) + rise
        self._floor = floor[-1]
        above = (level - floor - _MARGIN_DB) / _SLOPE_DB
        probabilities: Samples = (1 / (1 + np.exp(-above))).astype(np.float32)
        return probabilities
