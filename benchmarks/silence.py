"""Nothing is written where nothing is said: 100 clips of 5 to 30 s without speech.

    python benchmarks/silence.py

Digital silence; white, pink and brown noise from faint to loud; mains hum; tones and sweeps;
clicks; music, by fluidsynth with the General MIDI sound font of Debian's fluid-soundfont-gm, every
fifth of its instruments (without them: chords of plain harmonics). All are made here, the same
each time. `qwa transcribe` hears them as a user runs it; any text is an error and is listed.
`--no-vad` gives the clips to the model without asking first whether somebody speaks. The last line
is JSON.
"""

from __future__ import annotations

import argparse
import json
import shutil
import struct
import subprocess
import tempfile
import wave
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import processes
from numpy.typing import NDArray

Samples = NDArray[np.float64]
SAMPLE_RATE = 16_000
BAR = 0.95
SECONDS = (5, 10, 15, 20, 30)
"""Lengths, in turn."""

LEVELS = (-60, -45, -35, -25, -15)
"""Root mean square of the noises, dB under full scale."""

SOUND_FONT = Path("/usr/share/sounds/sf2/FluidR3_GM.sf2")
PROGRAMS = range(0, 125, 5)
"""General MIDI instruments, from 0."""

BEAT_SECONDS = 0.5
SCALE = (0, 2, 4, 7, 9)
TICKS = 480
"""MIDI ticks in a beat."""


def at_level(samples: Samples, decibels: float) -> Samples:
    """Samples scaled to a root mean square in dB under full scale."""
    return samples * 10 ** (decibels / 20) / np.sqrt(np.mean(samples**2))


def noise(random: np.random.Generator, count: int, slope: float) -> Samples:
    """Noise whose amplitude falls as 1 / frequency ** slope: 0 white, 0.5 pink, 1 brown."""
    spectrum = np.fft.rfft(random.standard_normal(count))
    spectrum /= np.maximum(np.fft.rfftfreq(count, 1 / SAMPLE_RATE), 20.0) ** slope
    return np.fft.irfft(spectrum, count)


def clock(seconds: int) -> Samples:
    """The time of each sample in seconds."""
    return np.arange(seconds * SAMPLE_RATE) / SAMPLE_RATE


def silence_and_noise(random: np.random.Generator) -> Iterator[tuple[str, Samples]]:
    """Kind and samples of 5 clips of silence and 45 of noise."""
    for seconds in SECONDS:
        yield "silence", np.zeros(seconds * SAMPLE_RATE)
    for kind, slope in (("white noise", 0.0), ("pink noise", 0.5), ("brown noise", 1.0)):
        for level in LEVELS:
            for seconds in (5, 15, 30):
                yield kind, at_level(noise(random, seconds * SAMPLE_RATE, slope), level)


def machines(random: np.random.Generator) -> Iterator[tuple[str, Samples]]:
    """Kind and samples of 10 clips of hum, 10 of tones, 5 of clicks."""
    for seconds in SECONDS:
        t = clock(seconds)
        for mains, level in ((50, -40), (60, -20)):
            hum = sum(np.sin(2 * np.pi * mains * k * t) / k for k in range(1, 8))
            yield "hum", at_level(hum + 0.05 * random.standard_normal(len(t)), level)
    for seconds, hertz in zip(SECONDS, (220, 440, 1000, 2000, 4000), strict=True):
        t = clock(seconds)
        yield "tone", 0.3 * np.sin(2 * np.pi * hertz * t)
        # A sweep up to twice the frequency, beeping twice a second.
        sweep = np.sin(2 * np.pi * hertz * (t + t**2 / (2 * seconds)))
        yield "tone", 0.3 * sweep * (t % 0.5 < 0.2)
    for seconds in SECONDS:
        clicks = np.zeros(seconds * SAMPLE_RATE)
        clicks[random.integers(0, len(clicks), 4 * seconds)] = random.uniform(
            -0.9, 0.9, 4 * seconds
        )
        yield "clicks", clicks + 1e-4 * random.standard_normal(len(clicks))


Note = tuple[int, int, int]
"""Beat on which it begins, how many beats it lasts, MIDI key."""


def tune(random: np.random.Generator, beats: int) -> list[Note]:
    """A melody that wanders over a pentatonic scale, and a chord beneath each four beats."""
    notes: list[Note] = []
    step = 5
    for beat in range(beats):
        step = int(np.clip(step + random.integers(-2, 3), 0, 11))
        notes.append((beat, 1, 60 + 12 * (step // 5) + SCALE[step % 5]))
        if beat % 4 == 0:
            root = 48 + SCALE[random.integers(5)]
            notes.extend((beat, 4, root + third) for third in (0, 4, 7))
    return notes


def midi(notes: list[Note], program: int) -> bytes:
    """A standard MIDI file, format 0, at 120 beats a minute."""

    def variable(number: int) -> bytes:
        digits = [number & 0x7F]
        while number := number >> 7:
            digits.append(number & 0x7F | 0x80)
        return bytes(reversed(digits))

    events = [(TICKS * beat, 0x90, key) for beat, _, key in notes]
    events += [(TICKS * (beat + beats), 0x80, key) for beat, beats, key in notes]
    track = bytes([0, 0xC0, program])
    now = 0
    for tick, status, key in sorted(events):
        track += variable(tick - now) + bytes([status, key, 90])
        now = tick
    track += b"\x00\xff\x2f\x00"
    header = struct.pack(">4sIHHH", b"MThd", 6, 0, 1, TICKS)
    return header + struct.pack(">4sI", b"MTrk", len(track)) + track


def played(notes: list[Note], program: int, scratch: Path) -> Samples:
    """Notes as fluidsynth plays them with a General MIDI instrument."""
    score, sound = scratch / "score.mid", scratch / "score.wav"
    score.write_bytes(midi(notes, program))
    options = ["-n", "-i", "-q", "-r", str(SAMPLE_RATE), "-F", str(sound), "-T", "wav"]
    subprocess.run(
        ["fluidsynth", *options, str(SOUND_FONT), str(score)], check=True, capture_output=True
    )
    with wave.open(str(sound)) as file:
        frames = file.readframes(file.getnframes())
        return np.frombuffer(frames, "<i2").reshape(-1, file.getnchannels()).mean(axis=1) / 32768


def plucked(notes: list[Note]) -> Samples:
    """Notes as decaying harmonics, for where there is no fluidsynth."""
    total = np.zeros(round((max(beat for beat, *_ in notes) + 5) * BEAT_SECONDS * SAMPLE_RATE))
    for beat, beats, key in notes:
        hertz = 440 * 2 ** ((key - 69) / 12)
        t = np.arange(round(beats * BEAT_SECONDS * SAMPLE_RATE)) / SAMPLE_RATE
        start = round(beat * BEAT_SECONDS * SAMPLE_RATE)
        tone = sum(np.sin(2 * np.pi * hertz * k * t) / k**2 for k in range(1, 6))
        total[start : start + len(t)] += np.exp(-2 * t) * tone
    return total


def music(random: np.random.Generator, scratch: Path) -> Iterator[tuple[str, Samples]]:
    """Kind and samples of 25 clips of music."""
    synthesiser = shutil.which("fluidsynth") is not None and SOUND_FONT.exists()
    for number, program in enumerate(PROGRAMS):
        seconds = SECONDS[number % len(SECONDS)]
        notes = tune(random, round(seconds / BEAT_SECONDS))
        samples = played(notes, program, scratch) if synthesiser else plucked(notes)
        samples = samples[: seconds * SAMPLE_RATE]
        kind = f"music ({'fluidsynth' if synthesiser else 'harmonics'})"
        yield kind, 0.5 * samples / np.abs(samples).max()


def write(path: Path, samples: Samples) -> None:
    """Write a mono WAV file of 16 bits."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes((32767 * np.clip(samples, -1, 1)).astype("<i2").tobytes())


def make_clips(folder: Path) -> dict[Path, str]:
    """Write all clips; gives the kind of each."""
    random = np.random.default_rng(0)
    kinds = {}
    with tempfile.TemporaryDirectory() as scratch:
        tunes = list(music(random, Path(scratch)))
    clips = (*silence_and_noise(random), *machines(random), *tunes)
    for number, (kind, samples) in enumerate(clips):
        path = folder / f"{number:03}-{kind.split(' (')[0].replace(' ', '-')}.wav"
        write(path, samples)
        kinds[path] = kind
    return kinds


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--every", type=int, default=1, metavar="N", help="every Nth clip only")
    parser.add_argument("--no-vad", action="store_true", help="see above")
    parser.add_argument("--keep", type=Path, metavar="DIRECTORY", help="keep the clips there")
    options = parser.parse_args()
    machine = processes.machine()
    with tempfile.TemporaryDirectory() as name:
        folder: Path = options.keep or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        kinds = dict(list(make_clips(folder).items())[:: options.every])
        _, records = processes.transcribe(kinds, *(["--no-vad"] if options.no_vad else []))
    said = {path: text for path, record in sorted(records.items()) if (text := record.get("text"))}
    total, empty = Counter(kinds.values()), Counter(kinds[p] for p in kinds if p not in said)
    for kind, count in total.items():
        print(f"{kind:22}{empty[kind]:4} of {count:3} without text")
    for path, text in said.items():
        print(f"{path.stem}: {text}")
    share = empty.total() / total.total()
    print(f"{100 * share:.1f} % without text; the bar is {100 * BAR:.0f} %")
    by_kind = {kind: [empty[kind], count] for kind, count in total.items()}
    about = {"vad": not options.no_vad, "clips": total.total(), "without_text": round(share, 4)}
    said_by_name = {path.stem: text for path, text in said.items()}
    figures = {**about, "kinds": by_kind, "said": said_by_name, "machine": machine}
    print(json.dumps({"benchmark": "silence", **figures}, ensure_ascii=False))


if __name__ == "__main__":
    main()
