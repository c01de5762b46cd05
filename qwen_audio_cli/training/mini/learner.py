"""What of mini learns, and from what: the answers to tags, and how speech is spelled (CTC)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import ctc_loss
from torch.nn.utils.rnn import pad_sequence

from ...families.base import Job, Lesson, Subject
from ...families.mini import Mini
from ...families.mini_config import LORA
from ...families.mini_model import TRAINED, MiniModel
from ...families.qwen_audio import SILENCE
from ...families.spelling import spelling
from ...layout import is_adapter
from .. import lora
from ..augment import mask_stretches, spec_augment
from ..batches import Ear, Example
from ..manifest import Item
from ..network import Anatomy, anatomy
from ..step import answer_losses
from .recipe import MiniRecipe
from .weights import save_trained

SPELLING = ("audio.norms.", "audio.proj.", "ctc.")
"""How the names of weights begin that learn by CTC alone."""

_RIVALS = 3000
"""Pieces drawn for each batch that its transcripts are told apart from, beside their own: all
33,000 would take ten times as long."""


class FrozenEar:
    """Hears by mini's encoder, which does not learn: each recording but once."""

    def __init__(self, family: Mini) -> None:
        self.name, self.window = family.name, family.window
        self._family = family
        self._heard: dict[bytes, Tensor] = {}

    def features(self, samples: NDArray[np.float32]) -> Tensor:
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
    anatomy: Anatomy = field(init=False)
    ear: Ear = field(init=False)
    weights: dict[str, nn.Parameter] = field(init=False)

    def __post_init__(self) -> None:
        """Raises UsageError where what was begun has other adapters."""
        self.anatomy = replace(anatomy(self.model), own=TRAINED)
        torch.manual_seed(self.recipe.seed)
        if self.recipe.encoder_layers:
            lora.put_beside(self._encoder_linears(), self.model.audio.blocks, self.recipe)
        if not self.recipe.ctc_only:
            self.weights = lora.inject(self.anatomy, self.recipe)
        else:
            self.weights = dict(lora.unfrozen(self.model, SPELLING))
        if is_adapter(self.begun / LORA):
            lora.go_on(self.anatomy, self.weights, self.begun / LORA)
        # Of an encoder that learns nothing can be kept.
        self.ear = self.family if self.recipe.encoder_layers else FrozenEar(self.family)

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
    def label(self) -> str:
        """What records call it."""
        return self.family.label

    @property
    def count(self) -> int:
        """How many numbers are trained."""
        return sum(weight.numel() for weight in self.weights.values())

    def masked(self, features: Tensor, seed: str) -> Tensor:
        """Stretches of what was heard, blanked: a frozen encoder's channels are no bands."""
        mask = spec_augment if self.recipe.encoder_layers else mask_stretches
        return mask(features, seed)

    def losses(self, batch: Sequence[Example]) -> Tensor:
        """The loss of each example, summed over its answer: [examples]."""
        tower = self.model.audio
        device = tower.audio_bos_eos_token.weight.device
        rows = [self._projected(example.features.to(device)) for example in batch]
        spelled = self._spelled([example.item for example in batch], rows)
        if self.recipe.ctc_only:
            return spelled
        contexts = [self.model.open([tower.framed(own)], False) for own in rows]
        answered = answer_losses(self.model, [example.lesson for example in batch], contexts)
        return answered + self.recipe.ctc * spelled

    def _projected(self, features: Tensor) -> Tensor:
        """A clip's rows [rows, width] from what the ear made of it."""
        tower, length = self.model.audio, features.shape[1]
        if self.recipe.encoder_layers:
            return tower.heard(features[None].to(tower.positional_embedding), [length])[0]
        return tower.projected(features.T[None], [length])[0]

    def _spelled(self, items: Sequence[Item], rows: Sequence[Tensor]) -> Tensor:
        """The CTC loss of each item of which it is known what is said, 0 of the others."""
        losses = torch.zeros(len(items), device=rows[0].device)
        told = {place: said_in(item) for place, item in enumerate(items)}
        known = {place: said for place, said in told.items() if said is not None}
        if not known or not (self.recipe.ctc or self.recipe.ctc_only):
            return losses
        targets = [self.family.tokenizer.encode(said) for said in known.values()]
        pieces = self._pieces(targets).to(losses.device)
        own = [rows[place].float() for place in known]
        with torch.autocast(losses.device.type, enabled=False):
            embedding = self.model.decoder.wte.weight[pieces].float()
            scores = self.model.ctc(torch.cat(own), embedding)
        column = {int(piece): place for place, piece in enumerate(pieces)}
        found = ctc_loss(
            pad_sequence(list(torch.split(scores, [len(part) for part in own]))),
            torch.tensor([column[piece] for target in targets for piece in target]),
            torch.tensor([len(part) for part in own]),
            torch.tensor([len(target) for target in targets]),
            blank=len(pieces),
            reduction="none",
            zero_infinity=True,  # said faster than a piece every 40 ms
        )
        return losses.index_copy(0, torch.tensor([*known], device=losses.device), found)

    def _pieces(self, targets: Sequence[Sequence[int]]) -> Tensor:
        """The pieces of some transcripts and others, which depend on the transcripts alone."""
        own = {piece for target in targets for piece in target}
        generator = torch.Generator().manual_seed(sum(own))
        spellable = torch.tensor(self.family.tokenizer.spellable)
        drawn = spellable[torch.randint(len(spellable), (_RIVALS,), generator=generator)]
        pieces = torch.cat([drawn, torch.tensor(sorted(own), dtype=torch.long)])
        return torch.unique(pieces)  # type: ignore[no-any-return]

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


def said_in(item: Item) -> str | None:
    """How what is said in an item's recording is spelled, where that is known; of silence ""."""
    if item.task == "asr" and item.target == SILENCE:
        return ""
    if item.words is None:
        return None
    return spelling(" ".join(word for word, _, _ in item.words))
