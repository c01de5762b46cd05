"""What is heard of a source: its clips and their features, and how much was heard in the end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import Tensor

from .audio import SAMPLE_RATE
from .audio.decode import Audio
from .audio.segment import segment, uncut
from .audio.sources import Source
from .errors import InputError
from .plan import Plan


@dataclass(slots=True, eq=False)
class Reading:
    """One source on its way: its place in the run, and per task of the run the id of its record.

    `pending` are the places of the tasks that are not done yet. Who sets `given_up` wants no more
    clips of it.
    """

    number: int
    source: Source
    ids: tuple[str, ...]
    pending: tuple[int, ...]
    given_up: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Heard:
    """What one dialogue is about: clips of `seconds` each, and their `features` [mels, frames].

    `start` and `end` are seconds of the source; several clips are taken as one behind the other.
    """

    reading: Reading
    start: float
    end: float
    seconds: tuple[float, ...]
    features: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Ended:
    """The last event of every source: it is read, or failed, or there was nothing to do.

    `duration` is in seconds of sound, `clipping` the share that is clipped (of several clips that
    of the worst), `decode_seconds` of work.
    """

    reading: Reading
    error: InputError | None = None
    duration: float = 0.0
    clipping: float = 0.0
    decode_seconds: float = 0.0


@dataclass(slots=True, eq=False)
class Hearing:
    """One source being heard: iterate for what there is, cut or whole as the plan has it."""

    plan: Plan
    reading: Reading
    _audios: list[Audio] = field(default_factory=list, init=False)

    @property
    def name(self) -> str:
        """What is decoded now, or was last."""
        return self._audios[-1].source.name if self._audios else self.reading.source.name

    def __iter__(self) -> Iterator[Heard]:
        """Decode. Raises InputError naming the file that cannot be heard."""
        return self._together() if self.plan.whole else self._in_pieces()

    def ended(self, error: InputError | None, decode_seconds: float) -> Ended:
        """How it ended, with what was heard up to then."""
        samples = sum(audio.samples for audio in self._audios)
        clipping = max((audio.clipping for audio in self._audios), default=0.0)
        return Ended(self.reading, error, samples / SAMPLE_RATE, clipping, decode_seconds)

    def _in_pieces(self) -> Iterator[Heard]:
        family = self.plan.family
        audio = self._open(self.reading.source)
        for clip in segment(audio, self.plan.vad, family.window):
            if self.reading.given_up:
                return
            features = (family.features(clip.samples),)
            times = clip.start_seconds, clip.end_seconds
            yield Heard(self.reading, *times, (clip.duration,), features)

    def _together(self) -> Iterator[Heard]:
        family = self.plan.family
        seconds: list[float] = []
        features: list[Tensor] = []
        for member in self.reading.source.members:
            clip = uncut(self._open(member), family.window)
            seconds.append(clip.duration)
            features.append(family.features(clip.samples))
        yield Heard(self.reading, 0.0, sum(seconds), tuple(seconds), tuple(features))

    def _open(self, source: Source) -> Audio:
        self._audios.append(Audio(source))
        return self._audios[-1]
