"""Music by the `fluidsynth` program: notes as a MIDI file, played with a sound font."""

from __future__ import annotations

import itertools
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from ...audio import SAMPLE_RATE
from ...errors import ModelError
from .corpus import Samples

DRUMS = 9
"""The MIDI channel of drum kits."""
RENDER_RATE = 48_000
TICKS = 960
"""Ticks a second: a quarter note is half a second."""
_SOUND_OFF = 120  # the controller that silences a channel at once


@dataclass(frozen=True, slots=True)
class Note:
    """A key struck at `start` and let go at `end`, in seconds; a drum has the drums' channel."""

    program: int
    key: int
    velocity: int
    start: float
    end: float
    channel: int = 0


def render(pieces: Sequence[tuple[Sequence[Note], float]], font: Path) -> list[Samples]:
    """Play pieces, each its notes and its length in seconds, and return the samples of each.

    They are played one after the other in one run, as loading a sound font takes longest; what
    still sounds at a piece's end is cut. Raises ModelError where fluidsynth is missing or fails.
    """
    if shutil.which("fluidsynth") is None:
        raise ModelError("music needs the program fluidsynth")
    with tempfile.TemporaryDirectory() as name:
        score, played = Path(name) / "score.mid", Path(name) / "played.wav"
        score.write_bytes(_midi(pieces))
        _play(score, font, played)
        samples, rate = soundfile.read(played, dtype="float32", always_2d=True)
    mono = samples.mean(1)
    starts = np.cumsum([0.0, *(seconds for _, seconds in pieces)])
    bounds = [round(start * rate) for start in starts]
    mono = np.pad(mono, (0, max(0, bounds[-1] - len(mono))))
    return [_piece(mono[a:b]) for a, b in itertools.pairwise(bounds)]


def _piece(samples: Samples) -> Samples:
    return np.asarray(soxr.resample(samples, RENDER_RATE, SAMPLE_RATE), dtype=np.float32)


def _play(score: Path, font: Path, played: Path) -> None:
    # No reverb and no chorus: rooms are for whoever mixes. Float: no dither, the same each time.
    options = ["-ni", "-q", "-R", "0", "-C", "0", "-g", "0.8", "-r", str(RENDER_RATE)]
    command = [
        "fluidsynth",
        *options,
        "-O",
        "float",
        "-T",
        "wav",
        "-F",
        str(played),
        str(font),
        str(score),
    ]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode or not played.exists():
        raise ModelError(f"fluidsynth: {(run.stderr or run.stdout).strip() or 'wrote nothing'}")


def _midi(pieces: Iterable[tuple[Sequence[Note], float]]) -> bytes:
    """A standard MIDI file of one track; each piece starts where the one before it ends."""
    events: list[tuple[int, int, bytes]] = [(0, 0, b"\xff\x51\x03" + (500_000).to_bytes(3, "big"))]
    begin = 0.0
    for notes, seconds in pieces:
        for note in notes:
            on, off = begin + note.start, begin + min(note.end, seconds)
            channel = note.channel
            events += [
                (round(on * TICKS), 2, bytes([0xC0 | channel, note.program])),
                (round(on * TICKS), 3, bytes([0x90 | channel, note.key, note.velocity])),
                (round(off * TICKS), 1, bytes([0x80 | channel, note.key, 0])),
            ]
        begin += seconds
        for channel in sorted({note.channel for note in notes}):
            events.append((round(begin * TICKS), 0, bytes([0xB0 | channel, _SOUND_OFF, 0])))
    events.append((round(begin * TICKS), 4, b"\xff\x2f\x00"))
    return _file(sorted(events))


def _file(events: Iterable[tuple[int, int, bytes]]) -> bytes:
    track = bytearray()
    now = 0
    for tick, _, message in events:
        track += _variable(tick - now) + message
        now = tick
    head = b"MThd" + struct.pack(">IHHH", 6, 0, 1, TICKS // 2)
    return head + b"MTrk" + struct.pack(">I", len(track)) + bytes(track)


def _variable(value: int) -> bytes:
    """A number as MIDI writes lengths: seven bits a byte, all but the last marked."""
    groups = [value & 0x7F]
    while value := value >> 7:
        groups.append(value & 0x7F | 0x80)
    return bytes(reversed(groups))
