"""Models of the hub, fetched from one that runs here: `HF_ENDPOINT` names it, `HF_HOME` a cache."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_checkpoints
from hub_server import GOOD_TOKEN, Hub, Repository, running

from qwen_audio_cli.exits import Exit
from qwen_audio_cli.models import MODELS

ROOT = Path(__file__).parent.parent
WAV = ROOT / "examples" / "en-one-participant.wav"
QWA = (sys.executable, "-m", "qwen_audio_cli")
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
SMALL = {"config.json", "generation_config.json", "tokenizer_config.json", "qwen.tiktoken"}
INDEX = "model.safetensors.index.json"
TOKEN_ADVICE = "needs a token (HF_TOKEN, or 'hf auth login')"


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen-Audio in the layout of the real one, with all that a repository has beside it."""
    directory = tiny_checkpoints.qwen_audio(tmp_path_factory.mktemp("tiny") / "tiny")
    for name in ("modeling_qwen.py", "pytorch_model.bin", "rng_state.pt", "README.md"):
        (directory / name).write_text("not for us")
    (directory / "onnx").mkdir()
    (directory / "onnx" / "config.json").write_text("{}")
    return directory


@pytest.fixture(scope="session")
def another(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other weights of the same shape."""
    return tiny_checkpoints.qwen_audio(tmp_path_factory.mktemp("tiny") / "tiny", seed=1)


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running() as hub:
        yield hub


class User:
    """Somebody with a cache of their own, at a hub."""

    def __init__(self, hub: Hub, home: Path) -> None:
        self.hub = hub
        self.work = home / "work"
        self.work.mkdir()
        self.cache = home / "hf" / "hub"
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("QWA_", "HF_"))}
        self.environment = kept | {
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "HF_ENDPOINT": hub.endpoint,
            "HF_HOME": str(home / "hf"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }

    def qwa(self, *arguments: str | Path, **environment: str) -> tuple[int, str, list[str]]:
        """Run a command: exit code, standard output, lines of standard error."""
        done = subprocess.run(
            [*QWA, *arguments],
            capture_output=True,
            text=True,
            env=self.environment | environment,
            cwd=self.work,
        )
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout, done.stderr.splitlines()

    def pull(self, *arguments: str, **environment: str) -> tuple[int, str, list[str]]:
        return self.qwa("models", "pull", *arguments, **environment)

    def pulled(self, *arguments: str) -> Path:
        """Pull what is there: its directory."""
        code, shown, told = self.pull(*arguments)
        assert code == 0, told
        return Path(shown.rstrip("\n"))

    def refused(self, *arguments: str, code: Exit = Exit.UNAVAILABLE, **environment: str) -> str:
        """Pull what cannot be: the one line that says why."""
        returned, shown, told = self.pull(*arguments, **environment)
        assert (returned, shown, len(told)) == (code, "", 1), told
        return told[0].removeprefix("qwa: ")

    def answer(self, *arguments: str) -> str:
        """Transcribe: what the record calls the model."""
        options = ("--max-tokens", "2", "--no-vad", "-q")
        code, shown, told = self.qwa("transcribe", WAV, *options, *arguments)
        assert (code, told) == (0, [])
        return str(json.loads(shown)["model"])


@pytest.fixture
def user(hub: Hub, tmp_path: Path) -> User:
    return User(hub, tmp_path)


# --- fetching -----------------------------------------------------------------------------------


def test_what_was_pulled_runs_offline(user: User, tiny: Path) -> None:
    """Files that are read come, and no others; a run that finds them asks nobody."""
    repository = user.hub.repositories["Qwen/Qwen-Audio"] = Repository()
    commit = repository.add(tiny)
    code, shown, told = user.pull("qwen-audio")
    directory = Path(shown.rstrip("\n"))
    names = {*SMALL, INDEX, *SHARDS}
    assert code == 0
    assert {path.name for path in directory.iterdir()} == names
    assert all((directory / name).read_bytes() == (tiny / name).read_bytes() for name in names)
    # The index is read before what it names can be counted.
    size = sum((tiny / name).stat().st_size for name in names - {INDEX})
    assert told == [
        f"qwa: fetching Qwen/Qwen-Audio at {commit[:12]}: 6 files, {size / 1e6:,.1f} MB"
    ]
    asked = len(user.hub.requests)
    for options in ([], ["--offline"]):
        assert user.answer("--model", "qwen-audio", *options) == f"qwen-audio@{commit[:12]}"
    # The directory itself is a name too, and records call it what it is.
    assert user.answer("--model", str(directory)) == f"Qwen/Qwen-Audio@{commit[:12]}"
    assert len(user.hub.requests) == asked
    assert user.pull("qwen-audio") == (0, shown, [])
    rows = map(json.loads, user.qwa("models", "--json")[1].splitlines())
    embedded = {card.alias for card in MODELS if card.is_embedded}
    assert {row["name"] for row in rows if row["present"]} == {*embedded, "qwen-audio"}


def test_a_run_fetches_what_is_missing_once(user: User, tiny: Path) -> None:
    repository = user.hub.repositories["some/tiny-audio"] = Repository()
    commit = repository.add(tiny)
    code, shown, told = user.qwa("transcribe", WAV, "--model", "some/tiny-audio", "--no-vad")
    assert code == 0
    assert json.loads(shown)["model"] == f"some/tiny-audio@{commit[:12]}"
    assert len(told) == 2 and told[0].startswith("qwa: fetching some/tiny-audio at ")
    assert {path.name for path in user.cache.rglob("*.py")} == set()
    asked = len(user.hub.requests)
    assert user.answer("--model", "some/tiny-audio") == f"some/tiny-audio@{commit[:12]}"
    assert len(user.hub.requests) == asked


def test_several_processes_share_what_one_has_fetched(user: User, tiny: Path) -> None:
    user.hub.repositories["some/tiny-audio"] = Repository()
    commit = user.hub.repositories["some/tiny-audio"].add(tiny)
    options = ("--devices", "cpu,cpu", "--model", "some/tiny-audio")
    assert user.answer(*options) == f"some/tiny-audio@{commit[:12]}"
    assert len(user.hub.fetched()) == len({*SMALL, INDEX, *SHARDS})


def test_revisions(user: User, tiny: Path, another: Path) -> None:
    repository = user.hub.repositories["some/tiny-audio"] = Repository()
    old = repository.add(another, "v1")
    new = repository.add(tiny)
    model = ("--model", "some/tiny-audio")
    assert user.answer(*model) == f"some/tiny-audio@{new[:12]}"
    for revision in ("v1", old):
        assert user.answer(*model, "--revision", revision) == f"some/tiny-audio@{old[:12]}"
    # As records name it; on this machine, and on the hub.
    asked = len(user.hub.requests)
    assert user.pulled("some/tiny-audio", "--revision", old).name == old
    assert user.answer(*model, "--offline", "--revision", old[:12]) == f"some/tiny-audio@{old[:12]}"
    assert len(user.hub.requests) == asked
    elsewhere = User(user.hub, user.work)
    assert elsewhere.pulled("some/tiny-audio", "--revision", old[:12]).name == old
    for name in ("v2", "0123456789ab", "../../etc"):
        told = user.refused("some/tiny-audio", "--revision", name)
        assert told == f"some/tiny-audio has no revision '{name}'"


def test_an_update_counts_when_it_is_whole(user: User, tiny: Path, another: Path) -> None:
    """A run keeps to what is here; `pull` asks for what is new; half of that changes nothing."""
    repository = user.hub.repositories["some/tiny-audio"] = Repository()
    old = repository.add(another)
    user.pulled("some/tiny-audio")
    new = repository.add(tiny)
    assert user.answer("--model", "some/tiny-audio") == f"some/tiny-audio@{old[:12]}"
    user.hub.breaks[SHARDS[1]] = [0] * 100
    code, shown, told = user.pull("some/tiny-audio")
    assert (code, shown) == (Exit.UNAVAILABLE, "")
    assert "cannot be fetched" in told[-1]
    assert user.answer("--model", "some/tiny-audio") == f"some/tiny-audio@{old[:12]}"
    user.hub.breaks.clear()
    assert user.pulled("some/tiny-audio").name == new
    assert user.answer("--model", "some/tiny-audio") == f"some/tiny-audio@{new[:12]}"


def test_the_token_is_sent(user: User, tiny: Path) -> None:
    repository = user.hub.repositories["some/private-audio"] = Repository(access="private")
    repository.add(tiny)
    assert TOKEN_ADVICE in user.refused("some/private-audio")
    told = user.refused("some/private-audio", HF_TOKEN="hf_of_nobody")
    assert "refuses the token" in told and "hf_of_nobody" not in told
    assert user.pull("some/private-audio", HF_TOKEN=GOOD_TOKEN)[0] == 0
    sent = [headers.get("authorization") for headers in user.hub.fetched()]
    assert set(sent) == {f"Bearer {GOOD_TOKEN}"}


@pytest.mark.parametrize(
    ("terminal", "options", "bar"),
    [("xterm", [], True), ("dumb", [], False), ("xterm", ["-q"], False)],
)
def test_a_terminal_shows_a_bar_and_then_takes_it_off(
    terminal: str, options: list[str], bar: bool, user: User, tiny: Path
) -> None:
    user.hub.repositories["some/tiny-audio"] = Repository()
    user.hub.repositories["some/tiny-audio"].add(tiny)
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    with subprocess.Popen(
        [*QWA, "models", "pull", "some/tiny-audio", *options],
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        env=user.environment | {"TERM": terminal},
    ) as process:
        os.close(theirs)
        shown = b""
        try:
            while block := os.read(ours, 1 << 16):
                shown += block
        except OSError:  # how Linux says that the other end is closed
            os.close(ours)
    assert process.returncode == 0
    told, _, drawn = shown.decode().partition("\r\n")
    assert told.startswith("qwa: fetching some/tiny-audio") == (not options)
    assert ("B/s" in drawn) == bar
    assert drawn.split("\r")[-2:] in ([" " * 99, ""], [""])


# --- what goes wrong on the way -----------------------------------------------------------------


def test_a_broken_connection_is_taken_up_again(user: User, tmp_path: Path) -> None:
    """From the last 10 MiB that came whole, which is how much the library takes at a time."""
    large = tmp_path / "large"
    large.mkdir()
    (large / "config.json").write_text("{}")
    content = os.urandom(25 << 20)
    (large / "model.safetensors").write_bytes(content)
    user.hub.repositories["some/large"] = Repository()
    user.hub.repositories["some/large"].add(large)
    user.hub.breaks["model.safetensors"] = [15 << 20]
    directory = user.pulled("some/large")
    ranges = [headers.get("range") for headers in user.hub.fetched("model.safetensors")]
    assert ranges == [None, f"bytes={10 << 20}-"]
    assert (directory / "model.safetensors").read_bytes() == content


def test_an_interrupted_download_goes_on_from_where_it_was(user: User, tiny: Path) -> None:
    user.hub.repositories["some/tiny-audio"] = Repository()
    user.hub.repositories["some/tiny-audio"].add(tiny)
    user.hub.breaks[SHARDS[1]] = [-1]
    with subprocess.Popen(
        [*QWA, "models", "pull", "some/tiny-audio"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=user.environment,
        text=True,
    ) as process:
        assert user.hub.stalled.wait(60)
        process.send_signal(signal.SIGINT)
        shown, told = process.communicate()
    assert (process.returncode, shown) == (Exit.INTERRUPTED, "")
    assert told.count("\n") == 1 and told.startswith("qwa: fetching")
    # What is here of it is not taken for the model.
    options = ("--model", "some/tiny-audio", "--offline")
    code, _, told_offline = user.qwa("transcribe", WAV, *options)
    assert code == Exit.UNAVAILABLE and "not wholly" in told_offline[0]
    directory = user.pulled("some/tiny-audio")
    assert (directory / SHARDS[1]).read_bytes() == (tiny / SHARDS[1]).read_bytes()
    assert len(user.hub.fetched(SHARDS[0])) == 1
    assert len(user.hub.fetched(SHARDS[1])) == 2


def test_what_the_hub_refuses(user: User, tiny: Path) -> None:
    at = user.hub.endpoint
    told = user.refused("some/nothing")
    assert told.startswith(f"some/nothing is no directory here and no model on {at}; ")
    assert user.refused("some/nothing", HF_TOKEN=GOOD_TOKEN) == told
    user.hub.repositories["some/gated-audio"] = Repository(access="gated")
    user.hub.repositories["some/gated-audio"].add(tiny)
    told = user.refused("some/gated-audio")
    assert told.startswith(f"some/gated-audio is gated: accept its terms at {at}/some/gated-audio")
    user.hub.status = 418
    assert "HTTP 418 for some/nothing" in user.refused("some/nothing")


def test_no_connection(user: User, tiny: Path) -> None:
    user.hub.repositories["some/tiny-audio"] = Repository()
    user.hub.repositories["some/tiny-audio"].add(tiny)
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9"}
    told = user.refused("some/tiny-audio", **nowhere)
    assert told.startswith(
        "some/tiny-audio cannot be fetched from http://127.0.0.1:9: ConnectError"
    )
    directory = user.pulled("some/tiny-audio")
    code, shown, lines = user.pull("some/tiny-audio", **nowhere)
    assert (code, shown, len(lines)) == (0, f"{directory}\n", 1)
    assert lines[0].endswith("what is here stays as it is")


def test_offline_says_what_to_do(user: User, tiny: Path) -> None:
    user.hub.repositories["Qwen/Qwen-Audio"] = Repository()
    user.hub.repositories["Qwen/Qwen-Audio"].add(tiny, "v1")
    model = ("--model", "qwen-audio", "--revision", "v1")
    for options, environment in ((["--offline"], {}), ([], {"HF_HUB_OFFLINE": "1"})):
        code, shown, told = user.qwa("transcribe", WAV, *model, *options, **environment)
        assert (code, shown, len(told)) == (Exit.UNAVAILABLE, "", 1)
        assert "'qwa models pull qwen-audio --revision v1' fetches it" in told[0]
    assert "HF_HUB_OFFLINE is set" in user.refused("qwen-audio", HF_HUB_OFFLINE="1")
    assert user.hub.requests == []


def test_a_disk_with_too_little_room_is_told_before_anything_comes(user: User, tiny: Path) -> None:
    user.hub.repositories["some/tiny-audio"] = Repository()
    user.hub.repositories["some/tiny-audio"].add(tiny)
    user.hub.sizes[SHARDS[0]] = 10**15
    assert "takes 1,000,000.0 GB, and the disk of" in user.refused("some/tiny-audio")
    assert [path.name for path in user.cache.rglob("*.safetensors")] == []


@pytest.mark.parametrize(
    ("lacking", "told"),
    [
        ("config.json", "config.json is missing"),
        (SHARDS[0], f"the hub has no {SHARDS[0]}"),
        ("*.safetensors*", r"the hub has no a \*.safetensors file"),
    ],
)
def test_what_is_no_checkpoint_is_not_fetched(
    user: User, another: Path, tmp_path: Path, lacking: str, told: str
) -> None:
    directory = tmp_path / "files"
    directory.mkdir()
    for path in {*another.iterdir()} - {*another.glob(lacking)}:
        (directory / path.name).hardlink_to(path)
    user.hub.repositories["some/model"] = Repository()
    user.hub.repositories["some/model"].add(directory)
    assert re.search(told, user.refused("some/model", code=Exit.CONFIG))
    assert list(user.cache.rglob("*.safetensors")) == []


# --- which name means what ----------------------------------------------------------------------


def test_what_a_model_cannot_do_is_told_before_it_is_fetched(user: User) -> None:
    for line in ("ask Why? --model whisper-tiny", "run -t transcribe,caption --model whisper-tiny"):
        code, _, told = user.qwa(*line.split(), WAV)
        assert (code, len(told)) == (Exit.USAGE, 1)
        assert "whisper cannot do" in told[0]
    assert user.hub.requests == []


def test_a_directory_goes_before_the_hub(user: User, tiny: Path) -> None:
    here = user.work / "some" / "tiny-audio"
    here.parent.mkdir()
    here.symlink_to(tiny)
    assert user.answer("--model", "some/tiny-audio").startswith("tiny@")
    assert user.pull("some/tiny-audio") == (0, "some/tiny-audio\n", [])
    assert user.hub.requests == []


def test_names_and_revisions_that_cannot_be(user: User, tiny: Path) -> None:
    revision = ("--revision", "main")
    told = user.refused("whisper-base", *revision, code=Exit.USAGE)
    assert told.startswith("whisper-base is embedded") and "openai/whisper-base" in told
    told = user.refused(str(tiny), *revision, code=Exit.USAGE)
    assert told == f"--revision is for models of the hub: {tiny} is a directory"
    told = user.refused("some/model--1", code=Exit.USAGE)
    assert told.startswith("'some/model--1' is no name of a model")
    assert "did you mean qwen3-asr-1.7b" in user.refused("qwen3-asr-1.7", code=Exit.USAGE)
    assert user.refused("./some/model") == "some/model: no such model directory"
    assert user.hub.requests == []
