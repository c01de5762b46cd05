"""How far word times are from the truth, on synthetic speech whose times are known.

    python benchmarks/word_times.py [--peer] [OPTIONS OF qwa transcribe]
    python benchmarks/word_times.py --save tests/data/word_times

The reference is espeak-ng, which reports when each word and each pause begins in what it says. A
word ends where the next one begins or, before a pause, where the pause begins. `--peer` also runs
transformers' Whisper, with the same weights, on the same audio. Words that were recognised
otherwise than they were spoken are counted, not scored. Words "before a pause" are those of all
languages that no other word follows at once. The last line is JSON. `--save` writes the audio and
the times of a few sentences for the tests instead.
"""

from __future__ import annotations

import argparse
import difflib
import itertools
import json
import re
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import processes
import soundfile
from espeak import SAMPLE_RATE, SENTENCES, Spoken, Utterance, utterances

TOLERANCES = (0.05, 0.1, 0.2)
SHORTEST_PAUSE = 0.05
"""Seconds."""

FIXTURE = (("en", 8), ("en", 25), ("es", 2))
"""The sentences that `--save` writes: a comma, a full stop within, and another language."""

Recogniser = Callable[[Sequence[Utterance], Path], Iterator[list[Spoken]]]
"""From utterances, and the folder where they are as NAME.wav, to what is heard in each."""


def ours(options: Sequence[str]) -> Recogniser:
    """`qwa transcribe --timestamps`, as a user runs it."""

    def recognise(spoken: Sequence[Utterance], folder: Path) -> Iterator[list[Spoken]]:
        paths = {utterance.name: folder / f"{utterance.name}.wav" for utterance in spoken}
        records: dict[Path, dict[str, Any]] = {}
        for language in dict.fromkeys(utterance.language for utterance in spoken):
            names = [utterance.name for utterance in spoken if utterance.language == language]
            told = ("--timestamps", "--language", language, *options)
            records |= processes.transcribe([paths[name] for name in names], *told)[1]
        for utterance in spoken:
            yield [
                Spoken(word["word"], word["start"], word["end"])
                for segment in records[paths[utterance.name]].get("segments", ())
                for word in segment.get("words", ())
            ]

    return recognise


def transformers_whisper() -> Recogniser:
    """transformers' Whisper and its own word times, with the weights of the embedded model."""
    import torch
    import transformers

    import qwen_audio_cli
    from qwen_audio_cli.families.checkpoint import Checkpoint

    transformers.logging.set_verbosity_error()
    directory = Path(qwen_audio_cli.__file__).parent / "weights" / "whisper-base"
    checkpoint = Checkpoint(directory)
    model = transformers.WhisperForConditionalGeneration(
        transformers.WhisperConfig(**checkpoint.config)
    )
    model.load_state_dict({name: t.float() for name, t in checkpoint.tensors()}, strict=False)
    model.tie_weights()
    model.generation_config = transformers.GenerationConfig(
        **checkpoint.json("generation_config.json")
    )
    pipeline = transformers.pipeline(
        "automatic-speech-recognition",
        model=model.eval(),
        tokenizer=transformers.WhisperTokenizerFast(
            tokenizer_file=str(directory / "tokenizer.json")
        ),
        feature_extractor=transformers.WhisperFeatureExtractor(),
        device=torch.device("cpu"),
    )

    def recognise(spoken: Sequence[Utterance], folder: Path) -> Iterator[list[Spoken]]:
        for utterance in spoken:
            answer = pipeline(
                {"raw": utterance.samples, "sampling_rate": SAMPLE_RATE},
                return_timestamps="word",
                generate_kwargs={"language": utterance.language, "task": "transcribe"},
            )
            length = len(utterance.samples) / SAMPLE_RATE
            yield [
                Spoken(chunk["text"], start, length if end is None else end)
                for chunk in answer["chunks"]
                for start, end in [chunk["timestamp"]]
            ]

    return recognise


def matched(truth: Sequence[Spoken], heard: Sequence[Spoken]) -> Iterator[tuple[Spoken, Spoken]]:
    """Pairs of words that are the same in the longest common sequences."""

    def plain(words: Sequence[Spoken]) -> list[str]:
        return [re.sub(r"[^\w']", "", word.word.casefold()) for word in words]

    matcher = difflib.SequenceMatcher(None, plain(truth), plain(heard), autojunk=False)
    for block in matcher.get_matching_blocks():
        yield from zip(truth[block.a :][: block.size], heard[block.b :][: block.size], strict=True)


def figures(pairs: Sequence[tuple[Spoken, Spoken]], words: int) -> dict[str, object]:
    """Median error in seconds and the shares of matched words within each tolerance."""
    starts = [abs(heard.start - truth.start) for truth, heard in pairs]
    ends = [abs(heard.end - truth.end) for truth, heard in pairs]
    errors = {
        "start": starts,
        "end": ends,
        "both": [max(pair) for pair in zip(starts, ends, strict=True)],
    }
    result: dict[str, object] = {"words": words, "matched": len(pairs)}
    for name, values in errors.items():
        result[name] = {
            "median": round(statistics.median(values), 4),
            **{
                f"within_{round(1000 * limit)}ms": round(
                    sum(value <= limit for value in values) / len(values), 4
                )
                for limit in TOLERANCES
            },
        }
    return result


def show(system: str, part: str, result: dict[str, object]) -> None:
    """A line of the table."""
    cells = [f"{system:14}{part:16}{result['matched']:5} of {result['words']:4}"]
    for name in ("start", "end", "both"):
        values = result[name]
        assert isinstance(values, dict)
        median, *shares = values.values()
        cells.append(f"{1000 * median:4.0f} ms" + "".join(f"{100 * x:7.1f}" for x in shares))
    print("   ".join(cells), flush=True)


def before_pauses(words: Sequence[Spoken]) -> set[Spoken]:
    """Those that no other word follows at once."""
    followed = {
        word
        for word, following in itertools.pairwise(words)
        if following.start - word.end < SHORTEST_PAUSE
    }
    return set(words) - followed


def measure(systems: dict[str, Recogniser], spoken: Sequence[Utterance]) -> dict[str, object]:
    """Run every system and print the table."""
    report: dict[str, object] = {}
    limits = "".join(f"{f'<{1000 * limit:.0f}':>7}" for limit in TOLERANCES)
    head = "".join(f"{name + ': med':>12}{limits}" for name in ("start", "end", "both"))
    print(f"{'':30}{'words matched':13}{head}  (ms, % of matched words)")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for utterance in spoken:
            soundfile.write(folder / f"{utterance.name}.wav", utterance.samples, SAMPLE_RATE)
        for system, recognise in systems.items():
            pairs: dict[str, list[tuple[Spoken, Spoken]]] = {}
            words: dict[str, int] = {}
            for utterance, heard in zip(spoken, recognise(spoken, folder), strict=True):
                pausing = before_pauses(utterance.words)
                found = list(matched(utterance.words, heard))
                late = [pair for pair in found if pair[0] in pausing]
                for part, its_pairs, its_words in (
                    (utterance.language, found, len(utterance.words)),
                    ("all", found, len(utterance.words)),
                    ("before a pause", late, len(pausing)),
                ):
                    pairs.setdefault(part, []).extend(its_pairs)
                    words[part] = words.get(part, 0) + its_words
            order = [*SENTENCES, "all", "before a pause"]
            parts = {part: figures(pairs[part], words[part]) for part in order}
            for part, result in parts.items():
                show(system, part, result)
            report[system] = parts
    return report


def save(folder: Path) -> None:
    """Write the fixture of the tests: FLAC files and `times.json` with the true times."""
    folder.mkdir(parents=True, exist_ok=True)
    truth = []
    for utterance in utterances(FIXTURE):
        file = f"{utterance.name}.flac"
        soundfile.write(folder / file, utterance.samples, SAMPLE_RATE, subtype="PCM_16")
        words = [
            {**asdict(word), "start": round(word.start, 4), "end": round(word.end, 4)}
            for word in utterance.words
        ]
        truth.append({"file": file, "language": utterance.language, "words": words})
    text = json.dumps(truth, ensure_ascii=False, indent=1) + "\n"
    (folder / "times.json").write_text(text, encoding="utf-8")


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0], allow_abbrev=False)
    parser.add_argument("--peer", action="store_true", help="also run transformers' Whisper")
    parser.add_argument("--save", type=Path, metavar="DIRECTORY", help="write the tests' fixture")
    options, for_qwa = parser.parse_known_args()
    if options.save:
        save(options.save)
        return
    systems = {"qwa": ours(for_qwa)}
    if options.peer:
        systems["transformers"] = transformers_whisper()
    wanted = [
        (language, number)
        for language, text in SENTENCES.items()
        for number in range(len(text.splitlines()))
    ]
    report = measure(systems, list(utterances(wanted)))
    print(json.dumps({"machine": processes.machine(), "systems": report}))


if __name__ == "__main__":
    main()
