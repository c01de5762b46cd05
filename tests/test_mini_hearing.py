"""What mini learns before its decoder, by torch's own losses, and what its norm begins with."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import recording
from lessons import item
from torch import Tensor
from torch.nn.functional import cosine_similarity, ctc_loss, gelu

from qwen_audio_cli.families.base import Subject
from qwen_audio_cli.families.mini import Mini
from qwen_audio_cli.families.mini_model import ASPECTS, ActNorm, Summary, likenesses, statistics
from qwen_audio_cli.families.spelling import symbols
from qwen_audio_cli.training.batches import Example
from qwen_audio_cli.training.manifest import Item
from qwen_audio_cli.training.mini.hearing import said_in
from qwen_audio_cli.training.mini.learner import MiniLearner
from qwen_audio_cli.training.mini.pieces import spelling_pieces
from qwen_audio_cli.training.mini.recipe import MiniRecipe
from qwen_audio_cli.training.mini.summarise import labels_in, teach

pytest.importorskip("gguf", reason="gguf, of the extra 'train', is not installed")
import tiny_mini
from tiny_mini import Built

CLIP, OTHER = "en-one-participant", "fr-one-participant"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return tiny_mini.tiny(tmp_path_factory.mktemp("tiny"))


def said(text: str, **values: Any) -> Item:
    """A recording whose words are known."""
    words = tuple((word, 0.1 * n, 0.1 * n + 0.1) for n, word in enumerate(text.split()))
    return item(CLIP, text, words=words, **values)


def about(task: str, target: str, clip: str = CLIP) -> Item:
    return item(clip, target, task=task, language=None)


LABELLED = [
    *(about("language", code) for code in ("en", "fr", "en")),
    *(about("gender", label) for label in ("male", "female")),
    *(about("pitch", number) for number in ("60", "72", "61")),
    *(about("velocity", number) for number in ("25", "127")),
    *(about("instrument", label) for label in ("flute", "guitar")),
    *(about("sound-event", labels) for labels in ("rain, dog", "rain", "cat", "rain, dog, cat")),
]


def learner(family: Mini, built: Built, **values: Any) -> MiniLearner:
    recipe = MiniRecipe(hearing=True, **values)
    return MiniLearner(family, recipe, torch.float32, built.directory)


def example(family: Mini, given: Item, features: Tensor) -> Example:
    subject = Subject((len(recording(given.audio.stem)) / 16_000,))
    lesson = family.lesson(given.job(), subject, given.target)
    return Example(given, features, subject, lesson)


# --- the network --------------------------------------------------------------------------------


def test_a_norm_begins_with_mean_0_and_deviation_1() -> None:
    generator = torch.Generator().manual_seed(1)
    spread = torch.tensor([300.0, 1.0, 1e-2, 0.0])
    rows = torch.randn(500, 4, generator=generator) * spread + torch.tensor([5.0, -90.0, 0.1, 7.0])
    norm = ActNorm(4)
    assert torch.equal(norm(rows), rows)
    norm.begin(rows)
    std, mean = torch.std_mean(norm(rows), 0, correction=0)
    torch.testing.assert_close(mean, torch.zeros(4), atol=2e-3, rtol=0)
    torch.testing.assert_close(std, torch.tensor([1.0, 1.0, 1.0, 0.0]), atol=1e-3, rtol=1e-3)
    assert norm.scale.requires_grad and norm.scale.is_leaf


def test_a_summary_is_of_mean_and_deviation_of_all_rows() -> None:
    """Of three rows it matters by how many the squares are divided."""
    summary = Summary(2, 5, 3)
    rows = torch.tensor([[1.0, 0.0], [2.0, 4.0], [6.0, -1.0]])
    told = torch.tensor([3.0, 1.0, (14 / 3) ** 0.5, (14 / 3) ** 0.5])
    torch.testing.assert_close(statistics(rows), told)
    with torch.no_grad():
        summary.norm.scale.copy_(torch.tensor([1.0, 2.0, 3.0, 0.5]))
        summary.norm.shift.copy_(torch.tensor([-1.0, 0.0, 0.2, 0.3]))
    told = told * torch.tensor([1.0, 2.0, 3.0, 0.5]) + torch.tensor([-1.0, 0.0, 0.2, 0.3])
    hidden = gelu(summary.hidden.weight @ told + summary.hidden.bias)
    out = summary.out.weight @ hidden + summary.out.bias
    torch.testing.assert_close(summary(rows), torch.stack(out.split(3)))
    torch.testing.assert_close(summary(rows[[2, 0, 1]]), summary(rows))


def test_of_a_single_row_a_summary_has_gradients_still() -> None:
    """Its deviation is 0, where a square root has none."""
    summary = Summary(8, 5, 4)
    row = torch.randn(1, 8, requires_grad=True)
    out = summary(row)
    assert out.shape == (len(ASPECTS), 4) == (6, 4)
    out.square().sum().backward()
    assert row.grad is not None and row.grad.isfinite().all() and row.grad.abs().sum() > 0


def test_the_norm_begins_with_what_is_heard_of_the_items_and_begins_once(tiny: Built) -> None:
    family, items = tiny.plain(), [about("language", "en"), about("language", "fr", OTHER)]
    learning = learner(family, tiny)
    learning.begin(items)
    rows = torch.cat([learning.ear.features(recording(clip)).T for clip in (CLIP, OTHER)])
    norm = family.model.audio.norm
    std, mean = torch.std_mean(rows * norm.scale.detach() + norm.shift.detach(), 0, correction=0)
    torch.testing.assert_close(mean, torch.zeros_like(mean), atol=1e-3, rtol=0)
    torch.testing.assert_close(std, torch.ones_like(std), atol=1e-3, rtol=0)
    begun = norm.scale.clone()
    learning.begin(items[:1])
    assert torch.equal(norm.scale, begun)
    other = MiniLearner(family, MiniRecipe(), torch.float32, tiny.directory)
    other.begin(items)
    assert other.hearing is None


def test_what_is_trained_on_is_heard_with_noise_and_gaps(tiny: Built) -> None:
    """The noise is a quarter of what a channel differs by; two gaps are a tenth at most each."""
    family = tiny.plain()
    learning = learner(family, tiny)
    learning.begin([about("language", "en")])
    features = learning.ear.features(recording(CLIP))
    norm = family.model.audio.norm
    with torch.no_grad():
        changed = norm(learning.masked(features, "a").T) - norm(features.T)
    added = changed.std(1)
    whole = (added - 0.25).abs() < 0.02
    assert 0.8 * len(added) <= whole.sum() < len(added)
    quiet = changed[whole].std(0)
    assert quiet.min() > 0.1 and quiet.max() < 0.4
    torch.testing.assert_close(quiet.mean(), torch.tensor(0.25), atol=0.01, rtol=0)
    assert torch.equal(learning.masked(features, "a"), learning.masked(features, "a"))
    assert not torch.equal(learning.masked(features, "a"), learning.masked(features, "b"))


# --- letters and pieces -------------------------------------------------------------------------


def test_letters_and_pieces_are_learned_by_torchs_ctc_loss(
    tiny: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = tiny.plain()
    learning = learner(family, tiny)
    given = said("One, other!")
    learning.begin([given])
    assert learning.hearing is not None
    own = family.tokenizer.encode(" one other")
    everything = torch.tensor(sorted({*spelling_pieces(family.tokenizer), *own}))
    monkeypatch.setattr(learning.hearing.pieces, "among", lambda targets: everything)
    features = learning.ear.features(recording(CLIP))
    silent = replace(given, target="<|sil|>", words=None)
    unknown = replace(given, words=None)
    ours = learning.losses([example(family, one, features) for one in (given, silent, unknown)])
    with torch.no_grad():
        rows, letters = family.model.heard(features.T)
    rows = rows[7:-1]  # behind the begin vector and what is about the whole
    assert len(rows) == (features.shape[1] + 1) // 2
    embedding = family.model.decoder.wte.weight
    # Before it has learned the head maps nothing, and its blank is the mean of all embeddings.
    sayable = torch.cat([embedding[everything], embedding.mean(0)[None]])
    pieces = (20 * cosine_similarity(rows[:, None], sayable[None], dim=-1)).log_softmax(-1)
    for text, loss in zip((" one other", ""), ours[:2], strict=True):
        whole = torch.zeros(())
        ids = [everything.tolist().index(id) for id in family.tokenizer.encode(text)]
        for scores, target in ((pieces, ids), (letters, symbols(text))):
            blank = scores.shape[1] - 1
            whole += ctc_loss(
                scores, torch.tensor(target), [len(scores)], [len(target)], blank, "sum"
            ).view(())
        torch.testing.assert_close(loss, whole, rtol=1e-4, atol=1e-3)
    assert ours[2] == 0  # nobody knows what is said


def test_what_is_said_is_known_of_verbatim_transcripts_and_of_silence() -> None:
    assert said_in(said("Don't stop, 5 cats")) == " don't stop cats"
    assert said_in(item(CLIP, "press 5")) is None
    assert said_in(item(CLIP, "<|sil|>")) == ""


# --- labels -------------------------------------------------------------------------------------


def test_labels_lie_where_their_text_does_and_no_two_alike(tiny: Built) -> None:
    """Tokens in another order are another label."""
    family = tiny.plain()
    text = family.model.decoder.wte.weight
    (first,), (second,) = (family.tokenizer.encode(digit) for digit in "67")
    assert family.tokenizer.encode("67") == [first, second]
    turned = torch.cat([text[second][-1:], text[second][:-1]])
    one, other = family.embedded(["67", "76"])
    torch.testing.assert_close(one, (text[first] + turned) / 2)
    assert cosine_similarity(one, other, dim=0) < 0.9


def test_likeness_is_the_cosine_with_what_is_a_labels_own() -> None:
    generator = torch.Generator().manual_seed(2)
    rows, labels = torch.randn(3, 8, generator=generator), torch.randn(5, 8, generator=generator)
    common = labels.sum(0) / 5
    by_hand = [[cosine_similarity(row, one - common, dim=0) for one in labels] for row in rows]
    torch.testing.assert_close(likenesses(rows, labels), torch.tensor(by_hand))


def test_of_each_aspect_the_labels_are_those_of_the_items() -> None:
    labels = labels_in([*LABELLED, said("one other")])
    assert set(labels) == set(ASPECTS)
    assert labels["sound-event"] == ["cat", "dog", "rain"]
    assert labels["pitch"] == ["60", "61", "72"]


def test_a_summary_is_taught_what_statistics_tell(tiny: Built) -> None:
    """Of clips whose statistics differ by their labels each row comes nearest its own label."""
    family = tiny.plain()
    generator = torch.Generator().manual_seed(5)
    summary = family.model.audio.summary
    places = {one.target: torch.randn(3072, generator=generator) for one in LABELLED}

    def clips(number: int) -> list[tuple[Item, Tensor]]:
        return [
            (one, 50 + places[one.target] + 0.2 * torch.randn(3072, generator=generator))
            for one in LABELLED
            for _ in range(number)
        ]

    torch.manual_seed(0)
    teach(family, clips(20))
    labels, right = labels_in(LABELLED), 0
    for one, told in (new := clips(3)):
        place = ASPECTS.index(one.task)
        with torch.no_grad():
            row = summary.rows(summary.norm(told))[place]
            likely = likenesses(row, family.embedded(labels[one.task])).argmax()
        right += labels[one.task][int(likely)] in one.target.split(", ")
    assert right > 0.9 * len(new)


def test_a_label_is_no_likelier_because_more_clips_have_it(tiny: Built) -> None:
    """Of clips that tell nothing half are of a language, if only one in eleven that taught is."""
    family = tiny.plain()
    generator = torch.Generator().manual_seed(7)
    sounds = torch.randn(4, 3072, generator=generator)
    given = [(code, told) for told in sounds for code in ("fr", *10 * ["en"])]
    taught = [(about("language", code), told) for code, told in given]
    torch.manual_seed(0)
    teach(family, taught)
    summary, place = family.model.audio.summary, ASPECTS.index("language")
    with torch.no_grad():
        rows = summary.rows(summary.norm(sounds))[:, place]
        labels = labels_in(one for one, _ in taught)["language"]
        likely = likenesses(rows, family.embedded(labels))
        chances = (summary.scales[place] * likely).softmax(-1).mean(0)
    assert dict(zip(labels, chances.tolist(), strict=True))["fr"] > 0.35


def test_head_and_projector_learn_to_spell(tiny: Built) -> None:
    family = tiny.plain()
    learning = learner(family, tiny)
    given = [said("one other"), said("one")]
    learning.begin(given)
    features = learning.ear.features(recording(CLIP))
    learning.losses([example(family, one, features) for one in given]).sum().backward()
    parts = ("audio.proj.", "ctc.")
    own = {name for name, _ in family.model.named_parameters() if name.startswith(parts)}
    heads = {"hearing.pieces.proj.weight", "hearing.pieces.proj.bias", "hearing.pieces.blank"}
    heads |= {"hearing.pieces.scale"}
    assert set(learning.weights) == own | heads
    unmoved = {
        name
        for name, weight in learning.weights.items()
        if weight.grad is None or not weight.grad.abs().sum() > 0
    }
    assert unmoved == set()
    rest = {n for n, w in family.model.named_parameters() if w.grad is not None} - own
    assert rest == set()
