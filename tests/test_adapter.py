"""LoRA adapters, judged by peft's own networks and by weights that are merged by hand."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import tiny_checkpoints
import tiny_tokenizers
import tiny_transformers
import tiny_whisper
import torch
from conftest import CPU, EXAMPLES, recording
from packed import prompt_scores
from safetensors.torch import load_file, save_file
from tiny_adapters import CONFIG, PREFIX, WEIGHTS, by_hand, edit, ours, rename
from torch import Tensor
from transformers import WhisperForConditionalGeneration
from transformers_reference import Reference

from qwen_audio_cli import Qwa
from qwen_audio_cli.engine.engine import Engine
from qwen_audio_cli.engine.request import AudioInput, Generate, Generated, Score, Scored
from qwen_audio_cli.engine.scheduler import Budget
from qwen_audio_cli.engine.work import Work
from qwen_audio_cli.errors import ConfigError
from qwen_audio_cli.families.adapter import Adapter
from qwen_audio_cli.families.base import Family
from qwen_audio_cli.families.checkpoint import Checkpoint
from qwen_audio_cli.families.packed import PackedLinear, can_pack
from qwen_audio_cli.families.qwen_audio import QwenAudio
from qwen_audio_cli.families.qwen_prompt import audio_span, base_prompt, rows_in
from qwen_audio_cli.families.transformers_model import TransformersModel
from qwen_audio_cli.families.whisper import Whisper
from qwen_audio_cli.models import Wanted, open_model
from qwen_audio_cli.records import Record
from qwen_audio_cli.tasks import TASKS

peft = pytest.importorskip("peft", reason="peft, the reference, is not installed")

# Of the library, which peft asks what the library has renamed.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Setting .save_embedding_layers.:UserWarning"),
]

STOP = frozenset(range(0, tiny_transformers.VOCABULARY, 12))
LABELS = [[7], [8, 9, 10], [8, 9, 11]]
ATTENTION = ["q_proj", "v_proj", "o_proj", "out_proj"]
LINEAR = [*ATTENTION, "up_proj", "down_proj", "fc1"]


class Tuned:
    """An adapter that peft made on the library's network, and the network that it stands for."""

    def __init__(self, base: Path, directory: Path, **settings: Any) -> None:
        self.reference = Reference(base)
        chosen = {"r": 4, "lora_alpha": 6, "target_modules": LINEAR} | settings
        network = peft.get_peft_model(self.reference.network, peft.LoraConfig(**chosen))
        generator = torch.Generator().manual_seed(1)
        for name, weight in network.named_parameters():
            if "lora_" in name:
                drawn = torch.randn(weight.shape, generator=generator)
                weight.data = 0.7 * drawn / weight.shape[1] ** 0.5
            elif "modules_to_save" in name:
                weight.data += 0.1 * torch.randn(weight.shape, generator=generator)
        network.save_pretrained(directory)
        self.reference.network = network.eval()
        self.directory = directory

    @cached_property
    def model(self) -> TransformersModel:
        return self.load()

    def load(self, **options: Any) -> TransformersModel:
        base = json.loads((self.directory / CONFIG).read_text())["base_model_name_or_path"]
        checkpoint = Checkpoint(Path(base), Adapter(self.directory, "tuned"))
        return TransformersModel.load(checkpoint, torch.float32, CPU, **options)

    def prompt(self) -> list[int]:
        sound = recording("en-one-participant")[:33_000]
        rows = self.model.audio_rows(self.model.features(sound).shape[-1])
        return [21, 22, *[self.model.audio_token] * rows, 31, 32, 33]

    def scores(self, model: TransformersModel) -> Tensor:
        """Of every position of a prompt."""
        features = model.features(recording("en-one-participant")[:33_000])
        return prompt_scores(
            model, [self.prompt()], [model.encode(features[None], [features.shape[-1]])]
        )[0]

    def expected(self) -> Tensor:
        return self.reference.scores(self.prompt(), recording("en-one-participant")[:33_000])


def assert_same(found: Tensor, expected: Tensor) -> None:
    """To 1e-5 of the largest."""
    largest = expected.abs().max()
    torch.testing.assert_close(found / largest, expected / largest, atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}
    writers = tiny_transformers.WRITERS | {"asr_authors": tiny_transformers.qwen3_asr_original}
    added = {"qwen2_audio": tiny_tokenizers.ADDED_2, "qwen25_omni": tiny_tokenizers.ADDED_2}

    def base(kind: str) -> Path:
        if kind not in made:
            made[kind] = writers[kind](tmp_path_factory.mktemp(kind) / "base")
            tokens = added.get(kind, tiny_tokenizers.ADDED_3)
            tiny_tokenizers.write(made[kind], tokens, whole=True)
        return made[kind]

    return base


# --- as peft's own networks ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(tiny_transformers.WRITERS))
def test_a_tuned_network_is_pefts(kind: str, bases: Callable[[str], Path], tmp_path: Path) -> None:
    """Scores, greedy answers and labels by the engine; encoder and decoder are tuned."""
    # To peft, the experts of a mixture are no linear layers.
    targets = ATTENTION if kind == "qwen3_omni" else LINEAR
    tuned = Tuned(bases(kind), tmp_path / "tuned", target_modules=targets)
    assert_same(tuned.scores(tuned.model), tuned.expected())
    plain = TransformersModel.load(Checkpoint(bases(kind)), torch.float32, CPU)
    assert (tuned.scores(plain) - tuned.expected()).abs().max() > 0.5

    prompt, sound = tuned.prompt(), recording("en-one-participant")[:33_000]

    def dialogue() -> Any:
        said = yield Generate(prompt, 12, STOP)
        scored = yield Score(prompt, LABELS)
        return said, scored

    engine: Engine[int, Any] = Engine(tuned.model, CPU, Budget(seats=2, rows=2_000))
    engine.add(Work(0, (AudioInput(tuned.model.features(sound)),), dialogue()))
    (done,) = [done for _ in range(40) for done in engine.turn()]
    assert done.error is None and done.result is not None
    said, scored = done.result
    assert isinstance(said, Generated) and isinstance(scored, Scored)
    assert said.tokens == tuned.reference.answer(prompt, sound, STOP, 12)
    for mine, label in zip(scored.logprobs, LABELS, strict=True):
        assert mine == pytest.approx(tuned.reference.logprobs(prompt, sound, label), abs=1e-4)


@pytest.mark.parametrize(
    "settings",
    [
        {"use_rslora": True, "lora_alpha": 3},
        {"rank_pattern": {"q_proj": 2, r"layers\.1\.self_attn\.v_proj": 8}},
        {"alpha_pattern": {"o_proj": 1, "language_model.layers.0.mlp.up_proj": 12.5}},
        {"rank_pattern": {"[qv]_proj": 2, "^model.language_model.layers.2.self_attn.q_proj": 6},
         "alpha_pattern": {r".*\.[qv]_proj": 2}, "use_rslora": True, "lora_alpha": 3},
        {"modules_to_save": ["multi_modal_projector", "lm_head"], "lora_dropout": 0.5},
        {"target_modules": ["lm_head", "linear", "fc1"]},
        {"init_lora_weights": "gaussian", "layers_to_transform": [2], "layers_pattern": "layers"},
    ],
    ids=lambda settings: "-".join(settings),
)  # fmt: skip
def test_settings_mean_what_they_mean_to_peft(
    settings: dict[str, Any], bases: Callable[[str], Path], tmp_path: Path
) -> None:
    tuned = Tuned(bases("qwen2_audio"), tmp_path / "tuned", **settings)
    assert_same(tuned.scores(tuned.model), tuned.expected())


@pytest.mark.parametrize(
    ("kind", "pairs"),
    [
        (
            "qwen2_audio",
            [
                (r"\.model\.language_model\.", ".language_model.model."),
                (r"\.model\.(audio_tower|multi_modal_projector)\.", r".\1."),
                (r"model\.lm_head\.", "model.language_model.lm_head."),
            ],
        ),
        (
            "qwen25_omni",
            [
                (r"\.model\.language_model\.", ".thinker.model."),
                (r"\.model\.(audio_tower|visual)\.", r".thinker.\1."),
            ],
        ),
        ("qwen25_omni", [(r"language_model\.", ""), (r"\.model\.(audio_tower|visual)", r".\1")]),
        (
            "qwen3_omni",
            [
                (r"\.model\.language_model\.", ".thinker.model."),
                (r"\.model\.(audio_tower|visual)\.", r".thinker.\1."),
            ],
        ),
        (
            "qwen3_asr",
            [
                (r"\.model\.language_model\.", ".thinker.model."),
                (r"model\.multi_modal_projector\.linear_", "model.audio_tower.proj"),
                (r"\.model\.audio_tower\.", ".thinker.audio_tower."),
            ],
        ),
        ("qwen3_asr", [(rf"^{PREFIX}", "")]),
        ("qwen3_asr", [(r"(lora_[AB])\.", r"\1.default.")]),
        ("qwen2_audio", [(r"lm_head\.", "lm_head.modules_to_save.default.")]),
    ],
)
def test_names_of_other_releases(
    kind: str, pairs: list[tuple[str, str]], bases: Callable[[str], Path], tmp_path: Path
) -> None:
    """As adapters have them that were trained on earlier releases, or on the authors' packages."""
    settings: dict[str, Any] = {"target_modules": [*ATTENTION, "linear_1", "linear", "proj1"]}
    if kind == "qwen2_audio":
        settings["modules_to_save"] = ["lm_head"]
    tuned = Tuned(bases(kind), tmp_path / "tuned", **settings)
    before = load_file(tuned.directory / WEIGHTS).keys()
    rename(tuned.directory, *pairs)
    assert before != load_file(tuned.directory / WEIGHTS).keys()
    assert_same(tuned.scores(tuned.model), tuned.expected())


def test_the_authors_layout_of_a_base(bases: Callable[[str], Path], tmp_path: Path) -> None:
    tuned = Tuned(bases("qwen3_asr"), tmp_path / "tuned")
    edit(tuned.directory, base_model_name_or_path=str(bases("asr_authors")))
    assert_same(tuned.scores(tuned.model), tuned.expected())


def test_weights_that_lie_elsewhere_are_tuned(bases: Callable[[str], Path], tmp_path: Path) -> None:
    """Weights that are fetched from the disk for each step: of layers, and of one matrix alone."""
    settings = {"target_modules": [*LINEAR, "linear"], "modules_to_save": ["lm_head"]}
    tuned = Tuned(bases("qwen2_audio"), tmp_path / "tuned", **settings)
    parts = {
        "model.audio_tower": "cpu",
        "model.multi_modal_projector": "disk",
        "model.language_model.embed_tokens": "cpu",
        "model.language_model.layers.0": "cpu",
        "model.language_model.layers.1": "disk",
        "model.language_model.layers.2": "cpu",
        "model.language_model.norm": "cpu",
        "model.language_model.rotary_emb": "cpu",
        "lm_head": "disk",
    }
    spread = tuned.load(device_map=parts)
    assert spread.network.get_parameter(
        "model.language_model.layers.1.self_attn.q_proj.weight"
    ).is_meta
    assert_same(tuned.scores(spread), tuned.expected())


def test_a_tuned_model_is_packed_like_its_base(
    bases: Callable[[str], Path], tmp_path: Path
) -> None:
    """No matrix is left beside the packed ones, and none is what it was."""
    tuned = Tuned(bases("qwen2_audio"), tmp_path / "tuned")
    plain = TransformersModel.load(Checkpoint(bases("qwen2_audio")), torch.float32, CPU)
    kinds = [
        [(name, type(module)) for name, module in model.network.named_modules()]
        for model in (tuned.model, plain)
    ]
    assert kinds[0] == kinds[1]
    if not can_pack(torch.empty(1)):
        pytest.skip("nothing is packed on this machine")
    name = "model.language_model.layers.1.self_attn.q_proj"
    x = torch.eye(64)
    bias = load_file(bases("qwen2_audio") / "model.safetensors")[
        "language_model.model.layers.1.self_attn.q_proj.bias"
    ]
    layers = [model.network.get_submodule(name) for model in (tuned.model, plain)]
    assert all(type(layer) is PackedLinear for layer in layers)
    new, old = ((layer(x) - bias).T for layer in layers)
    halves = load_file(tuned.directory / WEIGHTS)
    a, b = (halves[f"{PREFIX}{name}.lora_{half}.weight"] for half in "AB")
    assert_same(new - old, 6 / 4 * b @ a)


def test_sums_are_made_in_32_bits(bases: Callable[[str], Path], tmp_path: Path) -> None:
    """What a model in 16 bits holds is their rounded sum, to the bit."""
    base, tuned = bases("qwen3_asr"), Tuned(bases("qwen3_asr"), tmp_path / "tuned")
    checkpoint = Checkpoint(base, Adapter(tuned.directory, "tuned"))
    model = TransformersModel.load(checkpoint, torch.float16, CPU)
    name = "model.language_model.layers.1.mlp.up_proj"
    halves = load_file(tuned.directory / WEIGHTS)
    a, b = (halves[f"{PREFIX}{name}.lora_{half}.weight"].double() for half in "AB")
    weight = load_file(base / "model.safetensors")[f"{name}.weight"].half()
    found = model.network.get_parameter(f"{name}.weight")
    assert found.dtype == torch.float16
    assert (found != weight).float().mean() > 0.9
    wrong = found != (weight.double() + 1.5 * b @ a).half()
    assert wrong.float().mean() < 0.01  # 32 bits round to another neighbour now and then


# --- as a user runs them ------------------------------------------------------------------------


def transcripts(model: Path, **options: Any) -> list[Record]:
    paths = [EXAMPLES / f"{name}.wav" for name in ("en-one-participant", "fr-one-participant")]
    qwa = Qwa(model=str(model), device="cpu", dtype="float32", order="input", **options)
    records = list(qwa.transcribe(paths, language="en", max_tokens=8, vad=False))
    assert all(isinstance(record, Record) for record in records)
    return [record for record in records if isinstance(record, Record)]


def test_a_directory_with_an_adapter_is_a_model(
    bases: Callable[[str], Path], tmp_path: Path
) -> None:
    """The text is that of the checkpoint into which peft itself merges it; its base stays as is."""
    tuned = Tuned(bases("qwen2_audio"), tmp_path / "tuned")
    before = (bases("qwen2_audio") / "model.safetensors").read_bytes()
    found = transcripts(tuned.directory)
    assert (bases("qwen2_audio") / "model.safetensors").read_bytes() == before
    merged = tmp_path / "merged"
    shutil.copytree(bases("qwen2_audio"), merged)
    tuned.reference.network.merge_and_unload().save_pretrained(merged)
    expected, plain = transcripts(merged), transcripts(bases("qwen2_audio"))
    assert [record.text for record in found] == [record.text for record in expected]
    assert [record.text for record in found] != [record.text for record in plain]
    revision = Checkpoint(bases("qwen2_audio")).revision
    assert re.fullmatch(rf"tuned@[0-9a-f]{{12}}\+base@{revision}", found[0].model)
    assert found[0].id != plain[0].id


def test_the_name_of_an_adapter_says_nothing_of_the_family(
    bases: Callable[[str], Path], tmp_path: Path
) -> None:
    tuned = Tuned(bases("qwen2_audio"), tmp_path / "my-instruct-captioner")
    assert open_model(Wanted(str(tuned.directory))).name == "qwen2-audio"


# --- the native families ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoints.qwen_audio(tmp_path_factory.mktemp("native") / "base")


def merged_by_hand(base: Path, adapter: Path, directory: Path) -> Path:
    """The checkpoint that an adapter of `by_hand` makes of its base."""
    shutil.copytree(base, directory)
    tuned = load_file(adapter / WEIGHTS)
    for shard in directory.glob("model*.safetensors"):
        weights = load_file(shard)
        for name, weight in weights.items():
            module = PREFIX + name.removesuffix(".weight")
            if f"{module}.lora_A.weight" in tuned:
                a, b = (tuned[f"{module}.lora_{half}.weight"].double() for half in "AB")
                weights[name] = (weight.double() + 8 / 4 * b @ a).float()
            weights[name] = tuned.get(PREFIX + name, weights[name])
        save_file(weights, shard, {"format": "pt"})
    return directory


def native_scores(family: Family, device_map: str | None = None) -> Tensor:
    assert isinstance(family, QwenAudio)
    family.load(torch.float32, CPU, device_map)
    features = family.features(recording("en-one-participant")[:33_000])
    span = audio_span(family.tokenizer, rows_in(33_000 / 16_000, family.window))
    prompt = base_prompt(family.tokenizer, span, TASKS["asr"].tags(language="en"), TASKS["asr"])
    memory = family.model.encode(features[None], [features.shape[-1]])
    return prompt_scores(family.model, [prompt], [memory])[0]


@pytest.mark.parametrize("name", [str, ours])
def test_qwen_audio_is_tuned_as_by_hand(
    name: Callable[[str], str], native: Path, tmp_path: Path
) -> None:
    tuned = by_hand(native, tmp_path / "tuned", name)
    merged = merged_by_hand(native, by_hand(native, tmp_path / "published"), tmp_path / "merged")
    scores = native_scores(open_model(Wanted(str(tuned))))
    assert_same(scores, native_scores(open_model(Wanted(str(merged)))))
    assert (scores - native_scores(open_model(Wanted(str(native))))).abs().max() > 0.5
    spread = native_scores(open_model(Wanted(str(tuned))), "sequential")
    assert_same(spread, scores)


def test_whisper_is_tuned_as_by_peft(tmp_path: Path) -> None:
    """An adapter of transformers' Whisper, over the whole window."""
    base = tmp_path / "base"
    tiny_whisper.newest(base)
    network = WhisperForConditionalGeneration.from_pretrained(base)
    targets = [*ATTENTION, "k_proj", "fc1", "fc2"]
    settings = peft.LoraConfig(r=4, lora_alpha=4, target_modules=targets)
    network = peft.get_peft_model(network, settings)
    generator = torch.Generator().manual_seed(3)
    for name, weight in network.named_parameters():
        if "lora_" in name:
            weight.data = torch.randn(weight.shape, generator=generator) / weight.shape[1] ** 0.5
    network.save_pretrained(tmp_path / "tuned")
    family = open_model(Wanted(str(tmp_path / "tuned")), full_window=True)
    assert isinstance(family, Whisper)
    family.load(torch.float32, CPU)
    features = family.features(recording("en-one-participant"))
    ids = [50258, 50259, 50359, 50363, 400, 401, 402]
    scores = prompt_scores(
        family.model, [ids], [family.model.encode(features[None], [features.shape[-1]])]
    )[0]
    with torch.inference_mode():
        expected = network.eval()(
            input_features=features[None], decoder_input_ids=torch.tensor([ids])
        ).logits[0]
    assert_same(scores, expected)


def test_a_weight_of_two_places_is_not_changed_in_one(
    bases: Callable[[str], Path], tmp_path: Path
) -> None:
    """To peft the output projection of a tied model is a matrix of its own; here it is not."""
    with pytest.warns(UserWarning, match="tied"):
        tuned = Tuned(bases("qwen3_asr"), tmp_path / "tuned", target_modules=["lm_head"])
    with pytest.raises(ConfigError, match=r"lm_head.weight is one weight with another"):
        tuned.load()
