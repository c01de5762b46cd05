"""`python -m qwen_audio_cli.training.data`: the commands that make training data."""

from __future__ import annotations

import argparse
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import orjson

from ...errors import QwaError, UsageError
from ..manifest import SPLITS, Item, read
from .corpus import MANIFEST
from .packages import PACKAGES, default_cache, fetch

HOURS: Mapping[str, float] = MappingProxyType({"speech": 20.0, "notes": 3.0, "scenes": 5.0})
"""How much is made where no hours are given; with hours, `all` shares them out alike."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code. What is wrong is said on standard error."""
    given = _parser().parse_args(arguments)
    try:
        for kind in _ALL if given.command == "all" else (given.command,):
            _make(kind, given)
        if given.command != "fetch":
            summarise(given.out)
    except QwaError as error:
        print(f"error: {error}", file=sys.stderr)
        return int(error.exit)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m qwen_audio_cli.training.data",
        description="Make training data from freely licensed packages. What is there is kept: an "
        "interrupted command goes on where it was, and further hours are added.",
    )
    parser.add_argument(
        "command",
        choices=[*_COMMANDS, "all"],
        help="fetch: download all packages; translations: what the speech that is there says, in "
        "English; recordings: real test sets; the others: what is heard",
    )
    parser.add_argument("--out", type=Path, help="the directory of the data")
    parser.add_argument("--seed", type=int, default=0, help="what is made follows from it")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--hours", type=float, help="about how much audio is made")
    parser.add_argument(
        "--cache", type=Path, default=default_cache(), help="the directory of the packages"
    )
    return parser


def _make(kind: str, given: argparse.Namespace) -> None:
    if given.out is None and kind != "fetch":
        raise UsageError(f"{kind} needs a directory (--out)")
    if given.hours is not None:
        if given.command not in ("all", *_KINDS):
            raise UsageError(f"{kind} takes no --hours")
        if not given.hours > 0:
            raise UsageError("--hours is more than 0")
    _COMMANDS[kind](given)


def _hours(kind: str, given: argparse.Namespace) -> float:
    if given.hours is None:
        return HOURS[kind]
    share = HOURS[kind] / sum(HOURS.values()) if given.command == "all" else 1.0
    return float(given.hours * share)


def _fetch(given: argparse.Namespace) -> None:
    for number, package in enumerate(PACKAGES.values(), 1):
        print(f"fetch: {number} of {len(PACKAGES)}: {package.wanted}", file=sys.stderr, flush=True)
        fetch(package, given.cache)


def _speech(given: argparse.Namespace) -> None:
    from .speech import generate  # needs the libraries of speech synthesis

    generate(
        given.out / "speech",
        hours=_hours("speech", given),
        seed=given.seed,
        workers=given.workers,
        cache=given.cache,
    )


def _translations(given: argparse.Namespace) -> None:
    from .translations import generate

    generate(given.out, seed=given.seed, cache=given.cache)


def _notes(given: argparse.Namespace) -> None:
    from .notes import generate

    generate(
        given.out,
        hours=_hours("notes", given),
        seed=given.seed,
        workers=given.workers,
        cache=given.cache,
    )


def _scenes(given: argparse.Namespace) -> None:
    from .scenes import generate

    speech = given.out / "speech" / MANIFEST
    generate(
        given.out,
        hours=_hours("scenes", given),
        seed=given.seed,
        workers=given.workers,
        cache=given.cache,
        speech=speech if speech.exists() else None,
    )


def _recordings(given: argparse.Namespace) -> None:
    from .recordings import generate

    generate(given.out, seed=given.seed, workers=given.workers, cache=given.cache)


_KINDS = ("speech", "notes", "scenes")
_ALL = ("speech", "translations", "notes", "scenes", "recordings")
_COMMANDS: Mapping[str, Callable[[argparse.Namespace], None]] = MappingProxyType(
    {
        "fetch": _fetch,
        "speech": _speech,
        "translations": _translations,
        "notes": _notes,
        "scenes": _scenes,
        "recordings": _recordings,
    }
)


# --- what is there -------------------------------------------------------------------------------


def summarise(out: Path) -> None:
    """Print what the manifests under `out` hold, and note the licences beside them."""
    manifests = sorted(out.glob(f"*/{MANIFEST}"))
    corpora = {path.parent.name: list(read(path)) for path in manifests}
    for name, items in corpora.items():
        for split in SPLITS:
            part = [item for item in items if item.split == split]
            if part:
                print(f"{name:<13}{split:<6}{len(part):>8} items {_heard(part):>8.2f} h")
    by_licence = _by_licence(corpora)
    width = max(map(len, by_licence), default=0)
    for licence, items in sorted(by_licence.items()):
        print(f"{licence:<{width}}{len(items):>8} items {_heard(items):>8.2f} h")
    (out / "licences.json").write_bytes(
        orjson.dumps(_licences(corpora), option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS)
    )


def _licences(corpora: Mapping[str, Sequence[Item]]) -> dict[str, object]:
    """The packages, what is under each licence, and whom CC-BY asks to name."""
    return {
        "packages": [
            {key: getattr(package, key) for key in _TOLD} for package in PACKAGES.values()
        ],
        "items": {
            name: {
                licence: {"items": len(of_it), "hours": round(_heard(of_it), 3)}
                for licence, of_it in _by_licence({name: items}).items()
            }
            for name, items in corpora.items()
        },
        "credits": sorted(
            {
                source
                for items in corpora.values()
                for item in items
                if item.split != "test" and "CC-BY" in (item.licence or "")
                for source in (item.source or "").split("; ")
                if " by " in source
            }
        ),
    }


_TOLD = ("name", "ecosystem", "version", "sha256", "licence", "use", "reason", "takes")


def _by_licence(corpora: Mapping[str, Sequence[Item]]) -> dict[str, list[Item]]:
    found: dict[str, list[Item]] = defaultdict(list)
    for items in corpora.values():
        for item in items:
            found[item.licence or ""].append(item)
    return found


def _heard(items: Sequence[Item]) -> float:
    """Hours of audio, each recording once however many items are about it."""
    # Corpora name the same recording by different paths.
    seconds = {os.path.normpath(item.audio): item.seconds or 0.0 for item in items}
    return sum(seconds.values()) / 3600


if __name__ == "__main__":
    sys.exit(main())
