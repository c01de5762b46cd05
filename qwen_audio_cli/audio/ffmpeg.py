"""What libsndfile cannot read, read by the `ffmpeg` program where it is installed, and fenced in.

The program is given an open file, never a name; it may open no other, and only as plain media:
no playlists or concatenations, which would make it read files that the user did not name.
"""

from __future__ import annotations

import os
import re
import selectors
import shutil
import signal
import struct
import subprocess
from collections.abc import Iterator
from io import FileIO

import ffmpeg
import numpy as np
from numpy.typing import NDArray

from ..errors import InputError

FORMATS = (
    "3gp,aac,ac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,dsf,dts,eac3,flac,flv,m4a,matroska,mov,"
    "mp3,mp4,mpc,mpc8,mpeg,mpegts,nistsphere,ogg,oma,rm,tak,tta,voc,w64,wav,webm,wv"
)
"""The demultiplexers that ffmpeg may use."""

_HEADER = struct.Struct(">4s5I")
"""Sun/NeXT audio: magic, offset of the samples, their size, encoding, rate (Hz), channels."""

_ORIGIN = re.compile(r"^(?:\[[^]]* @ 0x[0-9a-f]+\] |file:/dev/fd/0: )")
"""The part of ffmpeg that speaks, with an address that differs from run to run."""

_TAIL_BYTES = 4096
_PIPE_BYTES = 1 << 16


def read_with_ffmpeg(
    file: FileIO, name: str, *, values: int, stall_seconds: float
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Decode the first audio track of an open file; closing the iterator kills the program.

    Yields the rate in Hz and blocks [frames, channels] of about `values` values, at the file's own
    rate. Raises `InputError`: unsupported, decode (what it reports as damaged), timeout (no output
    for `stall_seconds`).
    """
    program = shutil.which("ffmpeg")
    if program is None:
        reason = "is no audio that libsndfile reads; ffmpeg, which reads more, is not installed"
        raise InputError("unsupported", name, reason)
    messages = bytearray()
    rate = frames = 0
    with subprocess.Popen(
        _command(program),
        stdin=file,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        try:
            for rate, block in _blocks(_output(process, messages, name, stall_seconds), values):
                frames += len(block)
                yield rate, block
            status = process.wait(stall_seconds)
        except subprocess.TimeoutExpired as error:
            raise InputError("timeout", name, "ffmpeg does not end") from error
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    # Damage to Matroska is the one kind that -xerror does not turn into an exit status.
    if status != 0 or b"[matroska,webm @" in messages:
        if not frames:
            reason = f"is no audio that can be read (ffmpeg: {_reason(messages)})"
            raise InputError("unsupported", name, reason)
        reason = f"is damaged after {frames / rate:.1f} s (ffmpeg: {_reason(messages)})"
        raise InputError("decode", name, reason)


def _command(program: str) -> list[str]:
    # /dev/fd/0 can seek where the protocol "pipe:" cannot, as an MP4 with its index last needs.
    source = ffmpeg.input("file:/dev/fd/0", protocol_whitelist="file", format_whitelist=FORMATS)
    output = source["a:0"].output(
        "pipe:1", format="au", acodec="pcm_f32be", vn=None, sn=None, dn=None
    )
    quiet = output.global_args("-nostdin", "-hide_banner", "-loglevel", "error", "-xerror")
    command: list[str] = quiet.compile(cmd=program)
    return command


def _output(
    process: subprocess.Popen[bytes], messages: bytearray, name: str, stall_seconds: float
) -> Iterator[bytes]:
    """The program's output as it comes; the end of its messages is kept in `messages`."""
    with selectors.DefaultSelector() as selector:
        for pipe in (process.stdout, process.stderr):
            assert pipe is not None
            selector.register(pipe, selectors.EVENT_READ)
        while selector.get_map():
            ready = selector.select(stall_seconds)
            if not ready:
                reason = f"ffmpeg has given nothing for {stall_seconds:g} s"
                raise InputError("timeout", name, reason)
            for key, _ in ready:
                data = os.read(key.fd, _PIPE_BYTES)
                if not data:
                    selector.unregister(key.fileobj)
                elif key.fileobj is process.stderr:
                    messages += data
                    del messages[:-_TAIL_BYTES]
                else:
                    yield data


def _blocks(output: Iterator[bytes], values: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
    buffer = bytearray()
    rate = channels = 0
    for data in output:
        buffer += data
        if not rate and len(buffer) >= _HEADER.size:
            _, offset, _, _, found_rate, channels = _HEADER.unpack_from(buffer)
            if len(buffer) >= offset:
                rate = found_rate
                del buffer[:offset]
        if rate and len(buffer) >= 4 * max(values, channels):
            yield rate, _take_frames(buffer, channels)
    if rate and len(buffer) >= 4 * channels:
        yield rate, _take_frames(buffer, channels)


def _take_frames(buffer: bytearray, channels: int) -> NDArray[np.float32]:
    """Move the whole frames out of the buffer: [frames, channels]."""
    size = len(buffer) - len(buffer) % (4 * channels)
    block = np.frombuffer(bytes(buffer[:size]), ">f4").astype(np.float32)
    del buffer[:size]
    return block.reshape(-1, channels)


def _reason(messages: bytearray) -> str:
    """The last two lines of the program's messages: often the cause and the consequence."""
    text = messages.decode(errors="replace")
    if "matches no streams" in text:
        return "it has no audio track"
    lines = text.strip().splitlines() or ["no message"]
    return "; ".join(_ORIGIN.sub("", line) for line in lines[-2:])
