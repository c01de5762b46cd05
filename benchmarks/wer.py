"""Word error rate on real recordings in five languages, against their published transcripts.

    python benchmarks/wer.py --reference --weights DIRECTORY

    qwa          as a user runs it: the dtype that this machine computes fastest, clips at their
                 own length
    float32      the same in float32
    full-window  in float32, clips as 30 s windows, as the reference encodes them
    weights      in float32 with other weights, from DIRECTORY: those of
                 `scripts/build_whisper_base.py --precision fp16 --to DIRECTORY` show against
                 `float32` what int8 costs
    reference    transformers' own Whisper, float32, greedy, with the embedded weights

The language is detected unless `--tell-language`. Prompts and normalisation: see prompts.py. In
brackets stands how many files have other words than the reference. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import processes
from prompts import LANGUAGES, Prompt, normalise, prompts, spelling_table, word_error_rate

QWA_COLUMNS: dict[str, tuple[str, ...]] = {
    "qwa": (),
    "float32": ("--dtype", "float32"),
    "full-window": ("--dtype", "float32", "--full-window"),
}
REFERENCE = "reference"

Texts = dict[str, dict[str, list[str]]]
"""Column -> language -> what was heard in each prompt."""


def by_qwa(spoken: Sequence[Prompt], options: Sequence[str]) -> list[str]:
    """What `qwa transcribe` writes."""
    _, records = processes.transcribe([prompt.path for prompt in spoken], *options)
    return [records[prompt.path].get("text", "") for prompt in spoken]


def by_reference(spoken: Sequence[Prompt], options: Sequence[str]) -> list[str]:
    """What transformers' Whisper writes."""
    command = [sys.executable, str(Path(__file__).with_name("systems.py")), "transformers"]
    ran = processes.run([*command, *options, *(str(prompt.path) for prompt in spoken)])
    texts = json.loads(ran.output)["texts"]
    return [texts[str(prompt.path)] for prompt in spoken]


def listen(
    sets: dict[str, list[Prompt]], columns: dict[str, tuple[str, ...]], tell_language: bool
) -> Texts:
    """Run every column on every language."""
    texts: Texts = {}
    for column, options in columns.items():
        texts[column] = {}
        for language, spoken in sets.items():
            print(f"{column}: {language}", file=sys.stderr)
            told = (*options, "--language", language) if tell_language else options
            hear = by_reference if column == REFERENCE else by_qwa
            texts[column][language] = hear(spoken, told)
    return texts


def normalise_all(texts: dict[str, list[str]]) -> dict[str, list[str]]:
    """Each language's texts, made comparable."""
    return {language: normalise(language, heard) for language, heard in texts.items()}


def show_differences(name: str, sets: dict[str, list[Prompt]], plain: Texts) -> None:
    """Print the prompts in which a column has other words than the reference."""
    for language, spoken in sets.items():
        for prompt, ours, theirs in zip(
            spoken, plain[name][language], plain[REFERENCE][language], strict=True
        ):
            if ours != theirs:
                print(f"{name} {prompt.path.stem}\n  {ours}\n  {theirs}  (reference)")


def report(sets: dict[str, list[Prompt]], plain: Texts) -> dict[str, object]:
    """Print the table; gives its figures, the rates as fractions."""
    truth = normalise_all({key: [prompt.text for prompt in spoken] for key, spoken in sets.items()})
    rates: dict[str, dict[str, float]] = {column: {} for column in plain}
    differ: dict[str, dict[str, int]] = {column: {} for column in plain}
    print(f"{'language':10}{'prompts':>8}{'words':>7}" + "".join(f"{c:>19}" for c in plain))
    for row in (*sets, "all"):
        languages = list(sets) if row == "all" else [row]
        said = [text for language in languages for text in truth[language]]
        cells = [f"{row:10}{len(said):8}{sum(len(text.split()) for text in said):7}"]
        for column, texts in plain.items():
            heard = [text for language in languages for text in texts[language]]
            rates[column][row] = round(word_error_rate(said, heard), 5)
            cell = f"{100 * rates[column][row]:.2f} %"
            if REFERENCE in plain and column != REFERENCE:
                theirs = [text for language in languages for text in plain[REFERENCE][language]]
                differ[column][row] = sum(a != b for a, b in zip(heard, theirs, strict=True))
                cell += f" ({differ[column][row]})"
            cells.append(f"{cell:>19}")
        print("".join(cells))
    return {"wer": rates, "differ": {column: rows for column, rows in differ.items() if rows}}


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--languages", nargs="+", choices=LANGUAGES, default=LANGUAGES)
    parser.add_argument("--columns", nargs="*", choices=QWA_COLUMNS, default=list(QWA_COLUMNS))
    parser.add_argument("--number", type=int, default=100, help="prompts in each language")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of prompts")
    parser.add_argument("--weights", type=Path, metavar="DIRECTORY", help="see above")
    parser.add_argument("--reference", action="store_true", help="run transformers' Whisper too")
    parser.add_argument("--tell-language", action="store_true", help="do not have it detected")
    parser.add_argument("--show", action="store_true", help="print where words differ from it")
    options = parser.parse_args()
    columns = {name: QWA_COLUMNS[name] for name in options.columns}
    if options.weights:
        columns["weights"] = ("--dtype", "float32", "--model", str(options.weights.resolve()))
    if options.reference:
        columns[REFERENCE] = ()
    if options.show and not options.reference:
        parser.error("--show compares with the reference: it needs --reference")
    machine = processes.machine()
    with tempfile.TemporaryDirectory() as name:
        sets = {
            language: prompts(language, options.number, Path(name), options.seed)
            for language in options.languages
        }
        texts = listen(sets, columns, options.tell_language)
    plain = {column: normalise_all(heard) for column, heard in texts.items()}
    figures = report(sets, plain)
    if options.show:
        for column in texts.keys() - {REFERENCE}:
            show_differences(column, sets, plain)
    spelling = spelling_table() is not None
    if "en" in sets and not spelling:
        print("openai-whisper is not installed: English spellings were not made alike")
    about = {"number": options.number, "seed": options.seed, "spelling_table": spelling}
    told = {"language_told": options.tell_language}
    print(json.dumps({"benchmark": "wer", **about, **told, **figures, "machine": machine}))


if __name__ == "__main__":
    main()
