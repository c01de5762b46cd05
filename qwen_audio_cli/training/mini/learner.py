"""What of mini learns, and from what: the answers to tags, and how speech is spelled (CTC)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
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
from ...families.spelling import SYMBOLS, spelling, symbols
from ...layout import is_adapter
from .. import lora
from ..augment import mask_stretches, spec_augment
from ..batches import Ear, Example
from ..manifest import Item
from ..network import Anatomy, anatomy
from ..step import answer_losses
from .pieces import PieceHead
from .recipe import MiniRecipe
from .weights import save_trained

SPELLING = ("audio.norms.", "audio.proj.", "ctc.")
"""How the names of weights begin that learn by CTC before the decoder learns."""


States = dict[bytes, Tensor]
"""What a frozen encoder made of clips, by a digest of their samples."""


class FrozenEar:
    """Hears by mini's encoder, which does not learn: each recording but once.

    What it `heard` can be given to the ear of another run.
    """

    def __init__(self, family: Mini, heard: States) -> None:
        self.name, self.window = family.name, family.window
        self._family, self._heard = family, heard

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
    heard: States = field(default_factory=dict)
    anatomy: Anatomy = field(init=False)
    ear: Ear = field(init=False)
    weights: dict[str, nn.Parameter] = field(init=False)
    pieces: PieceHead | None = field(init=False)

    def __post_init__(self) -> None:
        """Raises UsageError where what was begun has other adapters."""
        self.anatomy = replace(anatomy(self.model), own=TRAINED)
        torch.manual_seed(self.recipe.seed)
        if self.recipe.encoder_layers:
            lora.put_beside(self._encoder_linears(), self.model.audio.blocks, self.recipe)
        self.pieces = None
        if not self.recipe.ctc_only:
            self.weights = lora.inject(self.anatomy, self.recipe)
        else:
            self.pieces = PieceHead(self.family.tokenizer, self.model.decoder.wte.weight)
            own = {f"pieces.{name}": weight for name, weight in self.pieces.named_parameters()}
            self.weights = {**lora.unfrozen(self.model, SPELLING), **own}
        if is_adapter(self.begun / LORA):
            lora.go_on(self.anatomy, self.weights, self.begun / LORA)
        # What an encoder hears while it learns is of no use a step later.
        self.ear = self.family if self.recipe.encoder_layers else FrozenEar(self.family, self.heard)

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

    def masked(self, features: Tensor, seed: str) -> Tensor:
        """Stretches of what was heard, blanked: a frozen encoder's channels are no bands."""
        mask = spec_augment if self.recipe.encoder_layers else mask_stretches
        return mask(features, seed)

    def losses(self, batch: Sequence[Example]) -> Tensor:
        """The loss of each example, summed over its answer: [examples]."""
        tower = self.model.audio
        states = [self._encoded(example.features) for example in batch]
        rows = [tower.projected(own[None], [len(own)])[0] for own in states]
        said = {
            place: text
            for place, example in enumerate(batch)
            if (text := said_in(example.item)) is not None
        }
        spelled = self._spelled(said, states)
        if self.pieces is not None:
            return spelled + self._pieced(said, rows)
        contexts = [tower.framed(own) for own in rows]
        answered = answer_losses(self.model, [example.lesson for example in batch], contexts)
        return answered + self.recipe.ctc * spelled

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

    def _spelled(self, said: Mapping[int, str], states: Sequence[Tensor]) -> Tensor:
        """The CTC loss of the letters of each clip, by its place in the batch; of others 0."""
        scores = {place: self.model.ctc(states[place]) for place in said}
        targets = {place: symbols(text) for place, text in said.items()}
        return _ctc(scores, targets, SYMBOLS, len(states))

    def _pieced(self, said: Mapping[int, str], rows: Sequence[Tensor]) -> Tensor:
        """The same of the decoder's pieces, by the rows that the decoder reads."""
        assert self.pieces is not None
        targets = {place: self.family.tokenizer.encode(text) for place, text in said.items()}
        pieces = self.pieces.among([*targets.values()])
        column = {int(piece): place for place, piece in enumerate(pieces)}
        with torch.autocast(rows[0].device.type, enabled=False):
            scores = {place: self.pieces(rows[place].float(), pieces) for place in said}
        columns = {place: [column[piece] for piece in own] for place, own in targets.items()}
        return _ctc(scores, columns, len(pieces), len(rows))

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


def _ctc(
    scores: Mapping[int, Tensor], targets: Mapping[int, Sequence[int]], blank: int, count: int
) -> Tensor:
    """CTC losses by place, of `count` places: log-probabilities [rows, classes] and what is said.

    What is said faster than a class every row has no loss.
    """
    if not scores:
        return torch.zeros(count)
    lengths = [len(scores[place]) for place in scores]
    losses = ctc_loss(
        pad_sequence(list(scores.values())),
        torch.tensor([one for place in scores for one in targets[place]]),
        torch.tensor(lengths),
        torch.tensor([len(targets[place]) for place in scores]),
        blank=blank,
        reduction="none",
        zero_infinity=True,
    )
    places = torch.tensor([*scores], device=losses.device)
    return losses.new_zeros(count).index_copy(0, places, losses)
