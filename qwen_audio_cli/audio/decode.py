"""From a source to samples: blocks of mono float32 at 16 kHz, or the reason why there are none.

A recording that breaks off or is damaged is refused and not cut short: an answer to half a file
looks like an answer to the whole.
"""

from __future__ import annotations

import os
import re
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from io import FileIO

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from ..errors import InputError
from . import SAMPLE_RATE
from .ffmpeg import read_with_ffmpeg
from .sources import Source, open_source

Samples = NDArray[np.float32]

BLOCK_VALUES = 1 << 18
"""Values decoded at a time: 16 s of mono at 16 kHz, 3 s of stereo at 44.1 kHz."""

RATES = range(1_000, 1_000_001)
"""Sampling rates (Hz) that are believed."""

MOST_CHANNELS = 64
FULL_SCALE = 1 - 2**-15
"""The largest 16-bit sample: at or above it a sample counts as clipped."""

LOUDEST = 16.0
"""Beyond this, 24 dB above full scale, floating-point samples are not in [-1, 1] at all."""

SLACK_SECONDS = 0.1
"""A recording may fall short of its header by this much: encoders round."""


@dataclass(slots=True, eq=False)
class Audio:
    """The samples of one source. Iterate to get blocks [n] of mono float32 in [-1, 1] at 16 kHz.

    Channels are averaged. Memory does not grow with the source. `stall_seconds` is how long an
    external decoder may give nothing. Raises `InputError` when iterated: all that `open_source`
    raises, and unsupported, decode, samples, empty, timeout.
    """

    source: Source
    stall_seconds: float = 60.0
    samples: int = field(default=0, init=False)
    """Samples given so far; after the last block, the length of the source at 16 kHz."""
    _values: int = field(default=0, init=False)
    _clipped: int = field(default=0, init=False)

    @property
    def clipping(self) -> float:
        """The share of the values read so far that are at full scale, in [0, 1]."""
        return self._clipped / self._values if self._values else 0.0

    def __iter__(self) -> Iterator[Samples]:
        """Decode from the beginning. Closing the iterator ends an external decoder."""
        self.samples = self._values = self._clipped = 0
        with open_source(self.source) as file, closing(self._read(file)) as blocks:
            for block in _resample(self._mix(blocks)):
                if len(block):
                    self.samples += len(block)
                    yield np.clip(block, -1, 1)
        if not self.samples:
            raise InputError("empty", self.source.name, "holds no samples")

    def _read(self, file: FileIO) -> Generator[tuple[int, Samples], None, None]:
        """The rate in Hz and blocks [frames, channels] as they are stored."""
        sound = _open_sound(file)
        if sound is None:
            file.seek(0)
            yield from read_with_ffmpeg(
                file, self.source.name, values=BLOCK_VALUES, stall_seconds=self.stall_seconds
            )
        else:
            with sound:
                yield from _read_sound(sound, file, self.source.name)

    def _mix(self, blocks: Iterator[tuple[int, Samples]]) -> Iterator[tuple[int, Samples]]:
        """Verify the blocks, count what is clipped and average the channels: [frames]."""
        name = self.source.name
        frames = 0
        for rate, block in blocks:
            channels = block.shape[1]
            if rate not in RATES or channels > MOST_CHANNELS:
                reason = f"has a header that cannot be true: {rate} Hz, {channels} channels"
                raise InputError("unsupported", name, reason)
            magnitude = np.abs(block)
            sane = magnitude <= LOUDEST  # false for NaN as well
            if not sane.all():
                row, channel = np.argwhere(~sane)[0]
                reason = f"has a sample of {block[row, channel]:g} at {(frames + row) / rate:.1f} s"
                raise InputError("samples", name, reason)
            self._clipped += int(np.count_nonzero(magnitude >= FULL_SCALE))
            self._values += block.size
            frames += len(block)
            yield rate, block.mean(axis=1) if channels > 1 else block[:, 0]


def _resample(blocks: Iterator[tuple[int, Samples]]) -> Iterator[Samples]:
    """Bring blocks to 16 kHz; their total length is the exact one, rounded."""
    stream = None
    for rate, block in blocks:
        if rate == SAMPLE_RATE:
            yield block
            continue
        if stream is None:
            stream = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")
        yield stream.resample_chunk(block)
    if stream is not None:
        yield stream.resample_chunk(np.empty(0, np.float32), last=True)


class _ForwardSound(soundfile.SoundFile):  # type: ignore[misc]  # soundfile is untyped
    """A sound file that is read once, from its beginning to its end.

    soundfile seeks after every read of a file that can seek. The decoders of MP3 and Opus do not
    come back to the same state, so that blocks would differ from the file read as a whole, and FLAC
    of unknown length cannot seek at all.
    """

    def seekable(self) -> bool:
        return False


def _open_sound(file: FileIO) -> _ForwardSound | None:
    """None for what libsndfile does not read.

    Its reason is not asked for: libsndfile keeps it in a variable that all threads share.
    """
    try:
        return _ForwardSound(file.fileno(), closefd=False)
    except soundfile.SoundFileError:
        return None


def _read_sound(sound: _ForwardSound, file: FileIO, name: str) -> Iterator[tuple[int, Samples]]:
    rate = sound.samplerate
    _refuse_cut(sound, file, name)
    frames = 0
    try:
        while len(block := _read_block(sound)):
            frames += len(block)
            yield rate, block
    except soundfile.SoundFileError as error:
        reason = f"is damaged after {sound.tell() / rate:.1f} s"
        raise InputError("decode", name, reason) from error
    claimed = _claimed_frames(sound)
    if frames and claimed - frames > SLACK_SECONDS * rate:
        raise InputError("decode", name, _breaks_off(frames / rate, claimed / rate))


def _read_block(sound: _ForwardSound) -> Samples:
    block: Samples = sound.read(BLOCK_VALUES // sound.channels, dtype="float32", always_2d=True)
    return block


def _claimed_frames(sound: _ForwardSound) -> int:
    """The length in the header, 0 where it is unknown (libsndfile gives the largest integer)."""
    frames: int = sound.frames
    return 0 if frames == 2**63 - 1 else frames


def _breaks_off(seconds: float, claimed_seconds: float) -> str:
    return f"breaks off after {seconds:.1f} s of {claimed_seconds:.1f} s"


_CLAIM = re.compile(r"^ *(?:data|riff|SSND|Data Size) *: (\d+) \(should be (\d+)\)$", re.MULTILINE)
"""In libsndfile's log: the bytes a chunk claims and those that are there (WAV, W64, AIFF, AU)."""


def _refuse_cut(sound: _ForwardSound, file: FileIO, name: str) -> None:
    """Raise `InputError` if the file ends before what its header or its last page promises.

    libsndfile itself would shorten such a file without a word.
    """
    seconds = sound.frames / sound.samplerate
    claim = _CLAIM.search(sound.extra_info)
    if claim and seconds:
        claimed, present = map(int, claim.groups())
        claimed_seconds = seconds * claimed / present
        if not _is_placeholder(claimed) and claimed_seconds - seconds > SLACK_SECONDS:
            raise InputError("decode", name, _breaks_off(seconds, claimed_seconds))
    if sound.format == "OGG" and _ends_within_page(file):
        raise InputError("decode", name, f"breaks off after {seconds:.1f} s")


def _is_placeholder(size: int) -> bool:
    """Whether a program that could not know the size of its output has put this in its place."""
    return 0x7F00_0000 <= size <= 0x8000_0000 or size >= 0xFFFF_0000


def _ends_within_page(file: FileIO) -> bool:
    """Whether the last Ogg page is incomplete (RFC 3533: 27 bytes, a table of sizes, the data)."""
    largest_page = 27 + 255 + 255 * 255
    size = os.fstat(file.fileno()).st_size
    tail = os.pread(file.fileno(), largest_page, max(0, size - largest_page))
    page = tail[max(tail.rfind(b"OggS\0"), 0) :]
    if len(page) < 27:
        return True
    sizes = page[27 : 27 + page[26]]
    return len(sizes) < page[26] or len(page) < 27 + len(sizes) + sum(sizes)
