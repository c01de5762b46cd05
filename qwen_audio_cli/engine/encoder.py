"""The encoder stage: which clips share a call, and where it runs beside the decoder."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import pad

from .memory import is_out_of_memory
from .request import AudioInput, Model
from .transfer import to_device

LOG = logging.getLogger(__name__)

CUDA_BUCKET = 256
"""Mel frames up to whose multiple clips are padded on a GPU, to share a call."""


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """A clip's number and what became of its audio; `error` where encoding failed."""

    number: int
    error: Exception | None = None


Member = tuple[int, AudioInput]


class EncoderStage:
    """Encodes the audio of clips, in groups of like length.

    On a CPU, clips of exactly one length share a call, so that none is padded and a clip's result
    is the same to the last bit in any company. On a GPU they are padded to a bucket, and the calls
    run on a stream of their own, beside the decoder's steps.
    """

    def __init__(
        self,
        model: Model,
        device: torch.device,
        shrink: Callable[[], None],
        *,
        exact: bool,
        keep: bool = False,
    ) -> None:
        """`shrink` is called where memory ran out; `exact` groups equal lengths only.

        With `keep` clips keep their features: another model will hear them too.
        """
        self._model = model
        self._device = device
        self._shrink = shrink
        self._keep = keep
        self.bucket = 1 if exact or device.type != "cuda" else CUDA_BUCKET
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._flying: list[tuple[list[Encoded], torch.cuda.Event | None]] = []

    def submit(self, clips: Sequence[tuple[int, Sequence[AudioInput]]], limit: int) -> None:
        """Encode all audio of these clips, at most `limit` frames in a call."""
        groups: dict[int, list[Member]] = {}
        failed: dict[int, Exception] = {}
        for number, audios in clips:
            for audio in audios:
                if audio.features is not None:
                    bucket = -(-audio.features.shape[-1] // self.bucket)
                    groups.setdefault(bucket, []).append((number, audio))
        event = None
        if self._stream is None:
            self._encode_groups(groups, limit, failed)
        else:
            # What this stream allocates may have been freed while a queued step still reads it.
            self._stream.wait_stream(torch.cuda.current_stream(self._device))
            with torch.cuda.stream(self._stream):
                self._encode_groups(groups, limit, failed)
                event = self._stream.record_event()
        self._flying.append(([Encoded(number, failed.get(number)) for number, _ in clips], event))

    def collect(self, *, wait: bool) -> list[Encoded]:
        """The clips whose audio is encoded; with `wait` at least one submission's."""
        done: list[Encoded] = []
        while self._flying:
            encoded, event = self._flying[0]
            if event is not None:
                if not (wait and not done) and not event.query():  # type: ignore[no-untyped-call]
                    break
                torch.cuda.current_stream(self._device).wait_event(event)
            done += encoded
            del self._flying[0]
        return done

    def _encode_groups(
        self, groups: dict[int, list[Member]], limit: int, failed: dict[int, Exception]
    ) -> None:
        for bucket, members in groups.items():
            size = max(1, limit // (bucket * self.bucket))
            for begin in range(0, len(members), size):
                self._encode(members[begin : begin + size], failed)

    def _encode(self, members: Sequence[Member], failed: dict[int, Exception]) -> None:
        """Encode a group in one call; where it fails, in two halves, down to the one at fault."""
        try:
            features = [audio.features for _, audio in members if audio.features is not None]
            lengths = [feature.shape[-1] for feature in features]
            batch = torch.stack([pad(f, (0, max(lengths) - f.shape[-1])) for f in features])
            memories = self._model.encode(to_device(batch, self._device, batch.dtype), lengths)
        except Exception as error:
            short = is_out_of_memory(error)
            failure = error.with_traceback(None)  # its frames hold the tensors that were too many
        else:
            for (_, audio), memory in zip(members, memories, strict=True):
                audio.memory = memory
                if not self._keep:
                    audio.features = None
            return
        if short:
            self._shrink()
        if len(members) == 1:
            failed[members[0][0]] = failure
            return
        half = len(members) // 2
        self._encode(members[:half], failed)
        self._encode(members[half:], failed)
