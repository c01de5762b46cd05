"""Whisper checkpoints in the layouts they are published in, against transformers' own Whisper."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CPU, recording
from packed import prompt_scores
from torch import Tensor

from qwen_audio_cli.engine.engine import Engine
from qwen_audio_cli.engine.request import AudioInput, Dialogue, Generate, Generated
from qwen_audio_cli.engine.scheduler import Budget
from qwen_audio_cli.engine.work import Work
from qwen_audio_cli.errors import ConfigError, UsageError
from qwen_audio_cli.families.base import ClipAnswer, Job, Subject
from qwen_audio_cli.families.registry import open_checkpoint
from qwen_audio_cli.families.whisper import Whisper
from qwen_audio_cli.families.whisper_tokenizer import WhisperTokenizer
from qwen_audio_cli.layout import WEIGHTS
from qwen_audio_cli.tasks import find

pytest.importorskip("transformers", reason="transformers, the reference, is not installed")
import transformers
from tiny_whisper import (
    LAYOUTS,
    TEACHERS_HEADS,
    Vocabulary,
    files,
    generation,
    tokenizer,
    vocabulary,
    write,
)


@dataclass
class Opened:
    """A checkpoint as this project and as transformers load it, in float32."""

    directory: Path
    words: Vocabulary
    family: Whisper
    reference: Any = field(repr=False)

    def features(self, name: str) -> Tensor:
        return self.family.features(recording(name))


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Iterator[None]:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Opened]:
    @cache
    def opened(layout: str) -> Opened:
        directory = tmp_path_factory.mktemp(layout)
        writer, kind = LAYOUTS[layout]
        writer(directory)
        family = Whisper(directory, layout, full_window=True)
        family.load(torch.float32, CPU)
        reference = transformers.WhisperForConditionalGeneration.from_pretrained(
            directory, dtype=torch.float32
        ).eval()
        if not (directory / "generation_config.json").exists():  # its `generate` needs one
            reference.generation_config = generation(vocabulary(kind))
        return Opened(directory, vocabulary(kind), family, reference)

    return opened


def job(command: str = "transcribe", name: str | None = None, **options: Any) -> Job:
    task = find(command, name)
    return Job(task, task.tags(**options), labels=task.labels, longest=12)


def answer(family: Whisper, work: Job, name: str) -> ClipAnswer:
    engine: Engine[str, ClipAnswer] = Engine(family.model, CPU, Budget(seats=1))
    samples = recording(name)
    dialogue = family.answer(work, Subject((len(samples) / 16_000,)))
    engine.add(Work(name, (AudioInput(family.features(samples)),), dialogue))
    while not engine.idle:
        for done in engine.turn():
            assert done.error is None and done.result is not None
            return done.result
    raise AssertionError("no answer")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_scores_are_those_of_transformers(
    checkpoints: Callable[[str], Opened], layout: str
) -> None:
    it = checkpoints(layout)
    features = it.features("en-one-participant")
    tokens = [*it.family._prompt(job(language="en"), "en"), 821, 307, 11, 4000]
    theirs = it.reference(features[None], decoder_input_ids=torch.tensor([tokens])).logits[0]
    memories = it.family.model.encode(features[None], [features.shape[-1]])
    (ours,) = prompt_scores(it.family.model, [tokens], [memories])
    assert theirs.std() > 0.5
    torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["en-one-participant", "fr-no-connection"])
def test_greedy_tokens_are_those_of_generate(
    checkpoints: Callable[[str], Opened], layout: str, name: str
) -> None:
    """With the prompt and the suppressed tokens that transformers makes out by itself."""
    it = checkpoints(layout)
    features = it.features(name)
    asked = {}
    if it.reference.generation_config.is_multilingual:
        asked = {"language": name[:2], "task": "transcribe"}
    theirs = it.reference.generate(features[None], max_new_tokens=24, **asked)[0].tolist()
    end = it.words.tags["<|endoftext|>"]
    theirs = [token for token in theirs if token < end]

    def dialogue() -> Dialogue[list[int]]:
        prompt = it.family._prompt(job(language=name[:2]), name[:2])
        said = yield Generate(
            prompt,
            longest=24,
            stop=frozenset({end}),
            bias=it.family._bias,
            first_bias=it.family._first_bias,
        )
        assert isinstance(said, Generated)
        return said.tokens

    engine: Engine[str, list[int]] = Engine(it.family.model, CPU, Budget(seats=1))
    engine.add(Work(name, (AudioInput(features),), dialogue()))
    (done,) = [done for _ in iter(lambda: engine.idle, True) for done in engine.turn()]
    assert done.error is None and done.result == theirs
    assert len(set(theirs)) > 4
    assert it.family._tokenizer.decode(theirs) == tokenizer(it.words).decode(theirs)


@pytest.mark.parametrize("layout", ["newest", "turbo", "oldest"])
def test_the_language_is_that_of_transformers(
    checkpoints: Callable[[str], Opened], layout: str
) -> None:
    it = checkpoints(layout)
    found = answer(it.family, job("classify", "language"), "fr-no-connection")
    features = it.features("fr-no-connection")
    (theirs,) = it.reference.detect_language(features[None]).tolist()
    assert it.words.tags[f"<|{found.language}|>"] == theirs


def test_tags_are_found_in_either_numbering(checkpoints: Callable[[str], Opened]) -> None:
    for layout in ("newest", "turbo"):
        it = checkpoints(layout)
        prompt = it.family._prompt(job("translate", target="en", language="su"), "su")
        names = ("startoftranscript", "su", "translate", "notimestamps")
        assert list(prompt) == it.words.ids(*names)
    checkpoints("turbo").family.check(job(language="yue"))
    with pytest.raises(UsageError, match="does not know the language 'yue'"):
        checkpoints("newest").family.check(job(language="yue"))


@pytest.mark.parametrize("layout", ["english", "listed"])
def test_an_english_only_checkpoint_transcribes_english(
    checkpoints: Callable[[str], Opened], layout: str
) -> None:
    family = checkpoints(layout).family
    for work in (job(), job(language="en"), job(timestamps=True)):
        family.check(work)
        found = answer(family, work, "en-one-participant")
        assert found.language == "en" and found.text is not None
        assert found.no_speech_prob is not None and 0 < found.no_speech_prob < 1


@pytest.mark.parametrize(
    ("work", "reason"),
    [
        (job(language="fr"), "does not know 'fr'"),
        (job("translate", target="en"), "has no task <|translate|>"),
        (job("classify", "language"), "tells no languages apart"),
    ],
)
def test_an_english_only_checkpoint_refuses_what_is_not_english(
    checkpoints: Callable[[str], Opened], work: Job, reason: str
) -> None:
    for layout in ("english", "listed"):
        with pytest.raises(UsageError) as error:
            checkpoints(layout).family.check(work)
        assert str(error.value).endswith(f"is English-only: it {reason}")


def test_a_teachers_heads_are_not_watched(checkpoints: Callable[[str], Opened]) -> None:
    """As in openai/whisper without a list, all heads of the upper half are."""
    it = checkpoints("distilled")
    assert it.reference.generation_config.alignment_heads == TEACHERS_HEADS
    assert it.family.model._watched == {1: [0, 1]}
    found = answer(it.family, job(timestamps=True, language="en"), "en-one-participant")
    assert found.words
    edges = [edge for word in found.words for edge in (word.start, word.end)]
    assert edges == sorted(edges)


def test_the_window_is_the_checkpoints(checkpoints: Callable[[str], Opened]) -> None:
    it = checkpoints("short")
    assert it.family.window == 15
    assert (
        it.features("en-one-participant").shape == it.features("en-echo-test").shape == (80, 1500)
    )
    assert checkpoints("newest").family.window == 30
    brief = Whisper(it.directory, "short")
    assert brief.features(recording("en-one-participant")).shape[1] < 1500
    assert brief.features(recording("en-echo-test")).shape[1] == 1500


def test_proj_out_is_no_parameter(checkpoints: Callable[[str], Opened]) -> None:
    sizes = {layout: checkpoints(layout).family.parameters for layout in ("newest", "oldest")}
    sizes["loaded"] = sum(p.numel() for p in checkpoints("newest").reference.model.parameters())
    assert len(set(sizes.values())) == 1, sizes


def settings(name: str, **values: Any) -> Callable[[Path], None]:
    """Change keys of a JSON file; None takes a key away."""

    def change(directory: Path) -> None:
        path = directory / name
        content = json.loads(path.read_text()) if path.exists() else {}
        content |= {key: value for key, value in values.items() if value is not None}
        for key in [key for key, value in values.items() if value is None]:
            del content[key]
        write(path, content)

    return change


def vocabulary_file(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def edit(directory: Path) -> None:
        content = json.loads((directory / "tokenizer.json").read_text())
        change(content)
        write(directory / "tokenizer.json", content)

    return edit


def without_languages(content: dict[str, Any]) -> None:
    content["added_tokens"] = [
        token for token in content["added_tokens"] if len(token["content"]) > 7
    ]


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "mels": (settings("config.json", num_mel_bins=None), "there is no num_mel_bins"),
    "width": (settings("config.json", d_model="32"), "d_model is '32', not a whole number"),
    "layers": (settings("config.json", decoder_layers=0), "decoder_layers is 0"),
    "heads": (settings("config.json", encoder_attention_heads=3), "no multiple of"),
    "gelu": (settings("config.json", activation_function="relu"), "activation_function is 'relu'"),
    "scale": (settings("config.json", scale_embedding=True), "scale_embedding is True"),
    "untied": (settings("config.json", tie_word_embeddings=False), "tie_word_embeddings is False"),
    "ffn": (settings("config.json", decoder_ffn_dim=64), "decoder_ffn_dim is 64; only 128"),
    "front end": (settings("preprocessor_config.json", feature_size=128), "feature_size is 128"),
    "hop": (
        settings("processor_config.json", feature_extractor={"hop_length": 320}),
        "hop_length is 320; only 160",
    ),
    "suppressed": (
        settings("generation_config.json", suppress_tokens=[51_865]),
        "suppress_tokens has 51865, and vocab_size is smaller",
    ),
    "no list": (
        settings("generation_config.json", begin_suppress_tokens="1,2"),
        "begin_suppress_tokens is no list of tokens",
    ),
    "flag": (settings("generation_config.json", is_multilingual="yes"), "is_multilingual is 'yes'"),
    "pairs": (settings("generation_config.json", alignment_heads=[1]), "no pairs of layer and"),
    "no tokenizer": (lambda d: (d / "tokenizer.json").unlink(), "no tokenizer.json, and no vocab"),
    "no JSON": (lambda d: write(d / "tokenizer.json", "{"), "no tokenizer of Whisper's"),
    "pieces": (
        vocabulary_file(lambda content: content["model"].update(type="WordPiece")),
        "WordPiece, not BPE",
    ),
    "spelling": (
        vocabulary_file(lambda content: content["model"]["vocab"].update({"你": 50_257})),
        "two tokens have one id",
    ),
    "bytes": (
        vocabulary_file(lambda content: content["model"]["vocab"].update({"你": 99_999})),
        "'你' does not spell a byte",
    ),
    "no languages": (vocabulary_file(without_languages), "the tokenizer has no languages"),
    "no tag": (
        vocabulary_file(lambda content: content["added_tokens"].pop(0)),
        "tokenizer has no <|endoftext|>",
    ),
    "past the end": (
        settings("config.json", vocab_size=50_300),
        "suppress_tokens has",
    ),
}


def changed(source: Path, target: Path, change: Callable[[Path], None]) -> Path:
    """A copy of a checkpoint with a change."""
    shutil.copytree(source, target, copy_function=os.link)
    change(target)
    return target


@pytest.mark.parametrize(
    ("listed", "watched"),
    [
        ([[0, 1], [1, 0], [1, 1]], {0: [1], 1: [0, 1]}),
        ([[1, 0], [1, 2]], {1: [0, 1]}),  # there is no third head
        ([], {1: [0, 1]}),
    ],
)
def test_heads_that_are_there_are_watched(
    checkpoints: Callable[[str], Opened], tmp_path: Path, listed: Any, watched: Any
) -> None:
    change = settings("generation_config.json", alignment_heads=listed)
    directory = changed(checkpoints("newest").directory, tmp_path / "copy", change)
    assert Whisper(directory, "copy")._facts.watched == watched


def test_a_checkpoint_may_say_that_it_is_english_only(
    checkpoints: Callable[[str], Opened], tmp_path: Path
) -> None:
    """Whatever the size of its vocabulary."""
    change = settings("generation_config.json", is_multilingual=False)
    it = checkpoints("newest")
    family = Whisper(changed(it.directory, tmp_path / "copy", change), "copy")
    with pytest.raises(UsageError, match="is English-only"):
        family.check(job(language="fr"))
    names = ("startoftranscript", "notimestamps")
    assert list(family._prompt(job(), "en")) == it.words.ids(*names)


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_does_not_fit_is_said_in_one_line(
    checkpoints: Callable[[str], Opened], tmp_path: Path, damage: str
) -> None:
    change, reason = DAMAGES[damage]
    directory = changed(checkpoints("newest").directory, tmp_path / "damaged", change)
    with pytest.raises(ConfigError) as error:
        Whisper(directory, "damaged")
    assert reason in str(error.value) and "\n" not in str(error.value)
    assert str(directory) in str(error.value)


def test_tags_past_the_vocabulary_are_refused(
    checkpoints: Callable[[str], Opened], tmp_path: Path
) -> None:
    change = settings("config.json", vocab_size=50_300, suppress_tokens=[])
    directory = changed(checkpoints("oldest").directory, tmp_path / "small", change)
    with pytest.raises(ConfigError, match=r"50363, past vocab_size, for <\|notimestamps\|>"):
        Whisper(directory, "small")


def test_words_added_to_the_vocabulary_are_text(tmp_path: Path) -> None:
    """A fine-tuned checkpoint may have some; they are no tags, and can be written."""
    words = vocabulary("base")
    files(tmp_path, words, {"added_tokens.json": words.tags | {"ɓɛrɛ": 51_865, "<|ff|>": 51_866}})
    read = WhisperTokenizer.read(tmp_path)
    assert read.is_text(51_865) and not read.is_text(51_866) and not read.is_text(51_867)
    hello = [words.pieces["Hello"], 51_865, words.tags["<|en|>"], 51_866, 60_000]
    assert read.decode(hello) == "Helloɓɛrɛ"
    assert read.tag("ff") == 51_866


def test_a_network_without_its_head_is_known_by_its_architecture(tmp_path: Path) -> None:
    """As `WhisperModel` saves it: the embedded checkpoint under that name."""
    for path in (WEIGHTS / "whisper-base").iterdir():
        (tmp_path / path.name).symlink_to(path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": ["WhisperModel"]}))
    assert open_checkpoint(tmp_path, "bare").name == "whisper"
