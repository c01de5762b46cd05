"""What a wheel and a source distribution carry, and what NOTICE says of it."""

from __future__ import annotations

import shutil
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

import pytest
from fetched import fetched
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

from qwen_audio_cli.layout import WEIGHTS
from qwen_audio_cli.training.data.sounds import bank

ROOT = Path(__file__).parent.parent
NOTICE = (ROOT / "NOTICE").read_text(encoding="utf-8")
LARGEST = 95_000_000
"""Bytes of a file, above which some hosts of repositories take none."""

MINI = (
    "base-embedding.safetensors",
    "base-layers.safetensors",
    "trained.safetensors",
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "lora/adapter_config.json",
    "lora/adapter_model.safetensors",
)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """This project with all that is said about packaging, and files of weights that say nothing."""
    project = tmp_path / "project"
    project.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE", ".gitignore"):
        shutil.copy(ROOT / name, project / name)
    for name in ("man", "completions"):
        shutil.copytree(ROOT / name, project / name)
    (project / "qwen_audio_cli").mkdir()
    shutil.copy(ROOT / "qwen_audio_cli" / "__init__.py", project / "qwen_audio_cli")
    for path in WEIGHTS.glob("*/**/*"):
        if path.is_file():
            _touch(project / "qwen_audio_cli" / "weights" / path.relative_to(WEIGHTS))
    for name in MINI:
        _touch(project / "qwen_audio_cli" / "weights" / "mini" / name)
    return project


def _touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def _weights(names: list[str], folder: str) -> set[str]:
    """The files of weights among all that an archive carries, by their paths within."""
    paths = (PurePosixPath(name) for name in names)
    return {str(p.relative_to(folder)) for p in paths if p.is_relative_to(folder) and p.suffix}


def test_the_embedded_models_are_carried_whole(project: Path) -> None:
    """Also what lies in a directory within a checkpoint."""
    folder = "qwen_audio_cli/weights"
    here = {
        str(path.relative_to(project / folder))
        for path in (project / folder).rglob("*")
        if path.is_file()
    }
    assert here >= {f"mini/{name}" for name in MINI} | {"whisper-base/model.safetensors"}
    (wheel,) = WheelBuilder(str(project)).build(directory=str(project / "dist"))
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert _weights(names, folder) == here
    assert {PurePosixPath(name).name for name in names} >= {"LICENSE", "NOTICE", "qwa.1"}
    (source,) = SdistBuilder(str(project)).build(directory=str(project / "dist"))
    with tarfile.open(source) as tar:
        names = [name.partition("/")[2] for name in tar.getnames()]
    assert _weights(names, folder) == here


@pytest.mark.parametrize("model", sorted(WEIGHTS.iterdir()), ids=lambda model: model.name)
def test_notice_tells_whose_work_an_embedded_model_is(model: Path) -> None:
    assert f"\nqwen_audio_cli/weights/{model.name}/\n" in NOTICE
    for path in model.rglob("*"):
        assert path.is_dir() or path.stat().st_size < LARGEST, path
        assert not path.is_symlink(), path


def test_notice_names_who_asks_for_it() -> None:
    """The authors of all sounds under CC BY that mini may have learned from."""
    cache = fetched(
        "sonic-pi-samples", "gcompris-qt-data", "fluid-soundfont-gm", program="fluidsynth"
    )
    asked = {sound.source for sound in bank(cache) if sound.licence.startswith("CC-BY")}
    assert asked
    for source in asked:
        _, _, credit = source.partition(": ")
        assert f"{credit}\n" in NOTICE
