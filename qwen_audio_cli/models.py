"""Which models there are, and where a name's checkpoint lies: an alias, a directory, `org/name`."""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from . import hub
from .errors import ConfigError, ModelError, UsageError
from .layout import ADAPTER_CONFIG, is_adapter, read_object
from .layout import WEIGHTS as WEIGHTS
from .task import Family as FamilyName
from .tasks import Task

if TYPE_CHECKING:
    from .families.base import Family

LOG = logging.getLogger(__name__)

ALIGNER = "qwen3-forced-aligner"
"""The alias, and the family, of what tells Qwen3-ASR when words are spoken."""


@dataclass(frozen=True, slots=True)
class ModelCard:
    """One row of `qwa models`.

    `source` is its name on the hub, empty where it is on none, `parameters` counts in millions what
    is loaded of it, `window` is the longest clip it hears in seconds, `directory` where it is
    embedded.
    """

    alias: str
    family: FamilyName
    source: str
    parameters: int
    window: float
    directory: Path | None = None

    @property
    def memory(self) -> int:
        """Bytes that its weights take in 16 bits each."""
        return 2_000_000 * self.parameters

    @property
    def is_embedded(self) -> bool:
        """Whether it is part of this installation."""
        return self.directory is not None and self.directory.is_dir()

    @property
    def offered(self) -> bool:
        """Whether there is any way to have it: on the hub, or in this package."""
        return bool(self.source) or self.is_embedded

    def find(self, revision: str | None = None) -> Path | None:
        """The directory of its checkpoint, where it is on this machine."""
        if self.directory is None:
            return hub.find(self.source, revision)
        return self.directory if self.is_embedded else None


# Parameters: from the weights' sizes on the hub, or counted in a network of the checkpoint's
# configuration; of Omni models those of the thinker that hear and write.
MODELS: tuple[ModelCard, ...] = (
    ModelCard("whisper-base", "whisper", "openai/whisper-base", 73, 30, WEIGHTS / "whisper-base"),
    ModelCard("mini", "mini", "", 165, 30, WEIGHTS / "mini"),
    ModelCard("whisper-tiny", "whisper", "openai/whisper-tiny", 38, 30),
    ModelCard("whisper-small", "whisper", "openai/whisper-small", 242, 30),
    ModelCard("whisper-medium", "whisper", "openai/whisper-medium", 764, 30),
    ModelCard("whisper-large-v3", "whisper", "openai/whisper-large-v3", 1543, 30),
    ModelCard("whisper-large-v3-turbo", "whisper", "openai/whisper-large-v3-turbo", 809, 30),
    ModelCard("distil-large-v3", "whisper", "distil-whisper/distil-large-v3", 756, 30),
    ModelCard("qwen-audio", "qwen-audio", "Qwen/Qwen-Audio", 8396, 30),
    ModelCard("qwen-audio-chat", "qwen-audio-chat", "Qwen/Qwen-Audio-Chat", 8396, 30),
    ModelCard("qwen2-audio", "qwen2-audio", "Qwen/Qwen2-Audio-7B", 8397, 30),
    ModelCard(
        "qwen2-audio-instruct", "qwen2-audio-instruct", "Qwen/Qwen2-Audio-7B-Instruct", 8397, 30
    ),
    ModelCard("qwen2.5-omni-3b", "qwen-omni", "Qwen/Qwen2.5-Omni-3B", 4035, 300),
    ModelCard("qwen2.5-omni-7b", "qwen-omni", "Qwen/Qwen2.5-Omni-7B", 8255, 300),
    ModelCard("qwen3-omni", "qwen-omni", "Qwen/Qwen3-Omni-30B-A3B-Instruct", 31181, 300),
    ModelCard(
        "qwen3-omni-captioner",
        "qwen3-omni-captioner",
        "Qwen/Qwen3-Omni-30B-A3B-Captioner",
        31181,
        30,
    ),
    ModelCard("qwen3-asr-0.6b", "qwen3-asr", "Qwen/Qwen3-ASR-0.6B", 938, 60),
    ModelCard("qwen3-asr-1.7b", "qwen3-asr", "Qwen/Qwen3-ASR-1.7B", 2349, 60),
    ModelCard(ALIGNER, "qwen3-forced-aligner", "Qwen/Qwen3-ForcedAligner-0.6B", 918, 180),
)
"""Any other checkpoint of a family of these loads by its directory or its name on the hub."""

CARDS: Mapping[str, ModelCard] = MappingProxyType({card.alias: card for card in MODELS})


@dataclass(frozen=True, slots=True)
class Wanted:
    """A model that a user names, with a branch, tag or commit of it.

    `offline` forbids fetching it.
    """

    name: str
    revision: str | None = None
    offline: bool = False

    @property
    def command(self) -> str:
        """The command that fetches it."""
        revision = f" --revision {self.revision}" if self.revision else ""
        return f"qwa models pull {self.name}{revision}"


def default_for(*tasks: Task) -> str:
    """The best embedded model that can do all of `tasks`, and is experimental at none.

    Raises UsageError where there is none.
    """
    able = [card for card in MODELS if all(card.family in task.families for task in tasks)]
    trying = [card for card in able if any(card.family in task.experimental for task in tasks)]
    sure = [card for card in able if card not in trying]
    for card in sure:
        if card.is_embedded:
            return card.alias
    what = ", ".join(f"'{task.name}' ({task.title})" for task in tasks)
    tries = " or ".join(
        f"{card.alias} (--model {card.alias})" for card in trying if card.is_embedded
    )
    names = ", ".join(card.alias for card in sure if card.directory is None)
    raise UsageError(
        f"no embedded model can do {'all of ' if len(tasks) > 1 else ''}{what}"
        + (f", but experimentally {tries}" if tries else "")
        + (f"; models that can: {names} (--model NAME fetches one)" if names else "")
        + ("" if tries or names else "; no model of this release can")
    )


def locate(wanted: Wanted) -> tuple[Path, str]:
    """The directory of a model, fetched where it has to be, and what records call it.

    Raises ModelError for what is not on this machine and cannot be fetched, UsageError for an
    unknown name (with the nearest aliases) and for a revision of what has none.
    """
    place = _find_place(wanted)
    return place.directory or _on_hub(place.repository, wanted), place.label


def is_to_fetch(wanted: Wanted) -> bool:
    """Whether a model would have to come from the hub, and may. Raises what `locate` does."""
    place = _find_place(wanted)
    if place.directory is not None or wanted.offline or hub.is_offline():
        return False
    return hub.find(place.repository, wanted.revision) is None


def fetch(wanted: Wanted) -> Path:
    """Fetch a model, or what is new of it; one that is no model of the hub is there, or not.

    With an adapter comes the model that it changes, where that is not on this machine.

    Raises what `locate` does.
    """
    place = _find_place(wanted)
    directory = place.directory
    if directory is None:
        directory = hub.pull(place.repository, wanted.revision)
    elif wanted.name in CARDS:
        LOG.info("%s is part of this package: there is nothing to fetch", wanted.name)
    if not directory.is_dir():
        raise ModelError(f"{directory}: no such model directory")
    if is_adapter(directory):
        _base(directory, offline=wanted.offline)
    return directory


@dataclass(frozen=True, slots=True)
class _Place:
    """What records call a model, and its directory or else its name on the hub."""

    label: str
    directory: Path | None
    repository: str = ""


def _find_place(wanted: Wanted) -> _Place:
    name = wanted.name
    card, path = CARDS.get(name), Path(os.path.expanduser(name))  # noqa: PTH111 - never raises
    if card is not None:
        if card.directory is None:
            return _Place(name, None, card.source)
        if wanted.revision is not None:
            others = f"; {card.source} names it on the hub" if card.source else ""
            raise UsageError(f"{name} is embedded, and has no other revision{others}")
        if not card.is_embedded:
            raise ModelError(f"{name} is not part of this installation: no {card.directory}")
        return _Place(name, card.directory)
    is_directory = os.path.isdir(path)  # noqa: PTH112 - never raises
    if not is_directory and hub.REPOSITORY.fullmatch(name):
        return _Place(name, None, name)
    if not is_directory and "/" not in name:
        near = difflib.get_close_matches(name, CARDS, n=3, cutoff=0.5) or list(CARDS)
        raise UsageError(
            f"unknown model '{name}': did you mean {' or '.join(near)}, a directory, or a name on "
            "the hub, as org/name?"
        )
    if wanted.revision is not None:
        raise UsageError(f"--revision is for models of the hub: {name} is a directory")
    return _Place(_label(path), path)


def open_model(
    wanted: Wanted, *, full_window: bool = False, timed: bool = False, aligner: str | None = None
) -> Family:
    """Open a model: its configuration and vocabulary, not its weights.

    An adapter is the model that it names, changed by it. `timed` is whether it is asked when words
    are spoken; for that, Qwen3-ASR consults the model that `aligner` names, or else the one that is
    on this machine.

    Raises ModelError for what is not on this machine and cannot be fetched, ConfigError for what is
    no checkpoint of a known architecture, UsageError for an unknown name and for an aligner that
    there is no use for.
    """
    directory, label = locate(wanted)
    adapter = None
    if is_adapter(directory):
        from .families.adapter import Adapter

        adapter = Adapter(directory, label)
        directory, label = _base(directory, offline=wanted.offline)
    from .families.registry import open_checkpoint

    def consulted() -> Family | None:
        return _open_aligner(aligner, offline=wanted.offline) if timed else None

    family = open_checkpoint(
        directory, label, adapter=adapter, full_window=full_window, aligner=consulted
    )
    if aligner is not None and family.colleague is None:
        raise UsageError(
            f"--aligner is for the times of words by Qwen3-ASR: {label} has no use for it here"
        )
    return family


def _open_aligner(name: str | None, *, offline: bool) -> Family | None:
    """The aligner by name, or the one that is on this machine."""
    if name is None and CARDS[ALIGNER].find() is None:
        return None
    return open_model(Wanted(name or ALIGNER, offline=offline))


def _base(adapter: Path, *, offline: bool) -> tuple[Path, str]:
    """The directory of the model that an adapter changes, fetched if need be, and its label.

    Raises ModelError where it is not on this machine and cannot be fetched, ConfigError where the
    adapter does not say which it is, or names what is none.
    """
    wanted = _base_name(adapter, offline=offline)
    try:
        directory, label = locate(wanted)
    except (ModelError, UsageError) as error:
        kind = ModelError if isinstance(error, ModelError) else ConfigError
        raise kind(f"{adapter}: its base model: {error}") from error
    if not os.path.isdir(directory):  # noqa: PTH112 - never raises
        raise ModelError(
            f"{adapter}: its base model, {wanted.name}, is not on this machine: where it is, or "
            f"its name on the hub, belongs into {ADAPTER_CONFIG} (base_model_name_or_path)"
        )
    if is_adapter(directory):
        raise ConfigError(f"{adapter}: its base model, {wanted.name}, is an adapter itself")
    return directory, label


def _base_name(adapter: Path, *, offline: bool) -> Wanted:
    """The model that an adapter changes: a directory as seen from its own, or any name of one."""
    config = read_object(adapter / ADAPTER_CONFIG)
    name, revision = config.get("base_model_name_or_path"), config.get("revision")
    if not isinstance(name, str) or not name or not isinstance(revision, str | None):
        raise ConfigError(
            f"{adapter / ADAPTER_CONFIG}: names no base model (base_model_name_or_path, revision)"
        )
    if name not in CARDS and os.path.isdir(near := adapter / name):  # noqa: PTH112 - never raises
        return Wanted(os.fspath(near), offline=offline)  # a directory is of no revision
    return Wanted(name, revision, offline)


def _on_hub(repository: str, wanted: Wanted) -> Path:
    """The directory of a model of the hub: nobody is asked for one that is wholly here."""
    found = hub.find(repository, wanted.revision)
    if found is not None:
        return found
    if wanted.offline or hub.is_offline():
        raise ModelError(
            f"{wanted.name} is not on this machine, or not wholly, and fetching is forbidden "
            f"(--offline, HF_HUB_OFFLINE): '{wanted.command}' fetches it"
        )
    return hub.pull(repository, wanted.revision)


def _label(directory: Path) -> str:
    """What records call a directory: its name, or of one in the hub's cache that on the hub."""
    directory = directory.resolve()
    repository = directory.parent.parent.name
    if directory.parent.name == "snapshots" and repository.startswith("models--"):
        return repository.removeprefix("models--").replace("--", "/", 1)
    return directory.name
