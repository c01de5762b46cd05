"""The command line without a model: help, refusals, listings, and what it writes where."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import pty
import re
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import typer

from qwen_audio_cli import __version__
from qwen_audio_cli.cli import app
from qwen_audio_cli.cli.app import run
from qwen_audio_cli.cli.console import LOG
from qwen_audio_cli.cli.options import AnswerOptions, RunOptions
from qwen_audio_cli.exits import Exit
from qwen_audio_cli.records import FLAGS
from qwen_audio_cli.tags import TagSequence
from qwen_audio_cli.tasks import COMMANDS, TASKS

ANSWERING = (*COMMANDS, "run")
ROOT = Path(__file__).parent.parent
WAV = ROOT / "examples" / "en-one-participant.wav"
QWA = (sys.executable, "-m", "qwen_audio_cli")
ENVIRONMENT = {name: value for name, value in os.environ.items() if name[:4] != "QWA_"}
ENVIRONMENT |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TERM": "xterm"}

Qwa = Callable[..., tuple[int, str, str]]


@pytest.fixture
def qwa(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Iterator[Qwa]:
    """Run the command line in this process, in an empty directory: exit code, output, messages."""
    handlers, level = LOG.handlers[:], LOG.level

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        code = run([os.fspath(argument) for argument in arguments])
        return code, *capfd.readouterr()

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        for name in ("QWA_MODEL", "QWA_DEVICE"):
            patch.delenv(name, raising=False)
        yield call
    LOG.handlers[:] = handlers
    LOG.setLevel(level)


def on_terminal(*arguments: str, **environment: str) -> tuple[int, str]:
    """Run with standard input and error on a terminal: exit code and what the terminal shows."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    with subprocess.Popen(
        [*QWA, *arguments],
        stdin=theirs,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        env=ENVIRONMENT | environment,
    ) as process:
        os.close(theirs)
        shown = b""
        try:
            while block := os.read(ours, 1 << 16):
                shown += block
        except OSError:  # how Linux says that the other end is closed
            os.close(ours)
    return process.returncode, shown.decode()


# --- help ---------------------------------------------------------------------------------------


def test_help_needs_neither_torch_nor_numpy() -> None:
    script = (
        "import sys; from qwen_audio_cli.cli.app import run; code = run(['--help']); "
        "sys.exit(code or ', '.join({'huggingface_hub', 'numpy', 'rich', 'torch', 'tqdm'} & "
        "{*sys.modules}) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    for command in (*ANSWERING, "tasks", "models", "schema"):
        assert re.search(rf"^  {command}  +[A-Z]", done.stdout, re.MULTILINE)
    listed = re.findall(r"^ +(\d+) +(.+)$", done.stdout, re.MULTILINE)
    assert [int(code) for code, _ in listed] == list(Exit)


@pytest.mark.parametrize("command", [*ANSWERING, "tasks", "models", "schema"])
def test_the_help_of_a_command_ends_with_examples_that_it_takes(command: str, qwa: Qwa) -> None:
    code, shown, _ = qwa(command, "-h")
    assert code == 0
    _, _, examples = shown.partition("Examples:\n")
    parser: Any = typer.main.get_command(app)
    for line in examples.splitlines():
        words = line.partition("qwa ")[2].partition("|")[0].partition(">")[0].replace('"', "")
        name, *arguments = words.split()
        assert name == command
        parser.commands[name].make_context(name, arguments)  # raises where it does not parse


def test_every_command_has_the_shared_options() -> None:
    shared = {*AnswerOptions.__dataclass_fields__, *RunOptions.__dataclass_fields__}
    group: Any = typer.main.get_command(app)
    for name in ANSWERING:
        assert shared < {parameter.name for parameter in group.commands[name].params}


def test_no_arguments_is_wrong_usage_and_shows_the_help(qwa: Qwa) -> None:
    code, shown, told = qwa()
    assert (code, shown) == (Exit.USAGE, "")
    assert told == qwa("--help")[1]


@pytest.mark.parametrize("option", ["-V", "--version"])
def test_version(option: str, qwa: Qwa) -> None:
    assert qwa(option) == (0, f"qwa {__version__}\n", "")


# --- refusals -----------------------------------------------------------------------------------

WORD_TAGS = "<|startoftranscript|><|en|><|transcribe|><|en|><|timestamps|><|0.00|>"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("frobnicate", "No such command 'frobnicate'"),
        ("transcribe --taks asr a.wav", "--task"),
        ("transcribe --batch 0 a.wav", "--batch"),
        ("transcribe", "--files-from"),
        ("transcribe --null a.wav", "--files-from"),
        ("transcribe --resume a.wav", "--output FILE"),
        ("transcribe --resume -o - a.wav", "--output FILE"),
        ("transcribe - --files-from -", "standard input cannot be both"),
        ("transcribe --files-from gone.txt", "gone.txt: the list cannot be read"),
        ("transcribe -o out.MP3 a.wav", "named like audio"),
        ("transcribe --fail-on-flag loud a.wav", "known are no_speech"),
        ("transcribe --task asrr a.wav", "did you mean asr"),
        ("transcribe --task emotion a.wav", "'qwa classify'"),
        ("transcribe --language klingon a.wav", "klingon"),
        ("transcribe --temperature nan a.wav", "temperature"),
        ("transcribe --tags <|en|> a.wav", "expected <|startoftranscript|>"),
        (f"transcribe --tags {WORD_TAGS} --language en a.wav", "--language"),
        (f"transcribe --tags {WORD_TAGS} --timestamps a.wav", "--timestamps"),
        (f"translate --tags {WORD_TAGS} a.wav", "not of <|transcribe|>"),
        (f"transcribe --task dialect --tags {WORD_TAGS} a.wav", "has no timestamps"),
        ("caption --top-k 1 a.wav", "--top-k"),
        ("caption --no-vad a.wav", "no --no-vad"),
        ("caption --style loud a.wav", "caption_clotho"),
        ("caption a.wav", "models that can: qwen-audio, qwen-audio-chat"),
        ("classify --task emotion a.wav", "no embedded model can do 'emotion'"),
        ("classify --task custom a.wav", "--labels"),
        ("classify --task language --labels @gone.txt a.wav", "gone.txt cannot be read"),
        ("classify --task language --labels , a.wav", "there are none"),
        ("classify --task language --max-tokens 3 a.wav", "--max-tokens"),
        ("classify --task language --seed 3 a.wav", "--seed"),
        ("classify --task language --threshold 2 a.wav", "between 0 and 1"),
        ("classify --task language --free --top-k 2 a.wav", "--top-k"),
        ("classify --task singer --threshold 0.1 a.wav", "--threshold"),
        ("classify --task singer --free a.wav", "--free"),
        ("timestamp --words --events a.wav", "exclude each other"),
        ("transcribe --devices 0,gpu a.wav", "'gpu' is no device"),
        ("transcribe --devices 0,cuda:0 a.wav", "cuda:0 is there twice"),
        ("transcribe --devices cpu,cpu --device cpu a.wav", "no --device"),
        ("transcribe --device-map fair a.wav", "auto, balanced, sequential"),
        ("transcribe --device-map auto a.wav", "takes no device map"),
        ("timestamp --words --task alignment a.wav", "exclude each other"),
        ("ask", "QUESTION"),
        ("transcribe --model whisper-bse a.wav", "did you mean whisper-base"),
        ("transcribe --order random a.wav", "completion or input"),
        ("run a.wav", "--tasks"),
        ("run --tasks transcribe", "--files-from"),
        ("run --tasks transcribe,dance a.wav", "unknown command 'dance'"),
        ("run --tasks transcribe:emotion a.wav", "'qwa classify'"),
        ("run --tasks transcribe --tasks transcribe:asr a.wav", "'asr' is in this run twice"),
        ("run --tasks transcribe --to fr a.wav", "no task of this run takes --to"),
        (f"run --tasks transcribe --tags {WORD_TAGS} a.wav", "no task of this run takes --tags"),
        ("run --tasks transcribe,caption a.wav", "models that can: qwen-audio, qwen-audio-chat"),
        ("run --question Why? a.wav", "no embedded model can do 'audio-qa'"),
        ("run --tasks translate,transcribe --to fr a.wav", "whisper translates into English only"),
    ],
)
def test_wrong_usage_is_told_on_standard_error(line: str, told: str, qwa: Qwa) -> None:
    code, shown, messages = qwa(*line.split(" "))
    assert (code, shown) == (Exit.USAGE, "")
    assert told in messages
    assert "Traceback" not in messages


@pytest.mark.parametrize("option", ["--language", "--seed"])
def test_listings_have_no_options_of_a_run(option: str, qwa: Qwa) -> None:
    assert qwa("tasks", option, "1")[0] == Exit.USAGE


def test_nothing_to_work_on(qwa: Qwa) -> None:
    Path("deep/er").mkdir(parents=True)
    Path("deep/er/a.wav").touch()
    assert qwa("transcribe", "*.wav") == (Exit.NO_INPUT, "", "qwa: no input matched\n")
    assert qwa("transcribe", "deep") == (
        Exit.NO_INPUT, "", "qwa: no input matched (-r searches deeper)\n",
    )  # fmt: skip
    Path("list").touch()
    assert qwa("transcribe", "--files-from", "list")[0] == Exit.NO_INPUT


@pytest.mark.parametrize(
    ("model", "code", "told"),
    [
        ("gone/", Exit.UNAVAILABLE, "gone: no such model directory"),
        ("qwen-audio", Exit.UNAVAILABLE, "'qwa models pull qwen-audio' fetches it"),
        (".", Exit.CONFIG, "config.json is missing"),
    ],
)
def test_models_that_are_not_there(
    model: str, code: Exit, told: str, qwa: Qwa, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_option = qwa("transcribe", "--model", model, WAV)
    assert by_option[:2] == (code, "")
    assert told in by_option[2]
    monkeypatch.setenv("QWA_MODEL", model)
    assert qwa("transcribe", WAV) == by_option


def test_a_device_that_is_not_there(qwa: Qwa, monkeypatch: pytest.MonkeyPatch) -> None:
    by_option = qwa("transcribe", "--device", "cuda:99", WAV)
    assert by_option[:2] == (Exit.UNAVAILABLE, "")
    assert by_option[2].startswith("qwa: the device 'cuda:99' is not available")
    monkeypatch.setenv("QWA_DEVICE", "cuda:99")
    assert qwa("transcribe", WAV) == by_option


def test_outputs_that_cannot_be(qwa: Qwa, tmp_path: Path) -> None:
    assert qwa("transcribe", WAV, "-o", "gone/out.jsonl")[0] == Exit.CANNOT_CREATE
    output = tmp_path / "out.jsonl"
    with output.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        code, _, told = qwa("transcribe", WAV, "-o", output)
    assert (code, told) == (Exit.TRY_LATER, f"qwa: {output}: another run is writing to it\n")
    output.write_text("my notes\n")
    assert qwa("transcribe", WAV, "-o", output, "--resume")[0] == Exit.CONFIG
    assert output.read_text() == "my notes\n"


def test_an_input_is_never_the_output(qwa: Qwa, tmp_path: Path) -> None:
    content = WAV.read_bytes() + b"\n"  # nothing that mending would find wrong
    Path("take").write_bytes(content)
    Path("link").symlink_to("take")
    Path("list").write_text(f"{WAV}\n")
    for line in ("take -o take", "take -o link", "link -o ./take", "--files-from list -o list"):
        code, _, told = qwa("transcribe", *line.split())
        assert (code, told.partition(": is ")[2]) == (Exit.USAGE, "both input and output\n")
    with Path("take").open("ab") as redirected:
        done = subprocess.run([*QWA, "transcribe", "take"], stdout=redirected, env=ENVIRONMENT)
    assert done.returncode == Exit.USAGE
    assert Path("take").read_bytes() == content


# --- what is shown instead of a run -------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("transcribe",
         "<|startoftranscript|><|auto|><|transcribe|><|auto|><|notimestamps|><|wo_itn|>"),
        ("transcribe -l german --timestamps",
         "<|startoftranscript|><|de|><|transcribe|><|de|><|timestamps|><|0.00|>"),
        ("translate -l fr --to ja",
         "<|startoftranscript|><|fr|><|translate|><|ja|><|notimestamps|><|itn|>"),
        ("caption --style caption_audiocaps",
         "<|startofanalysis|><|unknown|><|caption|><|en|><|notimestamps|><|caption_audiocaps|>"),
        ("classify --task scene",
         "<|startofanalysis|><|unknown|><|keyword|><|en|><|notimestamps|><|scene|>"),
        ("timestamp --events",
         "<|startofanalysis|><|unknown|><|keyword|><|en|><|timestamps|><|audio_grounding|>"),
        ("ask Why?", "<|startofanalysis|><|en|><|question|>Why?<|answer|>"),
        ("run -t transcribe,classify:scene -l de --question Why?",
         "<|startoftranscript|><|de|><|transcribe|><|de|><|notimestamps|><|wo_itn|>\n"
         "<|startofanalysis|><|de|><|keyword|><|en|><|notimestamps|><|scene|>\n"
         "<|startofanalysis|><|de|><|question|>Why?<|answer|>"),
    ],
)  # fmt: skip
def test_tags_show_prints_the_sequence_and_loads_nothing(line: str, shown: str, qwa: Qwa) -> None:
    assert qwa(*line.split(" "), "--tags", "show") == (0, shown + "\n", "")


def test_tasks(qwa: Qwa) -> None:
    code, shown, _ = qwa("tasks", "--json")
    rows = [json.loads(line) for line in shown.splitlines()]
    assert code == 0
    assert [row["name"] for row in rows] == list(TASKS)
    assert {row["command"] for row in rows if row["default"]} == set(COMMANDS)
    assert [row["name"] for row in rows if "whisper-base" in row["models"]] == [
        "asr", "translation", "language", "word-times",
    ]  # fmt: skip
    for row in rows:
        assert str(TagSequence.parse(row["tags"])) == row["tags"]
    heading, *lines = qwa("tasks")[1].splitlines()
    starts = [match.start() for match in re.finditer(r"\S+", heading)]
    assert len(lines) == len(rows)
    for row, line in zip(rows, lines, strict=True):
        cells = [
            line[start:end].strip() for start, end in zip(starts, [*starts[1:], None], strict=True)
        ]
        # 'mini' is an alias and a family; what is shown of it says more (tests/test_embedded.py).
        models, families = (
            ",".join(
                f"{name} (experimental)" if name in row["experimental"] else name
                for name in row[key]
            )
            for key in ("models", "families")
        )
        assert cells == [
            row["name"], row["command"], models or "-", families, row["title"], row["tags"],
        ]  # fmt: skip


def test_models(qwa: Qwa) -> None:
    rows = {row["name"]: row for row in map(json.loads, qwa("models", "--json")[1].splitlines())}
    assert rows["whisper-base"]["source"] == "openai/whisper-base"
    config = json.loads((Path(rows["whisper-base"]["path"]) / "config.json").read_text())
    assert config["model_type"] == "whisper"
    assert rows["qwen-audio"]["path"] is None
    assert [line.split()[0] for line in qwa("models")[1].splitlines()] == ["NAME", *rows]


def test_schema(qwa: Qwa) -> None:
    code, shown, _ = qwa("schema")
    assert code == 0
    jsonschema.Draft202012Validator.check_schema(json.loads(shown))


# --- streams ------------------------------------------------------------------------------------


def test_a_reader_that_goes_away_ends_it_quietly(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    for arguments in (["--help"], ["tasks"], ["schema"]):
        done = subprocess.run(
            [*QWA, *arguments], stdout=write, stderr=subprocess.PIPE, env=ENVIRONMENT
        )
        assert (done.returncode, done.stderr) == (Exit.BROKEN_PIPE, b"")
    # Nobody to read the message is no reason for another exit code.
    done = subprocess.run(
        [*QWA, "transcribe", "*.wav"], stderr=write, env=ENVIRONMENT, cwd=tmp_path
    )
    os.close(write)
    assert done.returncode == Exit.NO_INPUT


def test_a_full_disk() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*QWA, "schema"], stdout=full, stderr=subprocess.PIPE, env=ENVIRONMENT, text=True
        )
    assert (done.returncode, done.stderr) == (
        Exit.IO_ERROR,
        "qwa: [Errno 28] No space left on device\n",
    )


def test_color_is_for_terminals_that_have_it() -> None:
    def prefix(*options: str, **environment: str) -> str:
        code, shown = on_terminal("transcribe", "no*such.wav", *options, **environment)
        assert code == Exit.NO_INPUT
        return shown.removesuffix(" no input matched\r\n")

    assert prefix() == "\x1b[31mqwa:\x1b[0m"
    assert prefix("--no-color") == prefix(NO_COLOR="1") == prefix(TERM="dumb") == "qwa:"


@pytest.mark.parametrize("arguments", [["-"], ["--files-from", "-"]])
def test_a_terminal_as_input_is_refused_at_once(arguments: list[str]) -> None:
    code, shown = on_terminal("transcribe", *arguments)
    assert code == Exit.USAGE
    assert "standard input is a terminal" in shown


def test_a_message_is_one_line_whatever_the_name(qwa: Qwa) -> None:
    _, _, told = qwa("transcribe", "--files-from", "a\n\x1b[31mb\x9b")
    assert told.startswith("qwa: a\\n\\x1b[31mb\\x9b: ")
    assert told.count("\n") == 1


def test_a_bug_is_told_in_a_line_and_traced_on_demand(
    qwa: Qwa, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: object, command: str) -> None:
        raise ZeroDivisionError("here")

    monkeypatch.setattr("qwen_audio_cli.options.Options.tag_sequence", broken)
    code, shown, told = qwa("transcribe", "--tags", "show")
    assert (code, shown) == (Exit.INTERNAL, "")
    assert told == "qwa: internal error: ZeroDivisionError: here (-v shows where)\n"
    assert "in broken\n" in qwa("transcribe", "--tags", "show", "-v")[2]
    assert LOG.level == logging.DEBUG


def test_the_flags_that_may_fail_a_run_are_those_of_records() -> None:
    assert RunOptions(fail_on_flag=",".join(FLAGS)).failing_flags() == frozenset(FLAGS)
    assert RunOptions().failing_flags() == frozenset()
