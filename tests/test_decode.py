"""Decoding against sox, ffmpeg, ffprobe and whole-file resampling; every way a file can fail."""

from __future__ import annotations

import os
import select
import shutil
import struct
import subprocess
import sys
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from qwen_audio_cli.audio import SAMPLE_RATE, decode
from qwen_audio_cli.audio.decode import Audio
from qwen_audio_cli.audio.sources import Source
from qwen_audio_cli.errors import InputError

EXAMPLES = Path(__file__).parent.parent / "examples"
WAV = EXAMPLES / "en-one-participant.wav"
LONG = EXAMPLES / "en-echo-test.wav"

needs_ffmpeg = pytest.mark.skipif(not shutil.which("ffmpeg"), reason="ffmpeg is not installed")
needs_proc = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="there is no /proc")
needs_sox = pytest.mark.skipif(not shutil.which("sox"), reason="sox is not installed")


def source(path: Path) -> Source:
    return Source(path.name, path)


def samples_of(path: Path) -> NDArray[np.float32]:
    audio = Audio(source(path))
    samples = np.concatenate(list(audio))
    assert samples.dtype == np.float32
    assert samples.ndim == 1
    assert audio.samples == len(samples)
    assert np.abs(samples).max() <= 1
    return samples


def refusal(path: Path, **options: float) -> InputError:
    with pytest.raises(InputError) as caught:
        list(Audio(source(path), **options))
    assert str(caught.value).startswith(f"{path.name}: ")
    return caught.value


def stored(path: Path) -> NDArray[np.float32]:
    samples, rate = soundfile.read(path, dtype="float32")
    assert rate == SAMPLE_RATE
    return samples  # type: ignore[no-any-return]


def convert(path: Path, *options: str, origin: Path = WAV) -> Path:
    command = ["ffmpeg", "-v", "error", "-y", "-i", str(origin), *options, f"file:{path}"]
    subprocess.run(command, check=True)
    return path


def write_wav(path: Path, data: bytes, *, size: int | None = None, **header: int) -> Path:
    """A WAV file written by hand: what its header says need not be so."""
    values = {"tag": 1, "channels": 1, "rate": SAMPLE_RATE, "bits": 16} | header
    frame = values["channels"] * values["bits"] // 8
    size = len(data) if size is None else size
    form = struct.pack(
        "<HHIIHH", values["tag"], values["channels"], values["rate"],
        (values["rate"] * frame) & 0xFFFF_FFFF, frame & 0xFFFF, values["bits"],
    )  # fmt: skip
    chunks = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", size)
    total = min(len(chunks) + size, 0xFFFF_FFFF)
    path.write_bytes(b"RIFF" + struct.pack("<I", total) + chunks + data)
    return path


# --- what can be read ---------------------------------------------------------------------------


@needs_sox
@pytest.mark.parametrize("suffix", ["wav", "flac", "aiff", "au", "caf", "w64", "sph", "voc"])
def test_lossless_formats_give_the_samples_themselves(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    subprocess.run(["sox", WAV, path], check=True)
    np.testing.assert_array_equal(samples_of(path), stored(WAV))


@needs_ffmpeg
@pytest.mark.parametrize("suffix", ["mp3", "ogg", "opus"])
def test_blocks_of_a_lossy_file_are_the_file_as_a_whole(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # soundfile's own block reads do not pass this for MP3 and Opus: see _ForwardSound.
    path = convert(tmp_path / f"x.{suffix}")
    whole, rate = soundfile.read(path, dtype="float32")
    assert rate == SAMPLE_RATE
    monkeypatch.setattr(decode, "BLOCK_VALUES", 7001)
    np.testing.assert_allclose(samples_of(path), whole.clip(-1, 1), atol=1e-6)


@needs_ffmpeg
@pytest.mark.parametrize("suffix", ["m4a", "webm", "mp4", "mka", "wma", "aac"])
def test_other_formats_are_read_by_ffmpeg(tmp_path: Path, suffix: str) -> None:
    path = convert(tmp_path / f"x.{suffix}")
    reference = tmp_path / "reference.wav"
    convert(reference, "-ar", "16000", "-ac", "1", "-c:a", "pcm_f32le", origin=path)
    samples, expected = samples_of(path), stored(reference)
    assert abs(len(samples) - len(expected)) <= 1
    shared = min(len(samples), len(expected))
    assert np.corrcoef(samples[:shared], expected[:shared])[0, 1] > 0.999


@needs_ffmpeg
def test_the_sound_of_a_video_whose_index_comes_last(tmp_path: Path) -> None:
    picture = ["-f", "lavfi", "-i", "testsrc=size=64x64:rate=5", "-shortest"]
    path = convert(tmp_path / "x.mp4", *picture)
    assert path.read_bytes().rfind(b"moov") > path.stat().st_size / 2
    ffprobe = ["ffprobe", "-v", "error", "-select_streams", "a", "-show_entries"]
    ffprobe += ["stream=duration", "-of", "csv=p=0", str(path)]
    seconds = float(subprocess.run(ffprobe, capture_output=True, check=True).stdout)
    assert len(samples_of(path)) / SAMPLE_RATE == pytest.approx(seconds, abs=0.07)


@needs_sox
@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_channels_are_averaged_and_rates_converted(
    tmp_path: Path, rate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, reference = tmp_path / "x.flac", tmp_path / "reference.wav"
    effects = ["remix", "1", "1v0.25", "0", "rate", str(rate)]
    subprocess.run(["sox", "-D", LONG, path, *effects], check=True)
    monkeypatch.setattr(decode, "BLOCK_VALUES", 50_000)
    samples = samples_of(path)
    whole, _ = soundfile.read(path, dtype="float32")
    assert whole.shape[1] == 3
    expected = soxr.resample(whole.mean(axis=1), rate, SAMPLE_RATE, quality="HQ")
    np.testing.assert_allclose(samples, expected, atol=1e-6)
    subprocess.run(["sox", "-D", path, reference, "rate", "16k", "remix", "-"], check=True)
    other = stored(reference)
    assert abs(len(samples) - len(other)) <= 1
    shared = min(len(samples), len(other))
    assert np.corrcoef(samples[:shared], other[:shared])[0, 1] > 0.9999


@settings(max_examples=40, deadline=None)
@given(st.integers(1_000, 200_000), st.integers(1, 3_000))
def test_the_length_is_exact(
    tmp_path_factory: pytest.TempPathFactory, rate: int, frames: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "length.wav"
    write_wav(path, b"\1\0" * frames, rate=rate)
    expected = int(frames * SAMPLE_RATE / rate + 0.5)
    if expected:
        assert len(samples_of(path)) == expected
    else:
        assert refusal(path).code == "empty"


@needs_ffmpeg
@pytest.mark.parametrize("suffix", ["wav", "m4a"])
@pytest.mark.parametrize("name", [b"-i", b"a;b|c $(x) %d", b"new\nline", b"caf\xe9", b"concat:a"])
def test_no_name_is_special(
    tmp_path: Path, name: bytes, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plain = convert(tmp_path / f"plain.{suffix}")
    path = Path(os.fsdecode(name) + f".{suffix}")
    path.write_bytes(plain.read_bytes())
    np.testing.assert_array_equal(samples_of(path), samples_of(plain))


@pytest.mark.parametrize("size", [0xFFFF_FFFF, 0x7FFF_F000, 0x7FFF_FFFF])
def test_a_header_written_into_a_pipe_claims_nothing(tmp_path: Path, size: int) -> None:
    data = soundfile.read(WAV, dtype="int16")[0].tobytes()
    assert len(samples_of(write_wav(tmp_path / "x.wav", data, size=size))) == len(data) // 2


@needs_sox
@pytest.mark.parametrize("suffix", ["wav", "aiff", "au", "flac"])
def test_what_sox_writes_into_a_pipe(tmp_path: Path, suffix: str) -> None:
    raw = soundfile.read(WAV, dtype="int16")[0].tobytes()
    sox = ["sox", "-t", "s16", "-r", "16000", "-c", "1", "-", "-t", suffix, "-"]
    result = subprocess.run(sox, input=raw, capture_output=True, check=True)
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(result.stdout)
    np.testing.assert_array_equal(samples_of(path), stored(WAV))


def test_audio_on_standard_input() -> None:
    script = """
from qwen_audio_cli.audio.decode import Audio
from qwen_audio_cli.audio.sources import expand_sources, fingerprint
source, = expand_sources(["-"])
fingerprint(source)
print(sum(map(len, Audio(source))))
"""
    for path in (WAV, EXAMPLES / "fr-one-participant.wav"):
        command = [sys.executable, "-c", script]
        result = subprocess.run(command, input=path.read_bytes(), capture_output=True, check=True)
        assert int(result.stdout) == len(stored(path))


def test_clipping_is_counted_in_all_channels(tmp_path: Path) -> None:
    frames = np.zeros((1000, 2), np.int16)
    frames[:50, 1] = 32767
    frames[50:100, 1] = -32768
    frames[:100, 0] = 32000
    path = tmp_path / "x.wav"
    soundfile.write(path, frames, 44100)
    audio = Audio(source(path))
    list(audio)
    assert audio.clipping == 100 / 2000
    list(audio)  # a second reading starts afresh
    assert audio.clipping == 100 / 2000


def test_floating_point_beyond_full_scale_is_clipped(tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    soundfile.write(path, np.array([0.5, 1.5, -2.0, 1.0]), SAMPLE_RATE, subtype="FLOAT")
    audio = Audio(source(path))
    np.testing.assert_array_equal(
        np.concatenate(list(audio)), np.array([0.5, 1, -1, 1], np.float32)
    )
    assert audio.clipping == 0.75


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    soundfile.write(path, np.zeros((SAMPLE_RATE * 400, 2), np.int16), SAMPLE_RATE)
    tracemalloc.start()
    total = sum(map(len, Audio(source(path))))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert total == SAMPLE_RATE * 400
    assert peak < 8 * 4 * decode.BLOCK_VALUES < total * 4 / 3


def test_many_threads_meet_good_and_bad_files(tmp_path: Path) -> None:
    text = tmp_path / "x.wav"
    text.write_text("not audio\n" * 100)

    def work(number: int) -> int | str:
        if number % 2:
            return len(samples_of(WAV))
        try:
            return len(samples_of(text))
        except InputError as error:
            return error.code

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(work, range(16)))
    assert results == ["unsupported", len(stored(WAV))] * 8


# --- what cannot --------------------------------------------------------------------------------


def test_no_samples(tmp_path: Path) -> None:
    assert refusal(write_wav(tmp_path / "none.wav", b"")).code == "empty"
    assert refusal(write_wav(tmp_path / "cut.wav", b"", size=32_000)).code == "empty"
    assert len(samples_of(write_wav(tmp_path / "one.wav", b"\1\0"))) == 1
    (tmp_path / "zero.wav").touch()
    assert refusal(tmp_path / "zero.wav").code == "empty"


@pytest.mark.parametrize("content", [b"hello\n" * 500, b"\0" * 9000, bytes(range(256)) * 50])
def test_no_audio_at_all(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.wav"
    path.write_bytes(content)
    assert refusal(path).code == "unsupported"


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.wav")
    assert refusal(tmp_path / "fifo.wav").code == "unsupported"
    assert refusal(tmp_path).code == "directory"
    assert refusal(tmp_path / "gone.wav").code == "missing"


@pytest.mark.parametrize(
    "header", [{"rate": 0}, {"rate": 3}, {"rate": 2_000_000_000}, {"channels": 200}, {"bits": 0}]
)
def test_headers_that_cannot_be_true(tmp_path: Path, header: dict[str, int]) -> None:
    assert refusal(write_wav(tmp_path / "x.wav", bytes(40_000), **header)).code == "unsupported"


@needs_sox
@pytest.mark.parametrize("suffix", ["wav", "flac", "aiff", "au", "w64", "ogg"])
@pytest.mark.parametrize("share", [0.1, 0.6, 0.95])
def test_a_file_that_breaks_off_is_refused(tmp_path: Path, suffix: str, share: float) -> None:
    whole, path = tmp_path / f"whole.{suffix}", tmp_path / f"x.{suffix}"
    subprocess.run(["sox", LONG, whole], check=True)
    content = whole.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    error = refusal(path)
    assert error.code == "decode"
    reached = float(error.reason.split(" after ")[1].split(" s")[0])
    seconds = len(stored(LONG)) / SAMPLE_RATE
    if suffix not in ("flac", "ogg"):  # of these, the bytes do not tell the seconds
        assert reached == pytest.approx(seconds * share, abs=0.1)
    assert 0 <= reached < seconds


def test_a_wav_that_claims_more_than_there_is(tmp_path: Path) -> None:
    data = bytes(range(256)) * 1000
    error = refusal(write_wav(tmp_path / "x.wav", data, size=1_000_000_000))
    assert error.code == "decode"
    assert error.reason == "breaks off after 8.0 s of 31250.0 s"
    # Some writers are wrong by the size of a header: nothing is lost.
    assert len(samples_of(write_wav(tmp_path / "y.wav", data, size=len(data) + 44))) == 128_000


@needs_ffmpeg
@pytest.mark.parametrize("suffix", ["mp3", "opus", "m4a", "webm", "wma"])
def test_a_compressed_file_that_breaks_off_is_refused(tmp_path: Path, suffix: str) -> None:
    whole = convert(tmp_path / f"whole.{suffix}", "-movflags", "+faststart")
    path = tmp_path / f"x.{suffix}"
    content = whole.read_bytes()
    path.write_bytes(content[: len(content) * 6 // 10])
    error = refusal(path)
    assert error.code == "decode"
    assert " after " in error.reason


@needs_ffmpeg
@pytest.mark.parametrize("suffix", ["flac", "opus", "m4a", "webm"])
def test_damage_within_a_file_is_refused(tmp_path: Path, suffix: str) -> None:
    path = convert(tmp_path / f"x.{suffix}", origin=LONG)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 3000] = np.random.default_rng(0).bytes(3000)
    path.write_bytes(content)
    assert refusal(path).code == "decode"


@needs_ffmpeg
def test_an_mp3_whose_first_bytes_are_lost_is_read(tmp_path: Path) -> None:
    whole = convert(tmp_path / "whole.mp3")
    path = tmp_path / "x.mp3"
    path.write_bytes(whole.read_bytes()[777:])
    lost = len(samples_of(whole)) - len(samples_of(path))
    assert 0 < lost < 0.3 * SAMPLE_RATE


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 32768.0])
def test_samples_that_are_no_sound(tmp_path: Path, value: float) -> None:
    samples = np.zeros((20_000, 2))
    samples[16_000, 1] = value
    path = tmp_path / "x.wav"
    soundfile.write(path, samples, 8000, subtype="FLOAT")
    error = refusal(path)
    assert error.code == "samples"
    assert "2.0 s" in error.reason


# --- ffmpeg, fenced in --------------------------------------------------------------------------


DASH = """<?xml version="1.0"?>
<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT3S"
 profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period><AdaptationSet mimeType="audio/mp4">
<Representation id="1" bandwidth="64000"><BaseURL>{}.m4a</BaseURL></Representation>
</AdaptationSet></Period></MPD>
"""
HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{}.ts\n#EXT-X-ENDLIST\n"
SDP = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nm=audio 5004 RTP/AVP 0\n"


@needs_ffmpeg
@pytest.mark.parametrize("content", [HLS, DASH, SDP, "ffconcat version 1.0\nfile secret.wav\n"])
def test_a_list_in_the_dress_of_audio_opens_no_other_file(
    tmp_path: Path, content: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # ffmpeg 5.1 on its own follows the first two to the file that they name.
    monkeypatch.chdir(tmp_path)
    for suffix in ("ts", "m4a", "wav"):
        convert(tmp_path / f"secret.{suffix}", "-movflags", "+faststart")
    path = Path("x.wav")
    path.write_text(content.format(tmp_path / "secret"))
    assert refusal(path).code == "unsupported"


@needs_ffmpeg
def test_a_video_without_sound(tmp_path: Path) -> None:
    path = tmp_path / "x.mp4"
    picture = ["-f", "lavfi", "-i", "testsrc=size=64x64:rate=5:duration=1"]
    subprocess.run(["ffmpeg", "-v", "error", *picture, str(path)], check=True)
    error = refusal(path)
    assert error.code == "unsupported"
    assert "no audio track" in error.reason


def test_without_ffmpeg_the_error_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.m4a"
    path.write_bytes(b"\0\0\0\x20ftypM4A " + bytes(1000))
    monkeypatch.setenv("PATH", str(tmp_path))
    error = refusal(path)
    assert error.code == "unsupported"
    assert "ffmpeg" in error.reason


def children() -> list[str]:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


@needs_ffmpeg
@needs_proc
def test_closing_the_iterator_ends_ffmpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = convert(tmp_path / "x.m4a", origin=LONG)
    monkeypatch.setattr(decode, "BLOCK_VALUES", 1000)
    before = children()
    blocks = iter(Audio(source(path)))
    next(blocks)
    assert len(children()) == len(before) + 1
    blocks.close()  # type: ignore[attr-defined]
    assert children() == before


@needs_proc
def test_a_decoder_that_gives_nothing_is_killed_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "ffmpeg"
    program.write_text(f"#!/bin/sh\n/bin/sleep 600 & echo $! > {tmp_path}/pid; wait\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    path = tmp_path / "x.m4a"
    path.write_bytes(bytes(1000))
    began = time.monotonic()
    assert refusal(path, stall_seconds=0.5).code == "timeout"
    assert time.monotonic() - began < 60
    sleeper = int((tmp_path / "pid").read_text())
    try:
        handle = os.pidfd_open(sleeper)
    except ProcessLookupError:
        return  # gone, and its parent has taken note
    assert select.select([handle], [], [], 30)[0], "it lives"
    os.close(handle)
