"""Translations of synthetic speech: the sentences, and the corpus of answers about its clips."""

from __future__ import annotations

import calendar
import random
import re
from collections import Counter
from itertools import islice, product
from pathlib import Path

import numpy as np
import pytest

from qwen_audio_cli.errors import ConfigError, UsageError
from qwen_audio_cli.training.data import __main__ as command
from qwen_audio_cli.training.data import (
    corpus,
    foreign,
    packages,
    prompts,
    speech,
    templates,
    texts,
    translations,
)
from qwen_audio_cli.training.manifest import Item, read, write

WHO = ("actor", "baker", "dancer", "doctor", "driver", "farmer", "lawyer", "painter", "sailor")
SENTENCES = [f"The {one} met the {other} outside." for one, other in product(WHO, WHO)]
SHARD = 40
SECONDS = 36.0  # that a clip is said to be long
SLOT = r"\{(\w+)\}"


# --- sentences -----------------------------------------------------------------------------------


def test_every_sentence_has_its_slots_in_english_too() -> None:
    own = [template for language in foreign.FOREIGN for template in prompts.TEMPLATES[language]]
    assert list(prompts.ENGLISH) == own and len(set(own)) == 88
    for template, english in prompts.ENGLISH.items():
        assert Counter(re.findall(SLOT, template)) == Counter(re.findall(SLOT, english)), template
        assert english[-1] == template[-1]
        assert english[0] in "{ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def test_whatever_fills_a_slot_is_known_in_english() -> None:
    for language, slots in foreign.FOREIGN.items():
        for name, words in slots.items():
            for own, english in words.items():
                said = templates.translated(f"It is {{{name}}}.", language, [(name, own)])
                assert said == f"It is {english}."
                assert (own[0].islower(), name) not in [(True, "place"), (True, "name")]
                assert english[0].isupper() == (name in ("name", "place", "day", "month"))


def test_names_of_places_and_times_are_paired() -> None:
    """Places begin alike in any language; days and months are in the order of the calendar."""
    first = {"es": ("lunes", "enero"), "fr": ("lundi", "janvier"), "it": ("lunedì", "gennaio")}
    for language, slots in foreign.FOREIGN.items():
        assert all(own[:1] == english[:1] for own, english in slots["place"].items())
        for name, calendar_names in (("day", calendar.day_name), ("month", calendar.month_name)):
            places = [list(calendar_names).index(english) for english in slots[name].values()]
            assert places == sorted(set(places))
        days, months = (next(iter(slots[name])) for name in ("day", "month"))
        assert (days, months) == first.get(language, ("segunda", "janeiro"))


@pytest.mark.parametrize(
    ("language", "template", "slots", "english"),
    [
        (
            "es",
            "La reunión es el {day} {monthday} de {month}.",
            [("day", "martes"), ("monthday", "13"), ("month", "julio")],
            "The meeting is on Tuesday, July 13.",
        ),
        (
            "fr",
            "Combien de kilomètres y a-t-il entre {place} et {place}?",
            [("place", "Genève"), ("place", "Lyon")],
            "How many kilometers is it from Geneva to Lyon?",
        ),
        (
            "it",
            "Il treno per {place} parte {day} mattina.",
            [("place", "Firenze"), ("day", "lunedì")],
            "The train to Florence leaves on Monday morning.",
        ),
        (
            "pt",
            "Chegaram {count} recados para {name}.",
            [("count", "12"), ("name", "Júlia")],
            "There are 12 messages for Júlia.",
        ),
    ],
)
def test_a_sentence_says_the_same_in_english(
    language: str, template: str, slots: list[tuple[str, str]], english: str
) -> None:
    assert templates.translated(prompts.ENGLISH[template], language, slots) == english
    filled = templates.fill(template, language, random.Random(0))
    assert [name for name, _ in filled.slots] == [name for name, _ in slots]
    written = " ".join(piece.written for piece in filled.pieces)
    assert written == re.sub(SLOT, "%s", template) % tuple(value for _, value in filled.slots)


def test_figures_and_names_are_kept() -> None:
    names = {name for slots in foreign.FOREIGN.values() for name in slots["name"]}
    for text in islice(texts.stream(SENTENCES, 3), 4000):
        if text.language == "en":
            assert text.english is None
            continue
        assert text.english is not None

        def kept(form: str) -> Counter[str]:
            return Counter(w for w in re.findall(r"\w+", form) if w.isdigit() or w in names)

        assert kept(text.written) == kept(text.english)
        for mark in ".?":
            assert text.written.count(mark) == text.english.count(mark)


def test_english_is_no_part_of_the_plan() -> None:
    text = next(text for text in texts.stream(SENTENCES, 0) if text.english)
    bare = texts.Text(text.language, text.pieces, text.origin, text.split)
    assert bare.english is None
    assert (repr(bare), hash(bare)) == (repr(text), hash(text)) and bare == text


# --- the corpus ----------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache in which WordNet has our sentences."""
    package = packages.PACKAGES["wordnet-base"]
    directory = tmp_path / "cache" / f"{package.name}-{package.version}" / "usr/share/wordnet"
    directory.mkdir(parents=True)
    for name in ("data.verb", "data.adj", "data.adv"):
        (directory / name).write_text("")
    (directory / "data.noun").write_text("".join(f'n | a gloss; "{s}"\n' for s in SENTENCES))
    return tmp_path / "cache"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Speech of which the first and the third shard are made, noise in place of voices."""
    folder = tmp_path / "data" / "speech"
    (folder / "parts").mkdir(parents=True)
    plan = list(islice(speech.utterances(sorted(SENTENCES), 0), 3 * SHARD))
    for shard in (0, 2):
        audio = folder / "audio" / f"{shard:05d}"
        audio.mkdir(parents=True)
        items: list[Item] = []
        for number in range(shard * SHARD, (shard + 1) * SHARD):
            items += said(audio / f"{number:07d}.flac", plan[number])
        write(items, folder / "parts" / f"{shard:05d}.jsonl")
    return tmp_path / "data"


def said(path: Path, utterance: speech.Utterance) -> list[Item]:
    """A clip's items as speech has them: its transcript, with figures too, and its language."""
    text = utterance.text
    corpus.save(np.zeros(1600, np.float32), path)
    transcript = Item(
        audio=path,
        task="asr",
        target=text.verbatim,
        language=text.language,
        split=text.split,
        speaker=utterance.speaker.name,
        source=f"a test, {text.origin}",
        licence="Apache-2.0",
        words=((text.verbatim, 0.0, SECONDS),),
        seconds=SECONDS,
    )
    about = {"split": text.split, "source": "a test", "licence": "Apache-2.0", "seconds": SECONDS}
    figures = Item(audio=path, task="asr", target=text.written, language=text.language, **about)
    return [transcript, figures, Item(audio=path, task="language", target=text.language, **about)]


def test_what_is_there_is_translated_and_nothing_else(
    out: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = sorted((out / "speech" / "parts").iterdir())
    spoken = [item for part in parts for item in read(part) if item.words]
    write(spoken, out / "speech" / "manifest.jsonl")
    assert command.main(["translations", "--out", str(out), "--cache", str(cache)]) == 0
    told = capsys.readouterr().out
    # However many corpora are about them, there are 80 clips.
    assert re.search(r"^Apache-2\.0 +\d+ items +0\.80 h$", told, re.MULTILINE)
    items = list(read(out / "translations" / "manifest.jsonl"))
    others = {item.audio.resolve(): item for item in spoken if item.language != "en"}
    assert [item.audio.resolve() for item in items] == list(others) and len(items) > 8
    for item in items:
        clip = others[item.audio.resolve()]
        assert (item.task, item.to, item.words) == ("translation", "en", None)
        for key in ("language", "split", "speaker", "source", "licence", "seconds"):
            assert getattr(item, key) == getattr(clip, key)
        assert item.job().tags.determined
        assert re.findall(r"\w+", item.target.lower()) != re.findall(r"\w+", clip.target.lower())


def test_speech_of_another_plan_is_refused(out: Path, cache: Path) -> None:
    with pytest.raises(ConfigError, match=r"0000000\.flac: says '.*', in the plan '.*'"):
        translations.generate(out, seed=1, cache=cache)
    assert not (out / "translations").exists()
    with pytest.raises(UsageError, match="no speech to translate"):
        translations.generate(out / "nothing", seed=0, cache=cache)
