"""What of mini learns, and from what: first to hear, then the answers to tags."""

from __future__ import annotations

import hashlib
import random
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ...audio import SAMPLE_RATE
from ...audio.decode import Samples
from ...families.base import Job, Lesson, Subject
from ...families.mini import Mini
from ...families.mini_config import LORA
from ...families.mini_model import ANSWERING, ASPECTS, MiniModel, statistics
from ...layout import is_adapter
from .. import lora
from ..augment import mask_stretches, spec_augment, with_noise
from ..batches import Ear, Example, clip_of, heard
from ..manifest import Item
from ..network import Anatomy, anatomy
from ..retake import retaken
from ..step import answer_losses
from .hearing import Hearing, said_in, spelled
from .recipe import MiniRecipe
from .summarise import labels_in, teach
from .weights import save_trained

HEARING = ("audio.proj.", "ctc.")
"""How the names of weights begin that learn to spell before the decoder learns."""

NOISE = 0.25
"""What is added to states, as a share of what these differ by."""

FIRST_CLIPS = 200
"""How many clips the norm begins with."""


RETAKEN = frozenset({"asr", "translation", "language", "gender"})
"""The tasks whose answer is the same of another take (`retake.py`): when a word is said differs,
and how high a note is. Instruments and other sounds gained nothing by takes."""

LONGEST_RETAKEN = 26.0
"""Seconds of a recording that is no longer than an encoder's window however slow it is played."""


States = dict[bytes, Tensor]
"""What a frozen encoder made of clips, by a digest of their samples."""


class FrozenEar:
    """Hears by mini's encoder, which does not learn: each recording but once.

    What it `heard` can be given to the ear of another run.
    """

    def __init__(self, family: Mini, heard: States) -> None:
        self.name, self.window = family.name, family.window
        self._family, self._heard = family, heard

    def features(self, samples: Samples) -> Tensor:
        """What the encoder's layers make of a clip: [layers * width, rows]."""
        key = hashlib.blake2b(samples.tobytes(), digest_size=16).digest()
        if key not in self._heard:
            tower = self._family.model.audio
            mel = self._family.features(samples).to(tower.positional_embedding)
            with torch.no_grad():
                self._heard[key] = tower.encoded(mel[None], [mel.shape[1]])[0].T.contiguous()
        return self._heard[key]

    def lesson(self, job: Job, subject: Subject, target: str) -> Lesson:
        """As the family's."""
        return self._family.lesson(job, subject, target)


@dataclass(slots=True, eq=False)
class MiniLearner:
    """Mini, loaded to be trained in `dtype`; what learns of it is in float32.

    `begun` is its checkpoint, whose low-rank part goes on learning.
    """

    family: Mini
    recipe: MiniRecipe
    dtype: torch.dtype
    begun: Path
    states: States = field(default_factory=dict)
    anatomy: Anatomy = field(init=False)
    ear: Ear = field(init=False)
    weights: Mapping[str, nn.Parameter] = field(init=False)
    hearing: Hearing | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        """Raises UsageError where what was begun has other adapters."""
        own = (*ANSWERING, "ctc.") if self.recipe.ctc else ANSWERING
        self.anatomy = replace(anatomy(self.model), own=own)
        torch.manual_seed(self.recipe.seed)
        if self.recipe.encoder_layers:
            lora.put_beside(self._encoder_linears(), self.model.audio.blocks, self.recipe)
        if self.recipe.hearing:
            self.weights = lora.unfrozen(self.model, HEARING)
        else:
            self.weights = lora.inject(self.anatomy, self.recipe)
        if is_adapter(self.begun / LORA):
            lora.go_on(self.anatomy, self.weights, self.begun / LORA)
        self.model.audio.norm.float()  # a channel's mean may be many deviations from 0
        # What an encoder hears while it learns is of no use a step later.
        self.ear = (
            self.family if self.recipe.encoder_layers else FrozenEar(self.family, self.states)
        )

    def begin(self, items: Sequence[Item]) -> dict[str, list[str]]:
        """Make ready to learn from `items`; a mini that has learned nothing yet hears their clips.

        Its norm is set by them, and its summary taught: gives the labels that it was taught.
        """
        if not self.recipe.hearing:
            return {}
        self.hearing = Hearing(self.family)
        own = {f"hearing.{name}": weight for name, weight in self.hearing.named_parameters()}
        self.weights = {**self.weights, **own}
        norm = self.model.audio.norm
        if (norm.scale != 1).any():
            return {}
        train = [item for item in items if item.split == "train"]
        drawn = random.Random(self.recipe.seed).sample(train, min(FIRST_CLIPS, len(train)))
        norm.begin(torch.cat([self.ear.features(self._samples(item)).T for item in drawn]))
        labelled = [item for item in train if item.task in ASPECTS]
        spoken = {item.audio for item in train if said_in(item) is not None}
        told: dict[tuple[Path, bool], list[Tensor]] = {}
        for item in labelled:
            if (clip := _clip(item)) not in told:
                # What is not spelled later is heard for this alone: it need not be kept.
                ear = self.ear if item.audio in spoken else FrozenEar(self.family, {})
                heard = (norm(ear.features(take).T) for take in self._takes(item))
                told[clip] = [statistics(states) for states in heard]
        if labelled:
            teach(self.family, [(item, heard) for item in labelled for heard in told[_clip(item)]])
        return labels_in(labelled)

    def _takes(self, item: Item) -> Iterator[Samples]:
        """All takes in which an item is heard."""
        samples = self._samples(item)
        return (retaken(samples, take) for take in range(self._count(item, samples)))

    def _count(self, item: Item, samples: Samples) -> int:
        """In how many takes an item is heard."""
        if item.task not in RETAKEN or len(samples) > LONGEST_RETAKEN * SAMPLE_RATE:
            return 1
        return 1 + self.recipe.takes

    def _samples(self, item: Item) -> Samples:
        return clip_of(item, self.ear.window).samples

    def _encoder_linears(self) -> list[str]:
        """The projections of the encoder's last blocks, named within the blocks."""
        blocks = self.model.audio.blocks
        first = max(0, len(blocks) - self.recipe.encoder_layers)
        return [
            name
            for name, module in blocks.named_modules()
            if isinstance(module, nn.Linear) and int(name.partition(".")[0]) >= first
        ]

    @property
    def model(self) -> MiniModel:
        """The network."""
        assert isinstance(self.family.model, MiniModel)
        return self.family.model

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.model.audio.audio_bos_eos_token.weight.device

    @property
    def label(self) -> str:
        """What records call it."""
        return self.family.label

    @property
    def count(self) -> int:
        """How many numbers are trained."""
        return sum(weight.numel() for weight in self.weights.values())

    def retaken(self, item: Item, samples: Samples, epoch: int) -> Samples:
        """Each epoch hears another take."""
        take = (epoch + zlib.crc32(samples.tobytes())) % self._count(item, samples)
        return retaken(samples, take)

    def masked(self, features: Tensor, seed: str) -> Tensor:
        """Stretches of what was heard, blanked, and noise: what an encoder says has no bands.

        Without noise a draft of what was trained on would have no errors to be read past.
        """
        if self.recipe.encoder_layers:
            return spec_augment(features, seed)
        deviation = NOISE / self.model.audio.norm.scale.detach()
        return with_noise(mask_stretches(features, seed), deviation, seed)

    def losses(self, batch: Sequence[Example]) -> Tensor:
        """The loss of each example, summed over its answer: [examples]."""
        encoded = [self._encoded(example.features) for example in batch]
        items = [example.item for example in batch]
        if self.hearing is not None:
            losses: Tensor = self.hearing(items, encoded)
            return losses
        memories = [self.model.heard(states) for states in encoded]
        lessons = [heard(self.family, *pair) for pair in zip(batch, memories, strict=True)]
        answered = answer_losses(self.model, lessons, [memory.rows for memory in memories])
        if not self.recipe.ctc:
            return answered
        said = {n: text for n, item in enumerate(items) if (text := said_in(item)) is not None}
        scores = {n: memories[n].spelled for n in said}
        return answered + self.recipe.ctc * spelled(said, scores, len(batch))

    def weight(self, example: Example) -> float:
        """Every answer counts alike: a label of two tokens as much as a long transcript."""
        return 1 / len(example.lesson.answer)

    def _encoded(self, features: Tensor) -> Tensor:
        """What the encoder's layers make of a clip [rows, layers * width], if the ear has not."""
        tower = self.model.audio
        features = features.to(self.device)
        if not self.recipe.encoder_layers:
            return features.T
        mel = features[None].to(tower.positional_embedding)
        return tower.encoded(mel, [mel.shape[2]])[0]

    @contextmanager
    def learning(self) -> Iterator[None]:
        """Nothing of it is dropped out."""
        yield

    def save(self, directory: Path) -> None:
        """Write what was trained, beside the frozen files that are there."""
        save_trained(self.model, directory)
        halves = {name: w.half() for name, w in self.weights.items() if ".lora_" in name}
        if halves:
            (directory / LORA).mkdir(exist_ok=True)
            base = {"base_model_name_or_path": "..", "revision": None}
            lora.save(self.anatomy, halves, self.recipe, base, directory / LORA)


def _clip(item: Item) -> tuple[Path, bool]:
    """What items are heard once for: a recording, and whether in several takes."""
    return item.audio, item.task in RETAKEN
