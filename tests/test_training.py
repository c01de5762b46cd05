"""Training against transformers' own loss and gradients, and the loop around it."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import EXAMPLES, recording
from lessons import FAMILIES, SPOKEN, TRANSFORMERS, checkpoint, item, items, opened, training
from qwen_audio_reference import Reference as QwenAudioReference
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers_reference import Reference

from qwen_audio_cli import Qwa
from qwen_audio_cli.errors import InputError, ModelError, UsageError
from qwen_audio_cli.families.base import Lesson, Subject, Teachable
from qwen_audio_cli.training import loop
from qwen_audio_cli.training.manifest import Item
from qwen_audio_cli.training.recipe import Recipe
from qwen_audio_cli.training.step import answer_losses

CLIPS = {"en-one-participant": "one other", "fr-one-participant": "c'est un seul 你好"}
ADAPTER = "adapter_model.safetensors"
SHORT = Recipe(steps=6, rank=2, rows=200, rate=1e-2, evaluate_every=2)


def lessons(family: Teachable) -> tuple[list[Lesson], list[Any]]:
    """A lesson of each clip, and its audio."""
    found, contexts = [], []
    for name, target in CLIPS.items():
        samples = recording(name)
        subject = Subject((len(samples) / 16_000,))
        found.append(family.lesson(item(name, target).job(), subject, target))
        features = family.features(samples)
        memory = family.model.encode(features[None], [features.shape[1]])
        contexts.append(family.model.open(memory, False))
    return found, contexts


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_packed_lessons_give_the_librarys_losses_and_gradients_one_by_one(
    name: str, tmp_path: Path
) -> None:
    directory = checkpoint(name, tmp_path)
    family = opened(directory)
    network: Any = family.model.network  # type: ignore[attr-defined]
    network.model.language_model.requires_grad_()
    given, contexts = lessons(family)
    ours = answer_losses(family.model, given, contexts)
    ours.sum().backward()
    reference = Reference(directory)
    for clip, lesson, loss in zip(CLIPS, given, ours.tolist(), strict=True):
        tokens = [*lesson.prompt, *lesson.answer]
        labels = torch.tensor([[-100] * len(lesson.prompt) + lesson.answer])
        mean = reference.network(**reference.inputs(tokens, recording(clip)), labels=labels).loss
        (mean * len(lesson.answer)).backward()
        assert loss / len(lesson.answer) == pytest.approx(mean.item(), abs=1e-5)
    theirs = dict(reference.network.model.language_model.named_parameters())
    heard = 0
    for weight, parameter in network.model.language_model.named_parameters():
        if theirs[weight].grad is None:
            continue
        right = theirs[weight].grad
        close = 1e-5 * max(1.0, right.abs().max().item())
        torch.testing.assert_close(parameter.grad, right, rtol=1e-3, atol=close, msg=weight)
        heard += bool(parameter.grad.abs().max() > 1e-4)
    assert heard > 10


def test_packed_lessons_give_the_losses_of_the_2023_network(tmp_path: Path) -> None:
    directory = checkpoint("qwen_audio", tmp_path)
    family: Any = opened(directory)
    given, contexts = lessons(family)
    ours = answer_losses(family.model, given, contexts)
    special = family.tokenizer.special
    reference = QwenAudioReference(directory, special["<audio>"], special["[[[AUDIO:modality]]]"])
    for clip, lesson, loss in zip(CLIPS, given, ours.tolist(), strict=True):
        scores = reference.scores([*lesson.prompt, *lesson.answer], [recording(clip)])
        behind = scores[len(lesson.prompt) - 1 : -1]
        theirs = cross_entropy(behind, torch.tensor(lesson.answer), reduction="sum")
        assert loss == pytest.approx(theirs.item(), abs=1e-4 * len(lesson.answer))


@pytest.mark.parametrize(
    ("name", "full"),
    [*((name, False) for name in FAMILIES), ("qwen_audio", True), ("qwen2_audio", True)],
)
def test_what_is_saved_is_what_was_trained(name: str, full: bool, tmp_path: Path) -> None:
    directory = checkpoint(name, tmp_path / "base")
    recipe = Recipe(steps=2, rate=1e-2, warmup=0.0, full=full, train_encoder=full)
    run = training(directory, tmp_path / "out", items()[:2], recipe)
    before = given_losses(run.trainee.family)
    run.run(resume=False)
    trained = given_losses(run.trainee.family)
    assert not torch.allclose(before, trained, atol=1e-2)
    torch.testing.assert_close(
        given_losses(opened(tmp_path / "out")), trained, rtol=1e-4, atol=1e-4
    )


def given_losses(family: Teachable) -> Tensor:
    with torch.no_grad():
        return answer_losses(family.model, *lessons(family))


@pytest.mark.parametrize("encoder", [False, True])
def test_the_encoder_learns_only_where_it_is_told_to(tmp_path: Path, encoder: bool) -> None:
    directory = checkpoint("qwen_audio", tmp_path / "base")
    recipe = Recipe(steps=1, rate=1e-2, warmup=0.0, full=True, train_encoder=encoder)
    run = training(directory, tmp_path / "out", items()[:2], recipe)
    before = {n: w.clone() for n, w in run.trainee.anatomy.network.named_parameters()}
    run.run(resume=False)
    after = dict(run.trainee.anatomy.network.named_parameters())
    for name in ("audio.conv1.weight", "audio.blocks.0.attn.query.weight", "audio.proj.weight"):
        assert torch.equal(before[name], after[name]) is not encoder
    assert not torch.equal(before["decoder.h.0.mlp.w1.weight"], after["decoder.h.0.mlp.w1.weight"])


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("name", ["qwen_audio", "qwen2_audio", "qwen3_asr"])
def test_what_was_learned_is_answered(name: str, full: bool, tmp_path: Path) -> None:
    directory = checkpoint(name, tmp_path / "base")
    recipe = Recipe(full=full, steps=60, rate=0.005, rank=32, alpha=256, rows=1000, warmup=0.1)
    targets = {**SPOKEN, "fr-no-connection": "the end", "en-no-connection": "in the room"}
    given = [item(clip, target) for clip, target in targets.items()]
    training(directory, tmp_path / "tuned", given, recipe).run(resume=False)
    tuned = Qwa(model=str(tmp_path / "tuned"), device="cpu", dtype="float32")
    for clip, target in targets.items():
        (record,) = tuned.transcribe(EXAMPLES / f"{clip}.wav", language=clip[:2], vad=False)
        assert getattr(record, "text", record) == target


def test_an_adapter_leaves_its_base_alone_and_begins_as_nothing(tmp_path: Path) -> None:
    directory = checkpoint("qwen_audio", tmp_path / "base")
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    run = training(directory, tmp_path / "out", items(), SHORT)
    network = run.trainee.anatomy.network
    base = {n: w.clone() for n, w in network.named_parameters() if ".lora_" not in n}
    given, contexts = lessons(run.trainee.family)
    untrained = answer_losses(run.trainee.family.model, given, contexts)
    assert torch.equal(untrained, answer_losses(opened(directory).model, given, contexts))
    run.run(resume=False)
    for name, weight in network.named_parameters():
        assert ".lora_" in name or torch.equal(weight, base[name])
    assert before == {path.name: path.read_bytes() for path in directory.iterdir()}
    assert not torch.equal(untrained, answer_losses(run.trainee.family.model, given, contexts))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint("qwen2_audio", tmp_path_factory.mktemp("base"))


def files(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in output.iterdir()}


def metrics(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("recipe", [SHORT, Recipe(steps=6, full=True, rows=200, evaluate_every=4)])
def test_a_run_that_was_interrupted_ends_as_one_that_was_not(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: Recipe
) -> None:
    monkeypatch.setattr(loop, "BETWEEN", -1.0)
    recipe = Recipe(**{**recipe.values(), "augment": True, "accumulate": 2, "dropout": 0.3})
    whole = training(base, tmp_path / "whole", items(), recipe).run(resume=False)

    def interrupt(line: str) -> None:
        if line.startswith("step 3 of 6"):
            signal.raise_signal(signal.SIGINT)

    broken = training(base, tmp_path / "broken", items(), recipe, tell=interrupt)
    with pytest.raises(KeyboardInterrupt):
        broken.run(resume=False)
    assert broken.state.step == 3
    (tmp_path / "broken").rename(tmp_path / "kept")
    resumed = training(base, tmp_path / "broken", items(), recipe)
    for path in (tmp_path / "kept").iterdir():
        path.rename(tmp_path / "broken" / path.name)
    again = resumed.run(resume=True)
    assert files(tmp_path / "broken") == files(tmp_path / "whole")
    assert again.loss == whole.loss
    steps = [line["step"] for line in metrics(tmp_path / "whole")]
    assert sorted(set(steps)) == list(range(7))


def test_the_number_of_threads_changes_nothing(base: Path, tmp_path: Path) -> None:
    recipe = Recipe(**{**SHORT.values(), "augment": True})
    for workers in (1, 5):
        training(base, tmp_path / str(workers), items(), recipe, workers=workers).run(resume=False)
    assert files(tmp_path / "1") == files(tmp_path / "5")


def test_another_seed_gives_other_weights(base: Path, tmp_path: Path) -> None:
    found: list[dict[str, Tensor]] = []
    for seed in (0, 1):
        recipe = Recipe(**{**SHORT.values(), "seed": seed})
        training(base, tmp_path / str(seed), items(), recipe).run(resume=False)
        found.append(load_file(tmp_path / str(seed) / ADAPTER))
    first, second = found
    assert first.keys() == second.keys()
    assert not any(torch.equal(first[name], second[name]) for name in first)


def test_only_the_same_run_is_gone_on_with(base: Path, tmp_path: Path) -> None:
    training(base, tmp_path / "out", items(), SHORT).run(resume=False)
    (tmp_path / "out").rename(tmp_path / "done")
    other = training(base, tmp_path / "out", items(), Recipe(**{**SHORT.values(), "rate": 1e-3}))
    with pytest.raises(UsageError, match="no run to go on with"):
        other.run(resume=True)
    (tmp_path / "done" / "resume.state").rename(tmp_path / "out" / "resume.state")
    with pytest.raises(UsageError, match=r"its rate is 0\.01, not 0\.001"):
        other.run(resume=True)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft asks
def test_the_weights_kept_are_those_of_the_best_step(base: Path, tmp_path: Path) -> None:
    recipe = Recipe(steps=8, rank=4, rate=0.5, evaluate_every=1, warmup=0.5)
    given = [*items()[:2], item("fr-one-participant", "un seul", split="dev")]
    summary = training(base, tmp_path / "out", given, recipe).run(resume=False)
    losses = {
        line["step"]: line["dev_loss"]
        for line in metrics(tmp_path / "out")
        if "dev" in line and line["step"]
    }
    assert summary.dev_loss == min(losses.values()) == losses[summary.dev_step or 0]
    assert summary.dev_step != 8
    tuned = opened_adapter(base, tmp_path / "out")
    assert tuned == pytest.approx(summary.dev_loss, abs=1e-4)


def opened_adapter(base: Path, output: Path) -> float:
    """The loss of the French clip with an adapter that peft itself puts onto the network."""
    from peft import PeftModel

    family: Any = opened(base)
    PeftModel.from_pretrained(family.model.network, output)
    samples = recording("fr-one-participant")
    job = item("fr-one-participant", "un seul").job()
    lesson = family.lesson(job, Subject((len(samples) / 16_000,)), "un seul")
    features = family.features(samples)
    context = family.model.open(family.model.encode(features[None], [features.shape[1]]), False)
    (loss,) = answer_losses(family.model, [lesson], [context])
    return float(loss) / len(lesson.answer)


def test_a_clip_that_is_too_long_is_refused_by_name(base: Path, tmp_path: Path) -> None:
    import soundfile

    long = tmp_path / "long.wav"
    soundfile.write(long, torch.zeros(31 * 16_000).numpy(), 16_000)
    given = Item(audio=long, target="in", task="asr", language="en")
    with pytest.raises(UsageError, match=r"long\.wav: qwen2-audio hears 30 s .* 31\.00 s"):
        training(base, tmp_path / "out", [given], SHORT)


def test_a_recording_that_is_no_number_is_refused_by_name(base: Path, tmp_path: Path) -> None:
    import soundfile

    bad = tmp_path / "bad.wav"
    samples = torch.zeros(16_000)
    samples[8_000] = torch.nan
    soundfile.write(bad, samples.numpy(), 16_000, subtype="FLOAT")
    given = Item(audio=bad, target="in", task="asr", language="en")
    run = training(base, tmp_path / "out", [given], SHORT)
    with pytest.raises(InputError, match=r"bad\.wav: has a sample of nan at 0\.5 s"):
        run.run(resume=False)


def test_a_loss_that_is_no_number_ends_the_run(base: Path, tmp_path: Path) -> None:
    run = training(base, tmp_path / "out", items()[:2], SHORT)
    next(iter(run.trainee.weights.values())).data.fill_(torch.nan)
    with pytest.raises(ModelError, match="step 1: the loss is nan"):
        run.run(resume=False)


def test_models_and_tasks_that_are_not_trained_are_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="whisper is not trained"):
        training(Path("whisper-base"), tmp_path / "a", items(), SHORT)
    song = item("en-one-participant", "in", task="note", language=None)
    with pytest.raises(UsageError, match=r"one-participant\.wav: qwen2-audio cannot do note"):
        training(base, tmp_path / "b", [song], SHORT)
    unknown = item("en-one-participant", "in", language=None)
    with pytest.raises(UsageError, match=r"one-participant\.wav: .* whose language is named"):
        training(base, tmp_path / "c", [unknown], SHORT)
    with pytest.raises(UsageError, match="stored in several parts: it takes no --full"):
        training(checkpoint("mini", tmp_path / "m"), tmp_path / "e", items(), Recipe(full=True))
    with pytest.raises(UsageError, match="no items to train on"):
        training(base, tmp_path / "d", items()[2:], SHORT)


def test_the_curve_is_a_picture_of_all_losses(base: Path, tmp_path: Path) -> None:
    import xml.etree.ElementTree as xml

    training(base, tmp_path / "out", items(), SHORT).run(resume=False)
    root = xml.parse(tmp_path / "out" / "curve.svg").getroot()
    lines = root.findall("{http://www.w3.org/2000/svg}polyline")
    assert [len((line.get("points") or "").split()) for line in lines] == [4, 6]
