"""The models of transformers on our core: judged by the library itself, one clip at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_transformers
import torch
import transformers
from conftest import CPU, recording
from hypothesis import given, settings
from hypothesis import strategies as st
from packed import prompt_scores
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers_reference import Reference, Samples

from qwen_audio_cli.engine.engine import Engine, Manner
from qwen_audio_cli.engine.request import AudioInput, Generate, Generated, Score, Scored
from qwen_audio_cli.engine.scheduler import Budget
from qwen_audio_cli.engine.work import Work
from qwen_audio_cli.errors import ConfigError
from qwen_audio_cli.families.checkpoint import Checkpoint
from qwen_audio_cli.families.transformers_model import TransformersModel

STOP = frozenset(range(0, tiny_transformers.VOCABULARY, 12))
LONGEST = 12
LABELS = [[7], [8, 9, 10], [8, 9, 11], [300, 2]]

# Below and above the encoders' chunks of 1 and 2 s and windows of 4 s, odd and even frames, the
# longest that Qwen2-Audio hears.
LENGTHS = [4_800, 7_999, 15_985, 16_000, 32_123, 71_000, 176_480, 480_000]


def clips() -> list[Samples]:
    """Real sound of those lengths, each from another place."""
    names = ("en-no-connection", "fr-one-participant", "ru-no-connection")
    sound = np.concatenate([recording(name) for name in names])
    return [np.resize(np.roll(sound, -9_000 * i), n) for i, n in enumerate(LENGTHS)]


class Case:
    """One architecture: our model, the library's, and what the library answers to each clip."""

    def __init__(self, directory: Path) -> None:
        self.model = TransformersModel.load(Checkpoint(directory), torch.float32, CPU)
        self.reference = Reference(directory)
        self.sounds: list[Samples | None] = [*clips(), None]
        self.prompts = [self.prompt(sound, i) for i, sound in enumerate(self.sounds)]

    def prompt(self, sound: Samples | None, number: int = 0) -> list[int]:
        rows = 0
        if sound is not None:
            rows = self.model.audio_rows(self.model.features(sound).shape[-1])
        return [21, 22 + number, *[self.model.audio_token] * rows, 31, 32 + number, 33]

    def memories(self, sound: Samples | None) -> list[Tensor]:
        if sound is None:
            return []
        features = self.model.features(sound)
        return self.model.encode(features[None], [features.shape[-1]])

    @cached_property
    def answers(self) -> list[list[int]]:
        pairs = zip(self.prompts, self.sounds, strict=True)
        return [self.reference.answer(prompt, sound, STOP, LONGEST) for prompt, sound in pairs]

    def work(self, number: int, dialogue: Any) -> Work[int, Any]:
        sound = self.sounds[number]
        audios = () if sound is None else (AudioInput(self.model.features(sound)),)
        return Work(number, audios, dialogue(self.prompts[number]))


def say(prompt: list[int]) -> Any:
    answer = yield Generate(prompt, LONGEST, STOP)
    assert isinstance(answer, Generated)
    return answer.tokens


def run(engine: Engine[int, Any], works: Sequence[Work[int, Any]]) -> dict[int, Any]:
    """What each work gave; any that failed fails the test."""
    waiting = list(works)
    found: dict[int, Any] = {}
    for _ in range(10_000):
        while waiting and engine.hungry:
            engine.add(waiting.pop(0))
        if engine.idle:
            return found
        for done in engine.turn():
            assert done.error is None, done.error
            found[done.key] = done.result
    raise AssertionError("the engine starved")


@pytest.fixture(scope="module", params=sorted(tiny_transformers.WRITERS))
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    directory = tmp_path_factory.mktemp(request.param)
    return Case(tiny_transformers.WRITERS[request.param](directory))


def test_row_counts_and_rows_are_the_librarys(case: Case) -> None:
    """Of frames by the library's own count and formula; the rows themselves to 1e-5."""
    network = case.reference.network
    for sound in clips():
        ours = case.memories(sound)[0]
        audio = case.reference.audio(sound)
        with torch.inference_mode():
            if "Qwen2Audio" in case.reference.name:
                tower = network.model.audio_tower
                frames = torch.tensor(case.reference.frames(sound))
                heard = network.model.multi_modal_projector(
                    tower(audio["input_features"], attention_mask=_seen(frames)).last_hidden_state
                )
                theirs = heard[0, : tower._get_feat_extract_output_lengths(frames)[1]]
            else:
                theirs = network.get_audio_features(**audio, return_dict=True).pooler_output
        assert ours.shape == theirs.shape
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def _seen(frames: Tensor) -> Tensor:
    """What Qwen2-Audio's encoder sees of its 1500 positions, as its model says."""
    return (torch.arange(1500) < (frames - 1) // 2 + 1)[None, None, None].expand(1, 1, 1500, -1)


def test_a_batch_never_changes_a_clip(case: Case) -> None:
    """Rows of clips of all lengths in one padded call are those of each clip alone."""
    features = [case.model.features(sound) for sound in clips()]
    lengths = [feature.shape[-1] for feature in features]
    batch = torch.full((len(features), features[0].shape[0], max(lengths) + 3), 0.0)
    for row, feature in zip(batch, features, strict=True):
        row[:, : feature.shape[-1]] = feature
    together = case.model.encode(batch, lengths)
    for rows, feature, length in zip(together, features, lengths, strict=True):
        alone = case.model.encode(feature[None], [length])[0]
        assert rows.shape == alone.shape == (case.model.audio_rows(length), 64)
        torch.testing.assert_close(rows, alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("length", [0, 1, 159, 1_600])
def test_the_shortest_clips_give_rows(case: Case, length: int) -> None:
    features = case.model.features(np.full(length, 0.1, np.float32))
    rows = case.model.encode(features[None], [features.shape[-1]])[0]
    assert len(rows) == case.model.audio_rows(features.shape[-1]) >= 1
    assert bool(rows.isfinite().all())


def test_features_are_the_librarys(case: Case) -> None:
    for sound in clips():
        ours = case.model.features(sound)
        theirs = case.reference.audio(sound)["input_features"][0]
        both = min(ours.shape[-1], theirs.shape[-1])
        assert both >= case.reference.frames(sound)
        torch.testing.assert_close(ours[:, :both], theirs[:, :both], atol=1e-6, rtol=0)


def test_prompt_scores_are_the_librarys(case: Case) -> None:
    """Of prompts that share a packed step, at every position; sound is heard, not only counted."""
    ours = prompt_scores(case.model, case.prompts, [case.memories(s) for s in case.sounds])
    for scores, prompt, sound in zip(ours, case.prompts, case.sounds, strict=True):
        assert scores.dtype == torch.float32
        theirs = case.reference.scores(prompt, sound)
        torch.testing.assert_close(scores, theirs, atol=1e-4, rtol=0)
    silence = case.memories(np.zeros(LENGTHS[4], np.float32))
    deaf = prompt_scores(case.model, [case.prompts[4]], [silence])[0]
    assert (deaf[-1] - ours[4][-1]).abs().max() > 0.01


@pytest.mark.parametrize("seats", [1, 3, 8])
def test_answers_are_the_librarys(case: Case, seats: int) -> None:
    """Of very different clips in one run, in any order and under hostile budgets."""

    @given(
        order=st.permutations(range(len(case.sounds))),
        prompt_tokens=st.sampled_from([1, 64, 5_000]),
        encoder_frames=st.sampled_from([1, 500, 9_000]),
        lookahead=st.booleans(),
    )
    @settings(max_examples=3, deadline=None, database=None, derandomize=True)
    def holds(order: list[int], prompt_tokens: int, encoder_frames: int, lookahead: bool) -> None:
        budget = Budget(
            seats, rows=2_500, prompt_tokens=prompt_tokens, encoder_frames=encoder_frames
        )
        engine: Engine[int, Any] = Engine(case.model, CPU, budget, Manner(lookahead=lookahead))
        found = run(engine, [case.work(number, say) for number in order])
        assert [found[number] for number in range(len(case.sounds))] == case.answers

    holds()


def test_the_answers_say_something(case: Case) -> None:
    """The comparison above could not tell answers apart that are all the same."""
    assert len({tuple(answer) for answer in case.answers}) >= 5
    assert sum(map(len, case.answers)) > 30


def test_label_scores_are_the_librarys(case: Case) -> None:
    def score(prompt: list[int]) -> Any:
        answer = yield Score(prompt, LABELS)
        assert isinstance(answer, Scored)
        return answer.logprobs

    chosen = [0, 3, 5, 8]
    engine: Engine[int, Any] = Engine(case.model, CPU, Budget(3, rows=2_000))
    found = run(engine, [case.work(number, score) for number in chosen])
    for number in chosen:
        prompt, sound = case.prompts[number], case.sounds[number]
        theirs = [case.reference.logprobs(prompt, sound, label) for label in LABELS]
        for mine, other in zip(found[number], theirs, strict=True):
            assert mine == pytest.approx(other, abs=1e-4)


def test_requests_with_a_common_beginning_equal_separate_ones(case: Case) -> None:
    """What comes behind the first one's audio finds the audio in the keys that were kept."""

    def ask(prompt: list[int]) -> Any:
        answers = []
        for tail in ([], [41], [42, 43]):
            answer = yield Generate([*prompt, *tail], LONGEST, STOP)
            answers.append(answer.tokens)
        scored = yield Score(prompt[:-1], LABELS)
        answers.append(scored.logprobs)
        return answers

    chosen = [1, 4, 6]
    engine: Engine[int, Any] = Engine(case.model, CPU, Budget(2, rows=2_000))
    found = run(engine, [case.work(number, ask) for number in chosen])
    for number in chosen:
        prompt, sound = case.prompts[number], case.sounds[number]
        *answers, scored = found[number]
        expected = [
            case.reference.answer([*prompt, *t], sound, STOP, LONGEST) for t in ([], [41], [42, 43])
        ]
        assert answers == expected
        theirs = [case.reference.logprobs(prompt[:-1], sound, label) for label in LABELS]
        assert [len(label) for label in scored] == [len(label) for label in LABELS]
        for mine, other in zip(scored, theirs, strict=True):
            assert mine == pytest.approx(other, abs=1e-4)


def test_a_prompt_of_another_number_of_audio_tokens_is_refused(case: Case) -> None:
    engine: Engine[int, Any] = Engine(case.model, CPU, Budget(2, rows=2_000))
    sound = clips()[0]
    prompt = case.prompt(sound)
    prompt.remove(case.model.audio_token)
    engine.add(Work(0, (AudioInput(case.model.features(sound)),), say(prompt)))
    outcomes = [done for _ in range(5) for done in engine.turn()]
    assert isinstance(outcomes[0].error, ValueError)


def test_16_bits_change_scores_little(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tiny_transformers.qwen3_omni(tmp_path / "model"))
    sound = clips()[5]
    scores = []
    for dtype in (torch.float32, torch.bfloat16):
        model = TransformersModel.load(checkpoint, dtype, CPU)
        features = model.features(sound)
        prompt = [21, *[model.audio_token] * model.audio_rows(features.shape[-1]), 31]
        memory = model.encode(features[None], [features.shape[-1]])
        found = prompt_scores(model, [prompt], [memory])[0]
        assert found.dtype == torch.float32
        scores.append(found[-1].softmax(-1))
    assert (scores[0] - scores[1]).abs().sum() < 0.2


def test_the_layout_of_qwen3_asrs_authors_is_the_same_model(tmp_path: Path) -> None:
    directories = (
        tiny_transformers.qwen3_asr(tmp_path / "library"),
        tiny_transformers.qwen3_asr_original(tmp_path / "authors"),
    )
    one, other = (TransformersModel.load(Checkpoint(d), torch.float32, CPU) for d in directories)
    assert (one.audio_token, one.positions) == (other.audio_token, other.positions)
    assert one.cache == other.cache
    features = one.features(clips()[5])
    prompt = [21, *[one.audio_token] * one.audio_rows(features.shape[-1]), 31]
    scores = [
        prompt_scores(model, [prompt], [model.encode(features[None], [features.shape[-1]])])[0]
        for model in (one, other)
    ]
    assert torch.equal(*scores)


def test_layers_compute_where_they_are_put(tmp_path: Path) -> None:
    """A layer whose weights are fetched for each step has its keys where it computes."""
    checkpoint = Checkpoint(tiny_transformers.qwen25_omni(tmp_path / "model"))
    parts = {
        "model.audio_tower": "cpu",
        "model.visual": "cpu",
        "model.language_model.embed_tokens": "cpu",
        "model.language_model.layers.0": "cpu",
        "model.language_model.layers.1": "disk",
        "model.language_model.layers.2": "cpu",
        "model.language_model.norm": "cpu",
        "model.language_model.rotary_emb": "cpu",
        "lm_head": "cpu",
    }
    spread = TransformersModel.load(checkpoint, torch.float32, CPU, parts)
    assert spread._text.layers[1].mlp.up_proj.weight.device.type == "meta"
    assert spread.cache.devices == (CPU,) * 3
    assert not spread.capturable
    whole = TransformersModel.load(checkpoint, torch.float32, CPU)
    assert whole.capturable
    spread_scores, whole_scores = (prompt_scores(m, [[1, 2, 3]], [[]])[0] for m in (spread, whole))
    torch.testing.assert_close(spread_scores, whole_scores, atol=1e-5, rtol=1e-5)


def test_nothing_is_shown_while_loading(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    directory = tiny_transformers.qwen2_audio(tmp_path / "model")
    capfd.readouterr()
    caplog.clear()
    TransformersModel.load(Checkpoint(directory), torch.float32, CPU)
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
    assert transformers.utils.logging.is_progress_bar_enabled()


def _edit_config(edit: Callable[[Any], object]) -> Callable[[Path], object]:
    def change(directory: Path) -> None:
        path = directory / "config.json"
        config = json.loads(path.read_text())
        edit(config)
        path.write_text(json.dumps(config))

    return change


def _edit_weights(edit: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], object]:
    def change(directory: Path) -> None:
        path = directory / tiny_transformers.WEIGHTS
        weights = load_file(path)
        edit(weights)
        save_file(weights, path, {"format": "pt"})

    return change


def _truncate(directory: Path) -> None:
    path = directory / tiny_transformers.WEIGHTS
    path.write_bytes(path.read_bytes()[:-500])


def _pickle(directory: Path) -> None:
    path = directory / tiny_transformers.WEIGHTS
    torch.save(load_file(path), directory / "pytorch_model.bin")
    path.unlink()


NORM = "model.language_model.norm.weight"
DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "another architecture": (
        _edit_config(lambda c: c.update(architectures=["Qwen3ASRModel"])),
        r"Qwen3ASRModel.* none of .*Qwen2AudioForConditionalGeneration",
    ),
    "no architecture": (_edit_config(lambda c: c.pop("architectures")), "unknown"),
    "a setting of another type": (
        _edit_config(lambda c: c["text_config"].update(hidden_size="64")), "hidden_size",
    ),
    "other shapes": (
        _edit_config(lambda c: c["text_config"].update(vocab_size=99)), r"\[512, 64\].*\[99, 64\]",
    ),
    "a weight missing": (_edit_weights(lambda w: w.pop(NORM)), rf"no weights for {NORM}"),
    "a file cut short": (_truncate, "cannot be loaded"),
    "only pickled weights": (_pickle, "never loaded"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_no_such_checkpoint_is_refused(tmp_path: Path, damage: str) -> None:
    directory = tiny_transformers.qwen3_asr(tmp_path / "model")
    change, reason = DAMAGES[damage]
    change(directory)
    with pytest.raises(ConfigError, match=reason) as raised:
        TransformersModel.load(Checkpoint(directory), torch.float32, CPU)
    assert "\n" not in str(raised.value)


def test_no_code_of_a_checkpoint_is_run(tmp_path: Path) -> None:
    """A checkpoint that names code of its own is loaded by the library's class."""
    directory = tiny_transformers.qwen3_asr(tmp_path / "model")
    (directory / "own.py").write_text("raise SystemExit('run')\n")
    _edit_config(lambda c: c.update(auto_map={"AutoConfig": "own.C", "AutoModel": "own.M"}))(
        directory
    )
    TransformersModel.load(Checkpoint(directory), torch.float32, CPU)
