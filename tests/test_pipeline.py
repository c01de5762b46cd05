"""The Python face on real recordings: what comes out for good, bad, long and silent sources."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import orjson
import pytest
import soundfile
from conftest import EXAMPLES, recording

from qwen_audio_cli import Qwa
from qwen_audio_cli.errors import ConfigError, ModelError, UsageError
from qwen_audio_cli.records import ErrorRecord, Record, to_json
from qwen_audio_cli.schema import SCHEMA


@pytest.fixture(scope="module")
def qwa() -> Qwa:
    return Qwa(device="cpu", dtype="float32", batch=4)


def by_name(records: Iterator[Record | ErrorRecord]) -> dict[str, Any]:
    """Records by file name, each validated against the schema as it is written."""
    found = {}
    for record in records:
        jsonschema.validate(orjson.loads(to_json(record)), SCHEMA)
        assert record.file not in found
        found[Path(record.file).name] = record
    return found


def write(path: Path, samples: np.ndarray[Any, Any], rate: int = 16_000) -> Path:
    soundfile.write(path, samples, rate)
    return path


def test_one_bad_source_does_not_touch_the_others(qwa: Qwa, tmp_path: Path) -> None:
    good = EXAMPLES / "en-one-participant.wav"
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("this is no audio at all, whatever its name says\n")
    (tmp_path / "cut.wav").write_bytes(good.read_bytes()[:20_000])
    write(tmp_path / "nan.wav", np.full(16_000, np.nan, "float32")[:, None], 16_000)
    soundfile.write(tmp_path / "nan.wav", np.full(16_000, np.nan), 16_000, subtype="FLOAT")
    sources = [tmp_path / "absent.wav", *sorted(tmp_path.iterdir()), good]
    found = by_name(qwa.transcribe(sources))
    assert found.pop(good.name).text.startswith("There is currently one other participant")
    assert {name: record.code for name, record in found.items()} == {
        "absent.wav": "missing",
        "empty.wav": "empty",
        "text.wav": "unsupported",
        "cut.wav": "decode",
        "nan.wav": "samples",
    }
    assert all(name in record.message for name, record in found.items())


def test_silence_and_noise_say_nothing(qwa: Qwa, tmp_path: Path) -> None:
    noise = np.random.default_rng(1).normal(0, 0.05, 80_000).astype("float32")
    sources = [
        write(tmp_path / "silence.wav", np.zeros(80_000)),
        write(tmp_path / "noise.wav", noise),
    ]
    for record in by_name(qwa.transcribe(sources, timestamps=True)).values():
        assert record.text == "" and record.flags == {"no_speech"}
        assert record.duration == 5.0


def test_a_long_source_is_cut_and_joined_without_loss_or_repeat(qwa: Qwa, tmp_path: Path) -> None:
    """Two recordings, 75 s with silence between and behind, in stereo at 44.1 kHz and flac."""
    import soxr

    first, second = recording("en-no-connection"), recording("en-echo-test")
    pause = np.zeros(20 * 16_000, "float32")
    joined = np.concatenate([first, pause, second, pause])
    high = soxr.resample(joined, 16_000, 44_100)
    path = tmp_path / "long.flac"
    soundfile.write(path, np.stack([high, high], axis=1), 44_100)
    (record,) = by_name(qwa.transcribe(path, timestamps=True)).values()
    assert record.duration == pytest.approx(len(joined) / 16_000, abs=1e-3)
    assert record.text.count("Digium") == 1 and record.text.count("pound key") == 1
    assert len(record.segments) >= 2 and record.language == "en"
    words = [word for segment in record.segments for word in segment.words]
    assert " ".join(word.word for word in words) == record.text
    gap = len(first) / 16_000, (len(first) + len(pause)) / 16_000
    for word in words:
        assert 0 <= word.start <= word.end <= record.duration
        assert word.end < gap[0] + 0.5 or word.start > gap[1] - 0.5
    starts = [word.start for word in words]
    assert starts == sorted(starts)


def test_records_do_not_depend_on_batch_and_workers(qwa: Qwa) -> None:
    sources = sorted(EXAMPLES.glob("[efi][nrt]-[no]*.wav"))
    one = Qwa(device="cpu", dtype="float32", batch=1, workers=1)
    together, alone = (by_name(each.transcribe(sources)) for each in (qwa, one))
    assert {name: record.text for name, record in together.items()} == {
        name: record.text for name, record in alone.items()
    }
    assert {name: record.id for name, record in together.items()} == {
        name: record.id for name, record in alone.items()
    }


def test_a_run_can_be_left_early_and_its_threads_end(qwa: Qwa) -> None:
    before = set(threading.enumerate())
    records = qwa.transcribe(sorted(EXAMPLES.glob("*.wav")))
    assert isinstance(next(records), Record)
    records.close()  # type: ignore[attr-defined]
    for thread in set(threading.enumerate()) - before:
        thread.join(timeout=10)
        assert not thread.is_alive()


def test_the_id_is_of_content_task_model_and_options(qwa: Qwa, tmp_path: Path) -> None:
    original = EXAMPLES / "en-one-participant.wav"
    copy = tmp_path / "another name.wav"
    copy.write_bytes(original.read_bytes())
    first, second = (next(iter(qwa.transcribe(path))).id for path in (original, copy))
    timed = next(iter(qwa.transcribe(original, timestamps=True))).id
    language = next(iter(qwa.classify(original, task="language"))).id
    assert first == second and len({first, timed, language}) == 3


def test_language_labels_are_ranked_and_cut(qwa: Qwa) -> None:
    (record,) = qwa.classify(EXAMPLES / "it-no-connection.wav", task="language", top_k=2)
    assert isinstance(record, Record) and record.labels is not None
    assert record.labels[0].label == "it" and len(record.labels) == 2
    (unsure,) = qwa.classify(
        EXAMPLES / "it-no-connection.wav", task="language", labels=("en", "fr"), threshold=1.0
    )
    assert isinstance(unsure, Record) and unsure.labels == () and unsure.flags == {"abstained"}


@pytest.mark.parametrize(
    ("options", "error", "reason"),
    [
        ({"language": "klingon"}, UsageError, "klingon"),
        ({"task": "emotion"}, UsageError, "'qwa classify'"),
        ({"tags": "<|startoftranscription|>"}, UsageError, "startoftranscript"),
        ({"temperature": -1.0}, UsageError, "temperature"),
    ],
)
def test_wrong_options_are_refused_by_name(
    qwa: Qwa, options: dict[str, Any], error: type[Exception], reason: str
) -> None:
    with pytest.raises(error, match=reason):
        qwa.transcribe(EXAMPLES / "en-one-participant.wav", **options)


def test_a_task_no_embedded_model_can_do_names_those_that_can(qwa: Qwa) -> None:
    with pytest.raises(UsageError, match=r"audio-caption.*qwen-audio"):
        qwa.caption(EXAMPLES / "en-one-participant.wav")


def test_models_that_are_not_there_are_refused(tmp_path: Path) -> None:
    source = EXAMPLES / "en-one-participant.wav"
    for model, error, reason in (
        ("whisper-bass", UsageError, "whisper-base"),
        ("qwen-audio", ModelError, "not on this machine"),
        (str(tmp_path / "nowhere"), ModelError, "no such model directory"),
        (str(tmp_path), ConfigError, "config.json is missing"),
    ):
        with pytest.raises(error, match=reason):
            Qwa(model=model).transcribe(source)
    with pytest.raises(ModelError, match="cuda"):
        Qwa(device="cuda:7").transcribe(source)
