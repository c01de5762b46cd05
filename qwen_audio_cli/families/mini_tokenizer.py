"""Mini's tokenizer: SmolLM2's pieces of text, and a token for each tag that mini uses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby

from tokenizers import Tokenizer

from ..errors import ConfigError, UsageError
from ..tags import AUDIO_LANGUAGES, SPECIAL_TOKENS, TEXT_LANGUAGES, UNKNOWN, TagSequence
from .chat_tokenizer import ChatTokenizer

LANGUAGES = ("en", "es", "fr", "hi", "it", "ja", "pt", "zh")
"""Languages with a tag, of the audio and of the text: those mini has voices to learn from."""

TIME_STEP = 4
"""Hundredths of a second between two times: a row of audio lasts 40 ms, and tells none apart."""

_LAST_TIME = 3000
_LEFT_OUT = frozenset(
    {"<|im_start|>", "<|im_end|>", "<|endoftext|>", *(f"<|extra_{n}|>" for n in range(205))}
    | {f"<|{code}|>" for code in (*AUDIO_LANGUAGES, *TEXT_LANGUAGES)}
)


def _time(hundredths: int) -> str:
    return f"<|{hundredths / 100:.2f}|>"


_TIMES = frozenset(map(_time, range(_LAST_TIME + 1)))


def mini_tags() -> tuple[str, ...]:
    """The tags in the order of their ids: the original's, without what mini does not use.

    Left out are its reserve, the marks of a chat (SmolLM2 has its own) and times between steps;
    the languages are mini's own. Times come last.
    """
    kept = [tag for tag in SPECIAL_TOKENS if tag not in _LEFT_OUT and tag not in _TIMES]
    languages = (f"<|{code}|>" for code in LANGUAGES)
    times = map(_time, range(0, _LAST_TIME + 1, TIME_STEP))
    return (*kept, *languages, *times)


class MiniTokenizer(ChatTokenizer):
    """`tags` are `mini_tags` with their ids.

    `special` also has the times between two tags, each with the id of the nearer one. SmolLM2 has
    no token for some control characters, and for bytes of planes that no character is in: `encode`
    leaves these out.
    """

    languages = LANGUAGES

    def __init__(self, bpe: Tokenizer, special: Mapping[str, int]) -> None:
        super().__init__(bpe, special)
        if missing := [tag for tag in mini_tags() if tag not in special]:
            raise ConfigError(f"the tokenizer has no {', '.join(missing[:3])}")
        self.tags = {tag: special[tag] for tag in mini_tags()}
        self._size = 1 + max(special.values())
        self._times = {special[_time(at)]: at / 100 for at in range(0, _LAST_TIME + 1, TIME_STEP)}
        for at in range(_LAST_TIME + 1):
            nearest = TIME_STEP * ((at + TIME_STEP // 2) // TIME_STEP)
            self.special[_time(at)] = special[_time(nearest)]

    def __len__(self) -> int:
        return self._size

    def encode_tags(self, tags: TagSequence) -> list[int]:
        """Ids of a tag sequence: one for each tag, and those of the question's text.

        Raises UsageError for a language that mini has no tag for.
        """
        ids: list[int] = []
        for piece in tags.pieces():
            if piece == tags.question:
                ids += self.encode(piece)
            elif piece in self.special:
                ids.append(self.special[piece])
            else:
                known = ", ".join((*LANGUAGES, UNKNOWN))
                raise UsageError(f"tags: found {piece}, expected a language of mini: {known}")
        return ids

    def decode(self, ids: Iterable[int], *, tags: bool = False) -> str:
        """Text of ids; special tokens are spelled out with `tags` and left out without."""
        if not tags:
            return super().decode(list(ids))
        return "".join(
            super(MiniTokenizer, self).decode(list(run))
            if textual
            else "".join(self._spellings[id] for id in run)
            for textual, run in groupby(ids, self.is_text)
        )

    def is_text(self, id: int) -> bool:
        """Whether an id stands for a piece of text, not for a tag."""
        return id not in self._spellings

    def time(self, id: int) -> float | None:
        """Seconds that a timestamp stands for, None for all other ids."""
        return self._times.get(id)
