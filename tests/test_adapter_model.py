"""Adapters as users name them: what they are called, where their base is, and which are none."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_checkpoints
import torch
from conftest import EXAMPLES
from hub_server import Repository, running
from safetensors.torch import load_file
from tiny_adapters import CONFIG, PREFIX, WEIGHTS, by_hand, edit, ours, rename, rewrite
from torch import Tensor

from qwen_audio_cli.cli.app import run
from qwen_audio_cli.cli.console import LOG
from qwen_audio_cli.errors import ModelError
from qwen_audio_cli.families.checkpoint import Checkpoint
from qwen_audio_cli.models import Wanted, open_model

WAV = EXAMPLES / "en-one-participant.wav"


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoints.qwen_audio(tmp_path_factory.mktemp("native") / "base")


# --- names --------------------------------------------------------------------------------------


def test_a_record_tells_adapters_apart(native: Path, tmp_path: Path) -> None:
    """By their bytes: the weights or the scale may differ."""
    names = set()
    one = by_hand(native, tmp_path / "tuned")
    names.add(open_model(Wanted(str(one))).label)
    names.add(open_model(Wanted(str(edit(one, lora_alpha=9)))).label)
    rewrite(one, lambda weights: {name: weight + 1e-3 for name, weight in weights.items()})
    names.add(open_model(Wanted(str(one))).label)
    assert len(names) == 3
    shutil.copytree(one, tmp_path / "again" / "tuned")
    names.add(open_model(Wanted(str(tmp_path / "again" / "tuned"))).label)
    assert len(names) == 3
    commit = "0123456789abcdef" * 2
    of_hub = tmp_path / "models--org--tuned" / "snapshots" / commit
    shutil.copytree(one, of_hub)
    label = open_model(Wanted(str(of_hub))).label
    assert label == f"org/tuned@{commit[:12]}+base@{Checkpoint(native).revision}"


def test_a_base_may_be_told_from_the_adapter(native: Path, tmp_path: Path) -> None:
    """A directory beside it, an alias, a name on the hub with a revision, `~`."""
    shutil.copytree(native, tmp_path / "models" / "base")
    tuned = by_hand(native, tmp_path / "models" / "tuned")
    edit(tuned, base_model_name_or_path="../base", revision="of no matter")
    assert "+base@" in open_model(Wanted(str(tuned))).label
    edit(tuned, base_model_name_or_path="whisper-base", revision=None)
    assert open_model(Wanted(str(tuned))).name == "whisper"
    edit(tuned, base_model_name_or_path="some/audio", revision="v2")
    with pytest.raises(ModelError, match="'qwa models pull some/audio --revision v2' fetches it"):
        open_model(Wanted(str(tuned)))


def test_an_adapter_of_the_hub(native: Path, tmp_path: Path) -> None:
    """Its two files are fetched, and the model that it changes; both run offline then."""
    tuned = edit(by_hand(native, tmp_path / "tuned"), base_model_name_or_path="org/base")
    for name in (
        "README.md",
        "tokenizer.json",
        "training_args.bin",
        "model.safetensors.index.json",
    ):
        (tuned / name).write_text("{}")
    with running() as hub:
        commits = {}
        for name, directory in (("org/tuned", tuned), ("org/base", native)):
            hub.repositories[name] = Repository()
            commits[name] = hub.repositories[name].add(directory)[:12]
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("QWA_", "HF_"))}
        environment = kept | {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "hf")}

        def qwa(*arguments: str) -> str:
            done = subprocess.run(
                [sys.executable, "-m", "qwen_audio_cli", *arguments, "-q"],
                capture_output=True, text=True, env=environment, cwd=WAV.parent.parent,
            )  # fmt: skip
            assert (done.returncode, done.stderr) == (0, "")
            return done.stdout.rstrip("\n")

        directory = Path(qwa("models", "pull", "org/tuned"))
        assert {path.name for path in directory.iterdir()} == {CONFIG, WEIGHTS}
        asked = len(hub.requests)
        options = ("--no-vad", "--max-tokens", "2")
        model = f"org/tuned@{commits['org/tuned']}+org/base@{commits['org/base']}"
        for name in ("org/tuned", str(directory)):
            record = json.loads(qwa("transcribe", str(WAV), "--model", name, *options))
            assert record["model"] == model
        assert len(hub.requests) == asked
        assert Path(qwa("models", "pull", "org/tuned")) == directory
        shutil.copytree(edit(tuned, lora_alpha=1), tmp_path / "newer")
        hub.repositories["org/tuned"].add(tmp_path / "newer")
        assert Path(qwa("models", "pull", "org/tuned")) != directory


def test_memory_is_that_of_the_base(native: Path, tmp_path: Path) -> None:
    tuned = open_model(Wanted(str(by_hand(native, tmp_path / "tuned"))))
    assert tuned.parameters == open_model(Wanted(str(native))).parameters


# --- adapters that are none ---------------------------------------------------------------------


@pytest.fixture
def tuned(native: Path, tmp_path: Path) -> Path:
    return by_hand(native, tmp_path / "tuned")


@pytest.fixture
def refusal(
    tuned: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], tuple[int, str]]]:
    """What the command line says of `tuned`: the exit code, and one line."""
    for name in ("QWA_MODEL", "QWA_DEVICE"):
        monkeypatch.delenv(name, raising=False)
    handlers, level = LOG.handlers[:], LOG.level

    def refused() -> tuple[int, str]:
        options = ["--model", os.fspath(tuned), "--device", "cpu", "--no-vad"]
        code = run(["transcribe", os.fspath(WAV), *options])
        shown, told = capfd.readouterr()
        assert shown == "" and told.count("\n") == 1, told
        return code, told.rstrip("\n")

    yield refused
    LOG.handlers[:] = handlers
    LOG.setLevel(level)


def says(**changes: Any) -> Callable[[Path], object]:
    return lambda directory: edit(directory, **changes)


def holds(change: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], object]:
    def damage(directory: Path) -> None:
        def changed(weights: dict[str, Tensor]) -> dict[str, Tensor]:
            change(weights)
            return weights

        rewrite(directory, changed)

    return damage


def cut_short(directory: Path) -> None:
    path = directory / WEIGHTS
    os.truncate(path, path.stat().st_size - 100)


def pickled(directory: Path) -> None:
    torch.save(load_file(directory / WEIGHTS), directory / "adapter_model.bin")
    (directory / WEIGHTS).unlink()


def of_itself(directory: Path) -> None:
    edit(directory, base_model_name_or_path=".")


DECODERS = ("decoder", "transformer")
"""What the decoder is called here, and in the published checkpoints."""

C_ATTN = f"{PREFIX}transformer.h.0.attn.c_attn"
A, B = f"{C_ATTN}.lora_A.weight", f"{C_ATTN}.lora_B.weight"


@pytest.mark.parametrize(
    ("damage", "code", "told"),
    [
        # Another kind of adapter.
        (says(peft_type="LOKR"), 78, f"{CONFIG}: LOKR is no LoRA (peft_type)"),
        (says(peft_type=None), 78, "an unknown kind is no LoRA"),
        (says(use_dora=True), 78, f"{CONFIG}: use_dora is not supported"),
        (says(layer_replication=[[0, 1]]), 78, "layer_replication is not supported"),
        (says(target_parameters=["experts.down_proj"]), 78, "target_parameters is not supported"),
        (says(trainable_token_indices=[7]), 78, "trainable_token_indices is not supported"),
        (says(lora_bias=True), 78, "lora_bias is not supported"),
        (says(of_the_future=1), 78, "of_the_future is not supported"),
        (says(bias="all"), 78, "trained biases are not supported (bias: all)"),
        (says(init_lora_weights="pissa_niter_4"), 78, "init_lora_weights 'pissa_niter_4' may have"),
        (holds(lambda w: w.update({A: torch.ones(4, 64, 3, 3)})), 78, "is no LoRA of a linear"),
        (
            holds(lambda w: w.update({f"{C_ATTN}.lora_magnitude_vector": torch.ones(9)})),
            78,
            "lora_magnitude_vector is no LoRA of a linear layer",
        ),
        (
            holds(lambda w: w.update({f"{C_ATTN}.lora_embedding_A": torch.ones(4, 9)})),
            78,
            "lora_embedding_A is no LoRA of a linear layer",
        ),
        # Settings that do not make sense.
        (says(r=0), 78, f"{CONFIG}: r of lm_head is no positive number"),
        (says(lora_alpha="16"), 78, "lora_alpha of lm_head is no positive number"),
        (says(rank_pattern=["attn"]), 78, "rank_pattern: "),
        (says(rank_pattern={"c_(": 4}), 78, "rank_pattern: "),
        (says(alpha_pattern={"c_attn": None}), 78, "lora_alpha of transformer.h.0.attn.c_attn is"),
        (says(r=8), 78, "are not of rank 8, as adapter_config.json says"),
        (says(rank_pattern={"w1": 2}), 78, "h.1.mlp.w1.lora_A.weight [4, 64] and "),
        # Tensors that fit nothing.
        (holds(lambda w: w.pop(B)), 78, "transformer.h.0.attn.c_attn.weight has no lora_B"),
        (holds(lambda w: w.update({B: torch.ones(192, 3)})), 78, "[192, 3] are not of rank 4"),
        (holds(dict.clear), 78, f"{WEIGHTS}: no tensors"),
        (
            holds(lambda w: w.update({f"{C_ATTN}.lora_A.default.weight": w[A].clone()})),
            78,
            "is there twice, as",
        ),
        (
            holds(lambda w: w.update({f"{PREFIX}{ours('lm_head')}.weight": torch.ones(3, 64)})),
            78,
            "decoder.lm_head.weight is for a weight of shape [3, 64], its base model's is [",
        ),
        (
            holds(lambda w: w.update({f"{PREFIX}transformer.visual.weight": torch.ones(3)})),
            78,
            "transformer.visual.weight fits no weight of its base model",
        ),
        (
            holds(
                lambda w: w.update(
                    {f"{PREFIX}{name}.h.0.ln_1.weight": torch.ones(64) for name in DECODERS}
                )
            ),
            78,
            "h.0.ln_1.weight is there twice",
        ),
        (
            lambda d: rename(d, ("transformer.h", "model.layers")),
            78,
            "model.layers.0.attn.c_attn.weight fits no weight of its base model",
        ),
        (says(base_model_name_or_path="whisper-base"), 78, "fits no weight of its base model"),
        # Files.
        (lambda d: (d / CONFIG).write_text("{,"), 78, f"{CONFIG}: "),
        (lambda d: (d / CONFIG).write_text("[]"), 78, "a JSON object is expected"),
        (lambda d: (d / WEIGHTS).unlink(), 78, f"tuned: no weights; {WEIGHTS} is needed"),
        (pickled, 78, "tuned: only pickled weights, which are never loaded"),
        (cut_short, 78, f"{WEIGHTS}: "),
        # The base.
        (says(base_model_name_or_path=None), 78, f"{CONFIG}: names no base model"),
        (says(revision=3), 78, "names no base model (base_model_name_or_path, revision)"),
        (of_itself, 78, "tuned: its base model, "),
        (says(base_model_name_or_path="qwen2-audoi"), 78, "its base model: unknown model 'qwen2-"),
        (says(base_model_name_or_path="qwen2-audio"), 69, "'qwa models pull qwen2-audio' fetches"),
        (says(base_model_name_or_path="org/n", revision="v1"), 69, "pull org/n --revision v1'"),
        (says(base_model_name_or_path="/models/gone"), 69, "base_model_name_or_path)"),
        (says(base_model_name_or_path="../a/b/gone"), 69, "../a/b/gone, is not on this machine"),
    ],
)  # fmt: skip
def test_what_is_no_such_adapter_is_told_in_a_line(
    damage: Callable[[Path], object],
    code: int,
    told: str,
    tuned: Path,
    refusal: Callable[[], tuple[int, str]],
) -> None:
    damage(tuned)
    returned, line = refusal()
    assert (returned, told in line) == (code, True), line


def test_peft_is_not_needed(tuned: Path) -> None:
    """A run of a tuned model imports nothing of it."""
    program = (
        "import sys; sys.modules['peft'] = None\n"
        "from qwen_audio_cli import Qwa\n"
        f"run = Qwa(model={os.fspath(tuned)!r}, device='cpu')\n"
        f"print(next(run.transcribe([{os.fspath(WAV)!r}], max_tokens=2, vad=False)).model)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=WAV.parent.parent
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("tuned@")
