"""Mini is trained: what it hears once is what it hears, spelling and answers are learned, saved."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import recording
from lessons import SPOKEN, item
from safetensors.torch import load_file
from torch import Tensor

from qwen_audio_cli import Qwa
from qwen_audio_cli.audio import SAMPLE_RATE
from qwen_audio_cli.errors import UsageError
from qwen_audio_cli.exits import Exit
from qwen_audio_cli.families.base import Lesson, Subject
from qwen_audio_cli.families.mini import Mini
from qwen_audio_cli.training.batches import Example, Lessons, heard
from qwen_audio_cli.training.loop import Training
from qwen_audio_cli.training.manifest import Item, write
from qwen_audio_cli.training.mini.__main__ import main
from qwen_audio_cli.training.mini.compare import compare
from qwen_audio_cli.training.mini.learner import FrozenEar, MiniLearner
from qwen_audio_cli.training.mini.prompting import Flat, Untagged
from qwen_audio_cli.training.mini.recipe import MiniRecipe
from qwen_audio_cli.training.mini.tag_results import table
from qwen_audio_cli.training.mini.train import load, prepare
from qwen_audio_cli.training.retake import retaken
from qwen_audio_cli.training.step import answer_losses

pytest.importorskip("gguf", reason="gguf, of the extra 'train', is not installed")
import tiny_mini
from tiny_mini import Built

HEARD = ("audio.norm.", "audio.proj.", "audio.summary.", "ctc.")
ANSWERED = ("audio.proj.", "audio.audio_bos_eos_token.", "wte.tags.")
FROZEN = ("base-layers.safetensors", "base-embedding.safetensors", "tokenizer.json")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return tiny_mini.tiny(tmp_path_factory.mktemp("tiny"))


def said(name: str, text: str, **values: Any) -> Item:
    """A recording whose words are known."""
    words = tuple((word, 0.1 * n, 0.1 * n + 0.1) for n, word in enumerate(text.split()))
    return item(name, text, words=words, **values)


def corpus(folder: Path, items: list[Item]) -> Path:
    """A directory of one corpus."""
    (folder / "data" / "speech").mkdir(parents=True)
    write(items, folder / "data" / "speech" / "manifest.jsonl")
    return folder / "data"


def trained(
    base: Path, output: Path, data: Path, recipe: MiniRecipe, family: type[Mini] = Mini
) -> Training[MiniLearner]:
    learner = load(base, recipe, device="cpu", dtype="float32", family_type=family)
    run = prepare(learner, [data], output, workers=1, tell=lambda line: None)
    run.run(resume=False)
    return run


def example(family: Mini, given: Item, features: Tensor) -> Example:
    subject = Subject((len(recording(given.audio.stem)) / 16_000,))
    lesson = family.lesson(given.job(), subject, given.target)
    return Example(given, features, subject, lesson)


def drafted(family: Mini, given: Item, memory: object) -> Lesson:
    """The lesson with a draft of what is said in the clip."""
    return heard(family, example(family, given, torch.empty(0)), memory)


def test_the_frozen_ear_hears_what_the_network_hears(tiny: Built) -> None:
    family = tiny.plain()
    learner = MiniLearner(family, MiniRecipe(rank=2), torch.float32, tiny.directory)
    examples, lessons, memories = [], [], []
    for name, text in SPOKEN.items():
        samples, given = recording(name), item(name, text)
        examples.append(example(family, given, learner.ear.features(samples)))
        mel = family.features(samples)
        (memory,) = family.model.encode(mel[None], [mel.shape[1]])
        memories.append(memory.rows)
        lessons.append(drafted(family, given, memory))
    whole = answer_losses(family.model, lessons, memories)
    torch.testing.assert_close(learner.losses(examples), whole, rtol=1e-4, atol=1e-4)
    bare = answer_losses(family.model, [one.lesson for one in examples], memories)
    assert (bare - whole).abs().min() > 0.01  # the draft is read


def test_a_recording_is_heard_once(tiny: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    family = tiny.plain()
    times = []
    encoded = family.model.audio.encoded
    monkeypatch.setattr(
        family.model.audio, "encoded", lambda *given: times.append(1) or encoded(*given)
    )
    ear = FrozenEar(family, {})
    samples = recording("en-one-participant")
    assert torch.equal(ear.features(samples), ear.features(samples.copy()))
    ear.features(samples[:32_000])
    assert len(times) == 2


def test_each_epoch_hears_another_take_of_speech(tiny: Built) -> None:
    recipe = MiniRecipe(hearing=True, takes=2)
    learner = MiniLearner(tiny.plain(), recipe, torch.float32, tiny.directory)
    samples = recording("en-one-participant")
    spoken = said("en-one-participant", "one other")
    takes = [learner.retaken(spoken, samples, epoch).tobytes() for epoch in range(6)]
    assert takes[:3] == takes[3:]
    assert {*takes} == {retaken(samples, take).tobytes() for take in range(3)}
    other = recording("en-no-connection")
    begins = [learner.retaken(spoken, clip, 0) is clip for clip in (samples, other)]
    assert begins == [False, True]  # an epoch is not of one take
    note = replace(spoken, task="pitch", target="60")
    assert all(learner.retaken(note, samples, epoch) is samples for epoch in range(6))
    long = np.tile(samples, 1 + 27 * SAMPLE_RATE // len(samples))
    # Slower, it would be longer than the window.
    assert all(learner.retaken(spoken, long, epoch) is long for epoch in range(6))


def test_a_summary_is_taught_by_all_takes(tiny: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = MiniRecipe(hearing=True, takes=2)
    learner = MiniLearner(tiny.plain(), recipe, torch.float32, tiny.directory)
    taught: list[Item] = []
    monkeypatch.setattr(
        "qwen_audio_cli.training.mini.learner.teach",
        lambda family, heard: taught.extend(item for item, _ in heard),
    )
    spoken = said("en-one-participant", "one other")
    labels = {"gender": "male", "language": "en", "pitch": "60"}
    items = [replace(spoken, task=task, target=own) for task, own in labels.items()]
    assert learner.begin(items) == {
        "gender": ["male"],
        "language": ["en", "unknown"],
        "pitch": ["60"],
    }
    counts = {task: sum(item.task == task for item in taught) for task in labels}
    assert counts == {"gender": 3, "language": 3, "pitch": 1}


def test_portions_are_how_often_an_epoch_hears_an_item(tiny: Built) -> None:
    tasks = {"asr": 1.0, "gender": 0.0, "language": 2.5}
    items = [
        item("en-one-participant", {"asr": "one", "gender": "male", "language": "en"}[task])
        if task == "asr"
        else Item(
            audio=item("en-one-participant", "x").audio,
            target={"gender": "male", "language": "en"}[task],
            task=task,
        )
        for task in tasks
        for _ in range(20)
    ]
    lessons = Lessons(FrozenEar(tiny.plain(), {}), items, 0, portions=tasks)
    heard = [place for batch in lessons.plan(2000, 3) for place in batch]
    counts = {task: sum(items[place].task == task for place in heard) for task in tasks}
    assert counts["asr"] == 20
    assert counts["gender"] == 0
    assert 40 < counts["language"] < 60
    assert {heard.count(p) for p in heard if items[p].task == "language"} == {2, 3}


def test_only_without_sorting_a_batch_has_items_of_several_lengths(tiny: Built) -> None:
    one, other = SPOKEN.items()
    items = [item(*one), item(*other)] * 20
    lessons = Lessons(FrozenEar(tiny.plain(), {}), items, 0)
    budget = 4 * lessons.rows // 40

    def alike(bucket: int) -> int:
        batches = lessons.plan(budget, 0, bucket)
        assert sorted(place for batch in batches for place in batch) == list(range(40))
        return sum(len({items[place].target for place in batch}) == 1 for batch in batches)

    assert alike(64) >= 8
    assert alike(1) <= 5


@pytest.fixture(scope="module")
def taught(tiny: Built, tmp_path_factory: pytest.TempPathFactory) -> Training[MiniLearner]:
    """To hear first, then the answers, as mini is trained."""
    folder = tmp_path_factory.mktemp("taught")
    items = [said(name, text) for name, text in SPOKEN.items()]
    items += [item(name, name[:2], task="language", language=None) for name in SPOKEN]
    dev = [replace(one, split="dev") for one in items[:1]]
    data = corpus(folder, items + dev)
    hear = MiniRecipe(hearing=True, steps=60, rate=3e-3, warmup=0.1, rows=2000)
    trained(tiny.directory, folder / "hears", data, hear)
    answer = MiniRecipe(steps=60, rate=5e-3, rank=16, alpha=64, rows=2000, warmup=0.1)
    return trained(folder / "hears", folder / "mini", data, answer)


def test_what_was_taught_is_answered_and_spelled(taught: Training[MiniLearner]) -> None:
    qwa = Qwa(model=str(taught.output), device="cpu", dtype="float32")
    for name, text in SPOKEN.items():
        (record,) = qwa.transcribe(
            item(name, text).audio, language=name[:2], vad=False, timestamps=True
        )
        assert record.text == text
        words = [word for segment in record.segments or () for word in segment.words or ()]
        assert [word.word.strip() for word in words] == text.split()
        (record,) = qwa.classify(item(name, text).audio, task="language", vad=False)
        assert record.language == name[:2]


def test_the_head_is_taught_first_and_then_left_as_it_is(
    taught: Training[MiniLearner], tiny: Built
) -> None:
    stages = (tiny.directory, taught.output.parent / "hears", taught.output)
    own = [load_file(stage / "trained.safetensors") for stage in stages]
    for before, after, begins in zip(own[:-1], own[1:], (HEARD, ANSWERED), strict=True):
        changed = {name for name, weight in after.items() if not torch.equal(weight, before[name])}
        named = tuple(f"transformer.{begin}" for begin in begins)
        assert changed == {name for name in after if name.startswith(named)}
    family = tiny_mini.plain(taught.output)
    for name, text in SPOKEN.items():
        mel = family.features(recording(name))
        (memory,) = family.model.encode(mel[None], [mel.shape[1]])
        subject: Any = family.heard(Subject((1.0,)), memory)
        assert family.tokenizer.decode(subject.draft) == f" {text}"


def test_what_is_saved_is_what_was_trained_and_the_base_is_as_it_was(
    taught: Training[MiniLearner], tiny: Built
) -> None:
    saved = tiny_mini.plain(taught.output)
    learner = taught.trainee
    for name, text in SPOKEN.items():
        given = item(name, text)
        mel = saved.features(recording(name))
        with torch.no_grad():
            (memory,) = saved.model.encode(mel[None], [mel.shape[1]])
            again = answer_losses(saved.model, [drafted(saved, given, memory)], [memory.rows])
            features = learner.ear.features(recording(name))
            before = learner.losses([example(saved, given, features)])
        torch.testing.assert_close(again, before, rtol=2e-2, atol=2e-2)  # kept in float16
    for name in FROZEN:
        assert (taught.output / name).read_bytes() == (tiny.directory / name).read_bytes()
    assert Mini(taught.output, "mini").label != Mini(tiny.directory, "mini").label


def test_training_goes_on_with_what_was_learned_and_then_tunes_the_encoder(
    taught: Training[MiniLearner], tmp_path: Path
) -> None:
    recipe = replace(taught.recipe, steps=1, rate=1e-3, encoder_layers=1)
    data = corpus(tmp_path, [said(name, text) for name, text in SPOKEN.items()])
    run = trained(taught.output, tmp_path / "further", data, recipe)
    (begun,) = (line["loss"] for line in run.state.recorded if "loss" in line)
    assert begun < 0.5  # of an untrained decoder it is above 5
    names = load_file(tmp_path / "further" / "lora" / "adapter_model.safetensors")
    blocks = {name.split(".audio.blocks.")[1][0] for name in names if ".audio." in name}
    assert blocks == {"5"}
    saved, before = (tiny_mini.plain(path).model for path in (run.output, taught.output))
    changed = {
        name
        for name, weight in saved.audio.blocks.named_parameters()  # type: ignore[attr-defined]
        if not torch.equal(weight, before.audio.blocks.get_parameter(name))  # type: ignore[attr-defined]
    }
    assert changed
    assert all(name.startswith("5.") for name in changed)
    with pytest.raises(UsageError, match=r"is \[16, .*\], not \[8, "):
        trained(taught.output, tmp_path / "other", data, replace(recipe, rank=8))


def test_a_tuned_mini_is_tuned_beside_its_own_low_rank_part(
    taught: Training[MiniLearner], tmp_path: Path
) -> None:
    """Mini's own part is below that of who tunes it: nothing of it is lost."""
    from lessons import training

    from qwen_audio_cli.training.recipe import Recipe

    tuning = training(
        taught.output, tmp_path / "tuned", [item("en-one-participant", "x y")], Recipe(steps=1)
    )
    for one, text in SPOKEN.items():
        given = example(tuning.trainee.family, item(one, text), torch.empty(0))  # type: ignore[arg-type]
        features = tuning.trainee.family.features(recording(one))
        with torch.no_grad():
            loss = tuning.trainee.losses([replace(given, features=features)])
        assert loss.item() < 1.0


def test_other_ways_of_asking_say_less(tiny: Built) -> None:
    families = [kind(tiny.directory, "mini") for kind in (Mini, Flat, Untagged)]
    tagged, untagged = families[0], families[2]
    subject = Subject((2.0,))
    asked = item("en-one-participant", "no", task="audio-qa", language=None, question="Is it?")
    for given in (item("en-one-participant", "x"), asked):
        prompts = [family.lesson(given.job(), subject, given.target).prompt for family in families]
        audio = untagged._audio(subject)
        question = tagged.tokenizer.encode(given.question) if given.question else []
        assert prompts[2] == [*audio, *question]
        assert len(prompts[1]) == len(prompts[2]) + 1
        assert len(prompts[0]) > len(prompts[1])
        assert all(prompt[: len(audio)] == audio for prompt in prompts)


def test_the_comparison_is_a_table_of_all_ways_and_goes_on_where_it_was(
    tiny: Built, tmp_path: Path
) -> None:
    items = [said(name, text) for name, text in SPOKEN.items()]
    data = corpus(tmp_path, items + [replace(one, split="dev") for one in items])
    recipe = MiniRecipe(steps=1, rank=2)
    told: list[str] = []

    def run() -> str:
        return table(
            compare(
                tiny.directory,
                [data],
                recipe,
                [0, 1],
                tmp_path / "tags",
                device="cpu",
                dtype="float32",
                tell=told.append,
            )
        )

    first = run()
    assert "| asr (2) |" in first
    assert [line for line in told if "seed" in line] == [
        f"{name}, seed {seed}" for seed in (0, 1) for name in ("tags", "flat", "none")
    ]
    told.clear()
    assert run() == first == (tmp_path / "tags" / "tags.md").read_text()
    assert told == []


def test_what_other_weights_were_calibrated_to_is_not_kept(
    taught: Training[MiniLearner], tmp_path: Path
) -> None:
    base = tmp_path / "base"
    shutil.copytree(taught.output, base)
    config = json.loads((base / "config.json").read_text())
    assert config["learned"]["languages"] == ["en", "fr"]
    part = {"bias": 0.0, "logprob": 1.0}
    told = {"transcript": {**part, "agreement": 1.0}, "analysis": part, "temperature": 2.0}
    (base / "config.json").write_text(json.dumps({**config, "calibration": told}))
    learner = load(base, replace(taught.recipe, steps=1), device="cpu", dtype="float32")
    data = corpus(tmp_path, [said(name, text) for name, text in SPOKEN.items()])
    prepare(learner, [data], tmp_path / "out", workers=1, tell=lambda line: None)
    # Of what it goes on with no label is learned: its summary stays as it is.
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == config


def test_a_run_is_not_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "resume.state").touch()
    options = ["--model", str(tmp_path), "--data", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main(["train", *options]) == Exit.USAGE
    assert "is not an empty directory: --resume goes on" in capsys.readouterr().err
    assert main(["train", *options, "--resume", "--portion", "asx=1"]) == Exit.USAGE
    assert "unknown task 'asx'" in capsys.readouterr().err


def test_nothing_to_learn_from_is_said(tiny: Built, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no corpora"):
        trained(tiny.directory, tmp_path / "out", tmp_path, MiniRecipe(steps=1))
    with pytest.raises(UsageError, match="kept as it is stored"):
        MiniRecipe(full=True)
