"""Licences as Debian's copyright files state them, file by file (machine-readable format 1.0)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType

_STANZA = re.compile(
    r"^Files:(.*?)^Copyright:(.*?)^License:[ \t]*(\S[^\n]*)", re.DOTALL | re.MULTILINE
)
_OTHER_FIELD = re.compile(r"^\S", re.MULTILINE)  # between holders and licence
_SPDX: Mapping[str, str] = MappingProxyType(
    {
        "CC0": "CC0-1.0",
        "GPL-3+": "GPL-3.0-or-later",
        "GPL-3": "GPL-3.0-only",
        "free-art": "LAL-1.3",
        "CC-sampling-plus-1.0": "LicenseRef-CC-Sampling-Plus-1.0",
    }
)


@dataclass(frozen=True, slots=True)
class Stated:
    """The stanzas of a copyright file: pattern, licence as SPDX spells it, whose work it is."""

    stanzas: tuple[tuple[str, str, str], ...]

    @classmethod
    def read(cls, path: Path) -> Stated:
        """Read a copyright file."""
        stanzas = (
            (pattern, _spdx(licence), " ".join(_OTHER_FIELD.split(holders)[0].split()))
            for patterns, holders, licence in _STANZA.findall(path.read_text("utf-8"))
            for pattern in patterns.split()
        )
        return cls(tuple(stanzas))

    def of(self, path: str) -> tuple[str, str]:
        """Licence and holders of a file by its path in the source: those of the last that fits.

        They are empty where only the stanza for all files does.
        """
        found = ("", "")
        for pattern, licence, holders in self.stanzas:
            if pattern != "*" and fnmatchcase(path, pattern):
                found = (licence, holders)
        return found


def _spdx(stated: str) -> str:
    names = (name.strip() for name in stated.split(" and "))
    return " AND ".join(_SPDX.get(name, name) for name in names)
