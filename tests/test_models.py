"""The table of models, what a name means, and what is told of checkpoints that are none."""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_checkpoints
import tiny_tokenizers
import tiny_transformers
import torch
import typer
from conftest import CPU
from safetensors.torch import load_file, save_file

from qwen_audio_cli import Qwa, host_memory
from qwen_audio_cli.cli import app
from qwen_audio_cli.cli.app import run
from qwen_audio_cli.cli.console import LOG
from qwen_audio_cli.devices import LOADING, require_memory
from qwen_audio_cli.errors import ModelError, UsageError
from qwen_audio_cli.exits import Exit
from qwen_audio_cli.families.checkpoint import Checkpoint
from qwen_audio_cli.families.qwen_audio import QwenAudio
from qwen_audio_cli.families.whisper import Whisper
from qwen_audio_cli.layout import small_names, weight_names
from qwen_audio_cli.models import ALIGNER, CARDS, MODELS, WEIGHTS
from qwen_audio_cli.options import Options
from qwen_audio_cli.tasks import FAMILIES, TASKS

ROOT = Path(__file__).parent.parent
WAV = ROOT / "examples" / "en-one-participant.wav"
SHARD = "model-00002-of-00002.safetensors"

Command = Callable[..., tuple[int, str, list[str]]]


@pytest.fixture
def qwa(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Command]:
    """Run the command line in this process: exit code, output, lines of messages."""
    for name in ("QWA_MODEL", "QWA_DEVICE"):
        monkeypatch.delenv(name, raising=False)
    handlers, level = LOG.handlers[:], LOG.level

    def call(*arguments: str | Path) -> tuple[int, str, list[str]]:
        code = run([os.fspath(argument) for argument in arguments])
        shown, told = capfd.readouterr()
        return code, shown, told.splitlines()

    yield call
    LOG.handlers[:] = handlers
    LOG.setLevel(level)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return tiny_checkpoints.qwen_audio(tmp_path / "tiny")


# --- the table ----------------------------------------------------------------------------------


def test_every_family_has_a_model_and_every_name_is_one() -> None:
    assert {card.family for card in MODELS} == set(FAMILIES)
    assert len(CARDS) == len({card.source for card in MODELS}) == len(MODELS)


def test_the_listing(qwa: Command) -> None:
    rows = {row["name"]: row for row in map(json.loads, qwa("models", "--json")[1].splitlines())}
    # A model that is on no hub is told of where the package carries it.
    told = [card.alias for card in MODELS if card.source or card.is_embedded]
    assert list(rows) == told
    for row in rows.values():
        assert row["memory"] == 2 * row["parameters"]
        able = [task for task in TASKS.values() if row["family"] in task.families]
        assert row["tasks"] == [task.name for task in able]
        assert set(row["commands"]) == {task.command for task in able}
    here = [card.alias for card in MODELS if card.is_embedded]
    assert here[0] == "whisper-base"
    assert [name for name, row in rows.items() if row["present"]] == here
    assert rows["whisper-base"]["path"] == str(WEIGHTS / "whisper-base")
    assert (rows["qwen3-omni"]["longest"], rows["qwen3-omni"]["path"]) == (300, None)
    heading, *lines = qwa("models")[1].splitlines()
    starts = [match.start() for match in re.finditer(r"\S+", heading)]
    cells = {
        line.split()[0]: [
            line[s:e].strip() for s, e in zip(starts, [*starts[1:], None], strict=True)
        ]
        for line in lines
    }
    assert cells["qwen2-audio-instruct"] == [
        "qwen2-audio-instruct", "qwen2-audio-instruct", "8,397 M", "16.8 GB", "30 s",
        ",".join(rows["qwen2-audio-instruct"]["commands"]), "no", "Qwen/Qwen2-Audio-7B-Instruct",
    ]  # fmt: skip
    assert len(cells) == len(told)


def test_what_the_table_says_of_the_embedded_model_is_so() -> None:
    card = CARDS["whisper-base"]
    assert card.directory is not None
    family = Whisper(card.directory, card.alias)
    assert (family.name, family.window) == (card.family, card.window)
    assert family.parameters == pytest.approx(card.parameters * 1e6, rel=0.01)


def test_the_help_of_pull_ends_with_examples_that_it_takes(qwa: Command) -> None:
    code, shown, _ = qwa("models", "pull", "-h")
    assert code == 0
    group: Any = typer.main.get_command(app)
    pull = group.commands["models"].commands["pull"]
    examples = shown.partition("Examples:\n")[2].splitlines()
    assert examples
    for line in examples:
        program, *words = line.split()
        assert [program, *words[:2]] == ["qwa", "models", "pull"]
        pull.make_context("pull", words[2:])  # raises where it does not parse


def test_pulling_what_is_here_tells_where(qwa: Command, tiny: Path) -> None:
    told = ["qwa: whisper-base is part of this package: there is nothing to fetch"]
    assert qwa("models", "pull", "whisper-base") == (0, f"{WEIGHTS / 'whisper-base'}\n", told)
    assert qwa("models", "pull", tiny) == (0, f"{tiny}\n", [])
    assert qwa("models", "pull", "./gone") == (
        Exit.UNAVAILABLE, "", ["qwa: gone: no such model directory"],
    )  # fmt: skip
    assert qwa("models", "push")[0] == Exit.USAGE


# --- which files make a checkpoint --------------------------------------------------------------


def test_of_weights_in_several_precisions_one_is_taken(tmp_path: Path) -> None:
    """As in openai/whisper-large-v3, whose other precision has an index of its own."""
    names = ["model.fp32-00001-of-00002.safetensors", "model.fp32-00002-of-00002.safetensors"]
    names += ["model.safetensors", "onnx/model.safetensors", "tf_model.h5", "pytorch_model.bin"]
    assert weight_names(names, None) == ["model.safetensors"]
    assert weight_names(names[:2] + names[3:], None) == names[:2]
    directory = tmp_path / "both"
    shutil.copytree(WEIGHTS / "whisper-base", directory)
    (directory / names[0]).write_bytes(b"another precision")
    assert Checkpoint(directory).shards == [directory / "model.safetensors"]


def test_neither_code_nor_pickles_are_wanted() -> None:
    names = ["config.json", "modeling_qwen.py", "qwen.tiktoken", "merges.txt", "README.md"]
    names += ["onnx/config.json", "spk_dict.pt", "training_args.bin", "chat_template.jinja"]
    assert small_names(names) == ["config.json", "merges.txt", "qwen.tiktoken"]


def test_weights_are_counted_as_they_are_loaded(tiny: Path) -> None:
    family = QwenAudio(tiny, "tiny")
    family.load(torch.float32, CPU)
    weights = [load_file(path) for path in sorted(tiny.glob("*.safetensors"))]
    total = sum(tensor.numel() for shard in weights for tensor in shard.values())
    assert family.parameters == total
    checkpoint = Checkpoint(tiny)
    (heads,) = (shard["lm_head.weight"] for shard in weights if "lm_head.weight" in shard)
    assert checkpoint.count(lambda name: name == "lm_head.weight") == heads.numel()
    # Row scales of int8 matrices are no weights of the network.
    save_file(
        {
            "a": torch.ones(4, 3, dtype=torch.int8),
            "a_scale": torch.ones(4),
            "b_scale": torch.ones(5),
        },
        tiny / "model.safetensors",
    )
    (tiny / "model.safetensors.index.json").unlink()
    assert Checkpoint(tiny).count() == 12 + 5


# --- checkpoints that are none ------------------------------------------------------------------


def edit(name: str, content: str | None) -> Callable[[Path], object]:
    """A checkpoint in which a file says something else, or is not there."""

    def change(directory: Path) -> None:
        if content is None:
            (directory / name).unlink()
        else:
            (directory / name).write_text(content)

    return change


def pickled(directory: Path) -> None:
    for shard in directory.glob("*.safetensors*"):
        shard.unlink()
    torch.save({}, directory / "pytorch_model.bin")


def cut_short(directory: Path) -> None:
    os.truncate(directory / SHARD, (directory / SHARD).stat().st_size - 100)


INDEX = "model.safetensors.index.json"


@pytest.mark.parametrize(
    ("change", "code", "told"),
    [
        (shutil.rmtree, 69, "tiny: no such model directory"),
        (edit("config.json", None), 78, "tiny: no model checkpoint (config.json is missing)"),
        (edit("config.json", "{,"), 78, "tiny/config.json: "),
        (edit("config.json", "[]"), 78, "tiny/config.json: a JSON object is expected"),
        (edit("config.json", "\0\udcff".encode("utf-8", "ignore").decode()), 78, "config.json: "),
        (edit("config.json", "{}"), 78, "it names no architecture"),
        (edit("config.json", '{"architectures": ["BertModel"]}'), 78, "BertModel"),
        (edit("generation_config.json", None), 78, "generation_config.json is missing"),
        (edit("qwen.tiktoken", None), 78, "qwen.tiktoken"),
        (edit("qwen.tiktoken", "no ranks"), 78, "qwen.tiktoken"),
        (edit(SHARD, None), 78, f"tiny: missing {SHARD}"),
        (edit(SHARD, "no tensors"), 78, f"tiny/{SHARD}: "),
        (cut_short, 78, f"tiny/{SHARD}: "),
        (pickled, 78, "only pickled weights, which are never loaded"),
        (edit(INDEX, "{,"), 78, f"tiny/{INDEX}: "),
        (edit(INDEX, "{}"), 78, f"tiny/{INDEX}: does not name the weights' files"),
        (edit(INDEX, '{"weight_map": {"a": "../a"}}'), 78, f"{INDEX}: ../a is no file beside it"),
    ],
)
def test_a_broken_checkpoint_is_told_in_a_line(
    change: Callable[[Path], object], code: int, told: str, tiny: Path, qwa: Command
) -> None:
    change(tiny)
    returned, shown, lines = qwa("transcribe", WAV, "--model", tiny)
    assert (returned, shown, len(lines)) == (code, "", 1)
    assert told in lines[0]


@pytest.mark.parametrize(
    ("name", "code", "told"),
    [
        ("whisper-bse", 2, "unknown model 'whisper-bse': did you mean whisper-base or "),
        ("~nobody-here/x/", 69, "~nobody-here/x: no such model directory"),
        ("qwen2-audio-instuct", 2, "did you mean qwen2-audio-instruct or "),
        ("zzz", 2, "did you mean whisper-base or mini or whisper-tiny or "),
        ("some/model/deeper", 69, "some/model/deeper: no such model directory"),
        ("/dev/null", 69, "/dev/null: no such model directory"),
        ("~nobody/x", 69, "no such model directory"),
        ("a" * 300 + "/", 69, "cannot be read: File name too long"),
        ("some/model", 69, "'qwa models pull some/model' fetches it"),
    ],
)
def test_a_name_that_is_no_model_is_told_in_a_line(
    name: str, code: int, told: str, qwa: Command
) -> None:
    returned, shown, lines = qwa("transcribe", WAV, "--model", name)
    assert (returned, shown, len(lines)) == (code, "", 1), lines
    assert told in lines[0]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read(tiny: Path, qwa: Command) -> None:
    for path in (tiny / "config.json", tiny):
        path.chmod(0)
        code, _, lines = qwa("transcribe", WAV, "--model", tiny)
        path.chmod(0o700)
        assert code == Exit.UNAVAILABLE
        assert "cannot be read: Permission denied" in lines[0]


# --- the aligner --------------------------------------------------------------------------------


@pytest.mark.parametrize("line", ["transcribe", "timestamp --words"])
def test_an_aligner_for_nothing_is_refused(line: str, qwa: Command) -> None:
    code, shown, lines = qwa(*line.split(), WAV, "--aligner", "qwen3-forced-aligner")
    assert (code, shown) == (Exit.USAGE, "")
    assert lines == [
        "qwa: --aligner is for the times of words by Qwen3-ASR: whisper-base has no use for it here"
    ]


@pytest.fixture(scope="module")
def asr(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A Qwen3-ASR and a forced aligner."""
    folder = tmp_path_factory.mktemp("asr")
    directories = (
        tiny_transformers.qwen3_asr_original(folder / "qwen3-asr"),
        tiny_transformers.qwen3_aligner_original(folder / "aligner"),
    )
    for directory in directories:
        tiny_tokenizers.write(directory, tiny_tokenizers.ADDED_3, whole=False)
    return directories


def test_the_aligner_is_opened_for_the_times_of_words_alone(
    asr: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that is named, or the one that is here; a model that was loaded without gets it."""
    model, aligner = asr
    named = Qwa(model=str(model), device="cpu", aligner=str(aligner))
    named.prepare("transcribe", Options(timestamps=True))
    with pytest.raises(UsageError, match="has no use for it"):
        named.prepare("transcribe", Options())
    unnamed = Qwa(model=str(model), device="cpu")
    with pytest.raises(ModelError, match="'qwa models pull qwen3-forced-aligner' fetches it"):
        unnamed.prepare("transcribe", Options(timestamps=True))
    list(unnamed.prepare("transcribe", Options())(iter(())))
    (loaded,) = unnamed.families.values()
    assert loaded.colleague is None
    found = {CARDS[ALIGNER].source: aligner}
    monkeypatch.setattr("qwen_audio_cli.hub.find", lambda name, revision=None: found.get(name))
    list(unnamed.prepare("transcribe", Options(timestamps=True))(iter(())))
    (loaded,) = unnamed.families.values()
    assert loaded.colleague is not None
    assert loaded.colleague.label.startswith(f"{ALIGNER}@")
    wrong = Qwa(model=str(model), device="cpu", aligner="whisper-base")
    with pytest.raises(UsageError, match=r"whisper-base@[0-9a-f]+ is no forced aligner"):
        wrong.prepare("transcribe", Options(timestamps=True))


# --- memory -------------------------------------------------------------------------------------


def test_a_model_that_has_no_room_is_refused_before_it_is_read(tiny: Path, qwa: Command) -> None:
    """A terabyte of weights, most of it a hole in a file: reading it would take hours."""
    size = 10**12
    header = {"large": {"dtype": "BF16", "shape": [size // 2], "data_offsets": [0, size]}}
    text = json.dumps(header).encode()
    with (tiny / SHARD).open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + size)
    code, shown, lines = qwa("transcribe", WAV, "--model", tiny, "--dtype", "float32")
    assert (code, shown, len(lines)) == (Exit.UNAVAILABLE, "", 1)
    needed = re.search(
        r"needs ([\d,.]+) GB of memory in float32, 'cpu' has [\d,.]+ GB free; "
        r"--dtype bfloat16 takes half",
        lines[0],
    )
    assert needed and float(needed[1].replace(",", "")) == pytest.approx(LOADING * 2000, rel=1e-3)


def test_room_for_a_model(monkeypatch: pytest.MonkeyPatch, qwa: Command) -> None:
    monkeypatch.setattr(host_memory, "free_bytes", lambda: round(LOADING * 2e9))
    require_memory("fits", 1_000_000_000, torch.bfloat16, CPU, None)
    with pytest.raises(ModelError, match="larger needs"):
        require_memory("larger", 1_000_000_001, torch.bfloat16, CPU, None)
    with pytest.raises(ModelError, match="bfloat16 takes half"):
        require_memory("fits", 1_000_000_000, torch.float32, CPU, None)
    # One that is not here is not fetched for a machine that has no room for it.
    monkeypatch.setattr("qwen_audio_cli.hub.is_offline", lambda: False)
    options = ("--model", "qwen-audio", "--dtype", "bfloat16")
    code, _, lines = qwa("transcribe", WAV, *options, "--device", "cpu")
    assert code == Exit.UNAVAILABLE
    assert lines == ["qwa: qwen-audio needs 18.5 GB of memory in bfloat16, 'cpu' has 2.2 GB free"]


def test_python_takes_what_the_command_line_takes(tiny: Path) -> None:
    with pytest.raises(ModelError, match="'qwa models pull some/model --revision v1' fetches it"):
        Qwa(model="some/model", revision="v1", offline=True).transcribe([WAV])
