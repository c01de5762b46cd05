"""Expansion of words into sources, against the shell, find and coreutils."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen_audio_cli.audio.sources import Source, expand_sources, fingerprint, open_source
from qwen_audio_cli.errors import InputError, UsageError

EXAMPLES = Path(__file__).parent.parent / "examples"
WAV = EXAMPLES / "en-one-participant.wav"


def names(*words: str | Path, **options: object) -> list[str]:
    return [source.name for source in expand_sources(words, **options)]  # type: ignore[arg-type]


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with files that should and should not be found."""
    for name in (
        "b.wav", "a.flac", "notes.txt", ".hidden.wav", "sub/z.MP3", "sub/deep/y.opus",
        "sub/deep/README", ".git/c.wav", "sub/.cache/d.wav", "other/x.m4a", "a[1].wav", "a1.wav",
    ):  # fmt: skip
        file = tmp_path / "in" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_words_keep_their_order_and_their_spelling(tree: Path) -> None:
    words = ["./in/b.wav", "in//a.flac", str(tree / "in" / "notes.txt")]
    assert names(*words) == words


@pytest.mark.usefixtures("tree")
def test_a_directory_gives_its_audio_files_in_a_fixed_order() -> None:
    found = names("in", recursive=True)
    assert found == [
        "in/a.flac", "in/a1.wav", "in/a[1].wav", "in/b.wav", "in/other/x.m4a", "in/sub/z.MP3",
        "in/sub/deep/y.opus",
    ]  # fmt: skip
    listed = subprocess.run(
        r"find in -not -path '*/.*' \( -iname '*.wav' -o -iname '*.flac' -o -iname '*.mp3' "
        r"-o -iname '*.opus' -o -iname '*.m4a' \)",
        shell=True, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert sorted(found) == sorted(listed.stdout.splitlines())


@pytest.mark.usefixtures("tree")
def test_without_recursive_a_directory_gives_what_lies_directly_in_it() -> None:
    assert names("in") == ["in/a.flac", "in/a1.wav", "in/a[1].wav", "in/b.wav"]
    assert names("in/sub/", ".") == ["in/sub/z.MP3"]


@pytest.mark.usefixtures("tree")
def test_opening_a_directory_is_refused() -> None:
    with pytest.raises(InputError) as caught:
        open_source(Source("in", Path("in")))
    assert caught.value.code == "directory"


@pytest.mark.usefixtures("tree")
@pytest.mark.parametrize(
    "pattern",
    [
        "in/*.wav", "in/*", "in/**/*", "in/**/*.wav", "**/y.opus", "in/s*/*/y.*", "in/[ab].*",
        "in/?.wav", "in/.*.wav", "in/*/.cache/*", "in/**/deep/**", "*/b.wav", "./in/sub/**/*.opus",
    ],
)  # fmt: skip
def test_a_glob_means_what_it_means_to_the_shell(pattern: str) -> None:
    if (bash := shutil.which("bash")) is None:
        pytest.skip("bash is not installed")
    script = f"shopt -s globstar nullglob; for f in {pattern}; do printf '%s\\n' \"$f\"; done"
    shell = subprocess.run([bash, "-c", script], capture_output=True, text=True, check=True)
    files = [line for line in shell.stdout.splitlines() if Path(line).is_file()]
    assert files
    assert sorted(os.path.normpath(name) for name in names(pattern)) == sorted(
        os.path.normpath(name) for name in files
    )


def test_an_absolute_glob(tree: Path) -> None:
    assert names(f"{tree}/in/*/x.m4a") == [f"{tree}/in/other/x.m4a"]


@pytest.mark.usefixtures("tree")
def test_a_file_of_that_very_name_wins_over_a_glob() -> None:
    assert names("in/a[1].wav") == ["in/a[1].wav"]
    Path("in/a[1].wav").unlink()
    assert names("in/a[1].wav") == ["in/a1.wav"]


@pytest.mark.usefixtures("tree")
def test_directories_that_a_glob_matches_are_searched_only_if_recursive() -> None:
    assert names("in/s*") == []
    assert names("in/s*", recursive=True) == ["in/sub/z.MP3", "in/sub/deep/y.opus"]


@pytest.mark.usefixtures("tree")
def test_what_matches_nothing_gives_nothing() -> None:
    Path("bare").mkdir()
    assert names("in/*.ogg", "nowhere/**/*.wav", "bare", recursive=True) == []


@pytest.mark.usefixtures("tree")
def test_a_file_is_given_once_under_its_first_name() -> None:
    Path("link.wav").symlink_to("in/b.wav")
    Path("hard.wav").hardlink_to("in/b.wav")
    assert names("link.wav", "in/b.wav", "./in/b.wav", "hard.wav", "in/*.flac", "in/a.flac") == [
        "link.wav", "in/a.flac",
    ]  # fmt: skip
    assert names("gone.wav", "gone.wav", "-", "-") == ["gone.wav", "-"]


@pytest.mark.usefixtures("tree")
def test_where_mentions_count_a_file_is_given_as_often_as_it_is_named() -> None:
    Path("link.wav").symlink_to("in/b.wav")
    words = ("link.wav", "in/b.wav", "in/*.flac", "gone.wav", "in/a.flac", "gone.wav", "-")
    assert names(*words, each_once=False) == [
        "link.wav", "in/b.wav", "in/a.flac", "gone.wav", "in/a.flac", "gone.wav", "-",
    ]  # fmt: skip
    with pytest.raises(UsageError, match="named once"):
        expand_sources(["-", "in", "-"], each_once=False)


@pytest.mark.usefixtures("tree")
def test_loops_of_links_end() -> None:
    Path("in/sub/up").symlink_to("..")
    Path("in/sub/self.wav").symlink_to("self.wav")
    found = names("in", recursive=True)
    assert len(found) == 8
    assert "in/sub/self.wav" in found  # opening it tells that it is broken
    assert names("in/**/y.opus") == ["in/sub/deep/y.opus"]


@pytest.mark.usefixtures("tree")
def test_the_search_has_not_seen_what_it_has_not_come_to() -> None:
    sources = expand_sources(["in"], recursive=True)
    assert next(sources).name == "in/a.flac"
    Path("in/sub/deep/new.wav").touch()
    assert "in/sub/deep/new.wav" in [source.name for source in sources]


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A directory in which permissions count, for root too: root becomes someone else there."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        (directory / "in/locked").mkdir(parents=True)
        (directory / "in/locked/a.wav").touch()
        (directory / "in/locked.wav").write_bytes(b"x")
        for path in (directory / "in/locked", directory / "in/locked.wav"):
            path.chmod(0)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)
        yield directory
        os.seteuid(user)
        (directory / "in/locked").chmod(0o755)


def test_what_may_not_be_read_is_reported(unprivileged: Path) -> None:
    found = list(expand_sources([unprivileged / "in"], recursive=True))
    assert [source.name for source in found] == [
        f"{unprivileged}/in/locked.wav", f"{unprivileged}/in/locked",
    ]  # fmt: skip
    assert names(f"{unprivileged}/in/*/*.wav") == [f"{unprivileged}/in/locked"]
    for source in found:
        with pytest.raises(InputError) as caught:
            open_source(source)
        assert caught.value.code == "permission"


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.usefixtures("tree")
def test_a_list_has_one_name_a_line_and_no_globs(ending: str) -> None:
    entries = ["in/a1.wav", "", "in/*.wav", "in/other", "-", "last"]
    Path("list").write_bytes(ending.join(entries).encode())
    assert names("in/b.wav", files_from="list") == [
        "in/b.wav", "in/a1.wav", "in/*.wav", "in/other/x.m4a", "-", "last",
    ]  # fmt: skip
    assert all(source.path is not None for source in expand_sources([], files_from="list"))
    Path("list").write_text("in\n")
    assert names(files_from="list", recursive=True) == names("in", recursive=True)


def _names_no_directory(name: bytes) -> bool:
    return b"\0" not in name and not os.path.isdir(name)  # noqa: PTH112 - of any bytes


@settings(max_examples=50)
@given(st.lists(st.binary(min_size=1).filter(_names_no_directory), unique=True))
def test_a_list_with_nul_carries_any_name(entries: list[bytes]) -> None:
    read, write = os.pipe()
    os.write(write, b"\0".join(entries))
    os.close(write)
    sources = list(expand_sources([], files_from=f"/dev/fd/{read}", null=True))
    os.close(read)
    assert [os.fsencode(source.name) for source in sources] == entries


def test_a_list_is_read_as_it_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    with os.fdopen(read) as pipe, os.fdopen(write, "wb", buffering=0) as writer:
        monkeypatch.setattr(sys, "stdin", pipe)
        sources = expand_sources([], files_from="-")
        writer.write(b"first.wav\nsec")
        assert next(sources).name == "first.wav"
        writer.write(b"ond.wav\n")
        assert next(sources).name == "second.wav"


def test_lists_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="standard input"):
        expand_sources(["-"], files_from="-")
    with pytest.raises(UsageError, match="nothing-here"):
        next(expand_sources([], files_from=tmp_path / "nothing-here"))
    with pytest.raises(UsageError, match="empty"):
        expand_sources(["a.wav", ""])


NAME = b"caf\xe9 \n;-$(x).wav"


def test_a_name_that_is_not_utf8_survives(tmp_path: Path) -> None:
    file = tmp_path / os.fsdecode(NAME)
    shutil.copy(WAV, file)
    for source in (
        *expand_sources([file]),
        *expand_sources([tmp_path], recursive=True),
        *expand_sources([f"{tmp_path}/c*.wav"]),
    ):
        assert os.fsencode(source.name) == os.fsencode(file)
        assert fingerprint(source) == fingerprint(Source("a", WAV))


@pytest.fixture
def special(tmp_path: Path) -> Iterator[dict[str, Path]]:
    """Things with a name that are no readable files."""
    files = {kind: tmp_path / kind for kind in ("fifo", "socket", "empty", "loop")}
    os.mkfifo(files["fifo"])
    files["empty"].touch()
    files["loop"].symlink_to("loop")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(files["socket"]))
        yield files | {"null": Path("/dev/null"), "file/x": WAV / "x", "long": Path("x" * 300)}


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("fifo", "unsupported"), ("socket", "unsupported"), ("null", "unsupported"),
        ("empty", "empty"), ("loop", "missing"), ("file/x", "missing"), ("long", "missing"),
    ],
)  # fmt: skip
def test_what_is_no_file_is_refused_at_once(special: dict[str, Path], kind: str, code: str) -> None:
    with pytest.raises(InputError) as caught:
        open_source(Source("shown", special[kind]))
    assert caught.value.code == code
    assert str(caught.value).startswith("shown: ")


def test_the_fingerprint_is_blake2b_of_the_content() -> None:
    if (b2sum := shutil.which("b2sum")) is None:
        pytest.skip("b2sum is not installed")
    output = subprocess.run([b2sum, "-l", "128", WAV], capture_output=True, text=True, check=True)
    assert fingerprint(Source("a", WAV)) == output.stdout.split()[0]


def run(script: str, **options: object) -> str:
    command = [sys.executable, "-c", script]
    return subprocess.run(command, capture_output=True, check=True, **options).stdout.decode()  # type: ignore[call-overload, no-any-return]


def test_standard_input_can_be_read_twice() -> None:
    script = """
from qwen_audio_cli.audio.sources import *
source, = expand_sources(["-", "-"])
with open_source(source) as file:
    size = len(file.readall())
print(source.name, size, fingerprint(source))
"""
    expected = f"- {WAV.stat().st_size} {fingerprint(Source('a', WAV))}\n"
    assert run(script, input=WAV.read_bytes()) == expected


def test_importing_loads_neither_numpy_nor_torch() -> None:
    script = "import sys, qwen_audio_cli.audio.sources; print({'numpy', 'torch'} & {*sys.modules})"
    assert run(script) == "set()\n"
