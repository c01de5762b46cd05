"""What `mini.py` measures: a function for each line of its table, and what they share."""

from __future__ import annotations

import importlib.util
import random
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import processes
import silence
from espeak import Spoken
from prompts import normalise, word_error_rate
from word_times import matched

from qwen_audio_cli import Qwa
from qwen_audio_cli.errors import UsageError
from qwen_audio_cli.records import ErrorRecord, Record
from qwen_audio_cli.training.data.described import SILENCE
from qwen_audio_cli.training.manifest import Item, read
from qwen_audio_cli.training.mini.facts import same_facts

NEAR = 0.1
"""Seconds that a word's begin and end may lie beside the truth."""

FILES = 60
"""Recordings that speed is measured on, where no limit is given."""

FIRST_SECONDS = 5.0
"""The length of the recording that the first record is waited for."""

Answers = Sequence[Record | ErrorRecord]
Keep = Callable[[Item], bool]


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table: what was measured of `count` items, and what is to be reached.

    `value` and `peer`, the embedded Whisper's on the same items, are shares unless the `unit` says
    otherwise, or None: a task that a model refuses, or no items. Of errors and of waiting the bar
    is the `most` that is allowed, of all else it is the least.
    """

    what: str
    bar: float
    value: float | None
    count: int
    peer: float | None = None
    unit: str = "%"
    most: bool = False
    note: str = ""

    @property
    def outcome(self) -> str:
        """Whether the bar is reached: `met`, `missed`, or `not measured`."""
        if self.value is None:
            return "not measured"
        met = self.value <= self.bar if self.most else self.value >= self.bar
        return "met" if met else "missed"


@dataclass(slots=True)
class Bench:
    """The model under test and its peer, and the test items of the corpora in some directories.

    Of every line `limit` items are drawn (all without one), the same for the same `seed`.
    """

    model: Path
    directories: Sequence[Path]
    limit: int | None
    seed: int
    mini: Qwa = field(init=False)
    whisper: Qwa = field(init=False)
    items: dict[str, list[Item]] = field(init=False)
    sounds: tuple[str, ...] = field(init=False)
    """The labels of all splits of the scenes: a closed set."""

    def __post_init__(self) -> None:
        self.mini, self.whisper = Qwa(str(self.model)), Qwa("whisper-base")
        self.items = defaultdict(list)
        sounds: set[str] = set()
        for directory in self.directories:
            for manifest in sorted(directory.glob("*/manifest.jsonl")):
                corpus = manifest.parent.name
                for item in read(manifest):
                    if item.split == "test":
                        self.items[corpus].append(item)
                    if corpus == "scenes" and item.task == "sound-event":
                        sounds.update(item.target.split(", "))
        self.sounds = tuple(sorted(sounds))

    def draw(self, corpus: str, task: str, keep: Keep = lambda item: True) -> list[Item]:
        """The items of a task that a line is about."""
        items = [item for item in self.items[corpus] if item.task == task and keep(item)]
        if self.limit is None or len(items) <= self.limit:
            return items
        return random.Random(f"{self.seed} {corpus} {task}").sample(items, self.limit)

    def ask(self, qwa: Qwa, items: Sequence[Item], **options: object) -> Answers | None:
        """The records about items, in their order; None where the model refuses the task."""
        groups: defaultdict[tuple[str, tuple[tuple[str, object], ...]], list[int]]
        groups = defaultdict(list)
        for place, item in enumerate(items):
            named = {"language": item.language, "to": item.to, "question": item.question}
            told = {"task": item.task, **{k: v for k, v in named.items() if v}, **options}
            groups[item.query.command, tuple(told.items())].append(place)
        answers: dict[int, Record | ErrorRecord] = {}
        try:
            for (command, told), places in groups.items():
                given: defaultdict[str, list[int]] = defaultdict(list)
                for place in places:
                    given[str(items[place].audio)].append(place)
                for record in getattr(qwa, command)(sources=list(given), **dict(told)):
                    answers.update(dict.fromkeys(given[record.file], record))
        except UsageError as error:
            print(error, file=sys.stderr)
            return None
        return [answers[place] for place in range(len(items))]


def text_of(record: Record | ErrorRecord) -> str:
    """What was written; nothing for what failed."""
    return (record.text or "") if isinstance(record, Record) else ""


def label_of(record: Record | ErrorRecord) -> str:
    """The best label."""
    labels = record.labels if isinstance(record, Record) else None
    return labels[0].label if labels else ""


# --- speech --------------------------------------------------------------------------------------


def _is_english(item: Item) -> bool:
    return item.language == "en" and item.target != SILENCE


def _error_rate(items: Sequence[Item], answers: Answers | None) -> float | None:
    """The word error rate; None where there are no words, or the task was refused."""
    if answers is None:
        return None
    said = normalise("en", [item.target for item in items])
    heard = normalise("en", [text_of(record) for record in answers])
    pairs = [pair for pair in zip(said, heard, strict=True) if pair[0]]
    return word_error_rate(*map(list, zip(*pairs, strict=True))) if pairs else None


def english_real(bench: Bench) -> Iterator[Row]:
    """Prompts of a telephone system, speaker by speaker."""
    items = bench.draw("recordings", "asr", _is_english)
    ours, theirs = (bench.ask(qwa, items) for qwa in (bench.mini, bench.whisper))
    speakers = dict.fromkeys(item.speaker for item in items)
    for speaker in speakers:
        places = [place for place, item in enumerate(items) if item.speaker == speaker]
        own = [items[place] for place in places]
        rates = [
            _error_rate(own, answers and [answers[place] for place in places])
            for answers in (ours, theirs)
        ]
        what = f"English, real recordings, {speaker}: word error rate"
        yield Row(what, 0.15, rates[0], len(own), rates[1], most=True)


def english_synthetic(bench: Bench) -> Iterator[Row]:
    """Synthetic voices that were never heard."""
    items = bench.draw("speech", "asr", _is_english)
    rates = [_error_rate(items, bench.ask(qwa, items)) for qwa in (bench.mini, bench.whisper)]
    what = "English, synthetic voices never heard: word error rate"
    yield Row(what, 0.08, rates[0], len(items), rates[1], most=True)


def word_times(bench: Bench) -> Iterator[Row]:
    """Recognised words whose begin and end are both near the truth, as in `word_times.py`."""
    items = bench.draw("speech", "asr", lambda item: _is_english(item) and bool(item.words))
    words = sum(len(item.words or ()) for item in items)
    near: list[float | None] = []
    notes: list[str] = []
    for qwa in (bench.whisper, bench.mini):
        answers = bench.ask(qwa, items, timestamps=True)
        pairs = [pair for both in zip(items, answers or (), strict=False) for pair in _times(*both)]
        begins = sum(abs(a.start - b.start) <= NEAR for a, b in pairs)
        close = sum(abs(a.start - b.start) <= NEAR >= abs(a.end - b.end) for a, b in pairs)
        near.append(close / len(pairs) if pairs else None)
        notes.append(f"{len(pairs)} of {words} words recognised, {begins} begins near")
    yield Row("words within 100 ms", 0.8, near[1], len(items), near[0], note=notes[-1])


def _times(item: Item, record: Record | ErrorRecord) -> Iterator[tuple[Spoken, Spoken]]:
    segments = (record.segments or ()) if isinstance(record, Record) else ()
    heard = [Spoken(w.word, w.start, w.end) for s in segments for w in s.words or ()]
    return matched([Spoken(*word) for word in item.words or ()], heard)


def translation(bench: Bench) -> Iterator[Row]:
    """Prompts in other languages, into English, language by language."""
    scorer = importlib.util.find_spec("sacrebleu")
    spoken = {item.language for item in bench.items["recordings"] if item.task == "translation"}
    for language in sorted(filter(None, spoken)):
        items = bench.draw("recordings", "translation", lambda i, own=language: i.language == own)
        what = f"translation from '{language}' into English, real recordings"
        if scorer is None:
            yield Row(what, 20, None, len(items), unit="BLEU", note="sacrebleu is not installed")
            continue
        ours, theirs = (_bleu(items, bench.ask(qwa, items)) for qwa in (bench.mini, bench.whisper))
        note = "refused" if ours is None else ""
        yield Row(what, 20, ours, len(items), theirs, unit="BLEU", note=note)


def _bleu(items: Sequence[Item], answers: Answers | None) -> float | None:
    if answers is None:
        return None
    from sacrebleu import corpus_bleu

    truth = [item.target for item in items]
    return float(corpus_bleu([text_of(record) for record in answers], [truth]).score)


# --- labels --------------------------------------------------------------------------------------


def _share(
    items: Sequence[Item], answers: Answers | None, right: Callable[[Item, str], bool]
) -> float | None:
    """How many items have the right label; None without any, or where the task was refused."""
    if answers is None or not items:
        return None
    pairs = zip(items, answers, strict=True)
    return sum(right(item, label_of(record)) for item, record in pairs) / len(items)


def _is_same(item: Item, label: str) -> bool:
    return item.target == label


def language(bench: Bench) -> Iterator[Row]:
    """Which language is spoken, of those that mini has a tag for; and of all, in the note."""
    for corpus, what in (("speech", "synthetic voices"), ("recordings", "real recordings")):
        items = bench.draw(corpus, "language")
        ours, theirs = (bench.ask(qwa, items) or () for qwa in (bench.mini, bench.whisper))
        known = [place for place, record in enumerate(ours) if _names(record, items[place].target)]
        own = [items[place] for place in known]
        shares = [
            _share(own, [answers[place] for place in known], _is_same) for answers in (ours, theirs)
        ]
        note = ""
        if len(known) < len(items):
            everything = 100 * (_share(items, ours, _is_same) or 0.0)
            note = f"{everything:.1f} % of all {len(items)}: others have no tag"
        yield Row(f"language, {what}", 0.95, shares[0], len(own), shares[1], note=note)


def _names(record: Record | ErrorRecord, label: str) -> bool:
    labels = (record.labels or ()) if isinstance(record, Record) else ()
    return any(one.label == label for one in labels)


def gender(bench: Bench) -> Iterator[Row]:
    """Whether a woman or a man speaks. Each counts half, however few clips are of men."""
    for corpus, what in (("speech", "synthetic voices never heard"), ("recordings", "real")):
        items = bench.draw(corpus, "gender")
        answers = bench.ask(bench.mini, items)
        shares = {} if answers is None else shares_by_label(items, answers)
        note = ", ".join(f"{label} {100 * share:.1f} %" for label, share in shares.items())
        mean = sum(shares.values()) / len(shares) if shares else None
        yield Row(f"gender, {what}", 0.9, mean, len(items), note=note)


def shares_by_label(items: Sequence[Item], answers: Answers) -> dict[str, float]:
    """Of the items of each label the share that is answered with it."""
    right: defaultdict[str, list[bool]] = defaultdict(list)
    for item, record in zip(items, answers, strict=True):
        right[item.target].append(label_of(record) == item.target)
    return {label: sum(own) / len(own) for label, own in sorted(right.items())}


def notes(bench: Bench) -> Iterator[Row]:
    """Single notes: what plays, how high, how loud."""

    def is_near(item: Item, label: str) -> bool:
        return label != "" and abs(int(item.target) - int(label)) <= 1

    for corpus, task, what, bar, right in (
        ("notes", "instrument", "instrument family", 0.85, _is_same),
        ("recordings", "instrument", "instrument family, real recordings", 0.85, _is_same),
        ("notes", "pitch", "pitch within a semitone", 0.85, is_near),
        ("notes", "velocity", "velocity band", 0.7, _is_same),
    ):
        items = bench.draw(corpus, task)
        yield Row(what, bar, _share(items, bench.ask(bench.mini, items), right), len(items))


def sound_event(bench: Bench) -> Iterator[Row]:
    """Which one sound is heard, of all that the scenes have."""
    for corpus, what in (("scenes", "sounds never heard"), ("recordings", "real recordings")):
        items = bench.draw(corpus, "sound-event", lambda item: item.target in bench.sounds)
        answers = bench.ask(bench.mini, items, labels=bench.sounds) if items else None
        note = f"one of {len(bench.sounds)}"
        share = _share(items, answers, _is_same)
        yield Row(f"sound event, {what}", 0.8, share, len(items), note=note)


# --- facts ---------------------------------------------------------------------------------------


def scenes(bench: Bench) -> Iterator[Row]:
    """Captions that name all sounds in their order, and questions that are answered exactly."""
    for task, what in (("audio-caption", "captions of scenes"), ("audio-qa", "questions on them")):
        items = bench.draw("scenes", task)
        answers = bench.ask(bench.mini, items)
        share = None
        if answers is not None and items:
            pairs = zip(items, answers, strict=True)
            right = sum(same_facts(i.query.task, i.target, text_of(r)) for i, r in pairs)
            share = right / len(items)
        yield Row(f"{what}: exact facts", 0.7, share, len(items))


def no_speech(bench: Bench) -> Iterator[Row]:
    """Nothing is written where nobody speaks; as a user runs it, and by the model alone."""
    recorded = [
        item.audio
        for corpus in ("scenes", "recordings")
        for item in bench.draw(corpus, "asr", lambda item: item.target == SILENCE)
    ]
    with tempfile.TemporaryDirectory() as name:
        made = sorted(silence.make_clips(Path(name)))
        if bench.limit is not None:
            made = random.Random(bench.seed).sample(made, min(bench.limit, len(made)))
        for paths, what in ((made, "silence, noise, music"), (recorded, "scenes, sounds, tones")):
            for vad in (True, False):
                shares = [_silent(qwa, paths, vad) for qwa in (bench.mini, bench.whisper)]
                told = f"{what} without speech{'' if vad else ', --no-vad'}: no text, or flagged"
                yield Row(told, 0.95, shares[0], len(paths), shares[1])


def _silent(qwa: Qwa, paths: Sequence[Path], vad: bool) -> float | None:
    records = list(qwa.transcribe(paths, language="en", vad=vad)) if paths else []
    right = [
        isinstance(record, Record) and (not record.text or "no_speech" in record.flags)
        for record in records
    ]
    return sum(right) / len(right) if right else None


def speed(bench: Bench) -> Iterator[Row]:
    """`qwa transcribe` as a user runs it, each time a process of its own."""
    items = bench.draw("recordings", "asr", _is_english)[: bench.limit or FILES]
    if not items:
        return
    audio = sum(item.seconds or 0.0 for item in items)
    first = min(items, key=lambda item: abs((item.seconds or 0.0) - FIRST_SECONDS))
    waited, fast = [], []
    for model in (str(bench.model), "whisper-base"):
        told = ("--language", "en", "--model", model)
        waited.append(processes.transcribe([first.audio], *told)[0].first_byte)
        ran, _ = processes.transcribe([item.audio for item in items], *told)
        fast.append(audio / ran.seconds)
    told_first = f"of {first.seconds:.1f} s; another process, files are cached"
    yield Row("first record, cold", 5, waited[0], 1, waited[1], "s", most=True, note=told_first)
    note = f"{audio:.0f} s of audio"
    yield Row("speed of transcribe", 4, fast[0], len(items), fast[1], "x real time", note=note)


LINES: Mapping[str, Callable[[Bench], Iterator[Row]]] = MappingProxyType(
    {
        "speed": speed,
        "english-real": english_real,
        "english-synthetic": english_synthetic,
        "word-times": word_times,
        "language": language,
        "gender": gender,
        "notes": notes,
        "sound-event": sound_event,
        "translation": translation,
        "scenes": scenes,
        "no-speech": no_speech,
    }
)
"""Name -> what measures it. Speed is measured first, before anything is loaded here."""
