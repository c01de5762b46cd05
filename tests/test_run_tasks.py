"""Several tasks over one pass of the audio: the same records as one by one, one encode a clip."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Container, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import orjson
import pytest
import soundfile
import torch
from conftest import CPU, EXAMPLES, recording
from tiny_checkpoints import qwen_audio

from qwen_audio_cli import Qwa
from qwen_audio_cli.audio.sources import expand_sources
from qwen_audio_cli.errors import UsageError
from qwen_audio_cli.families.base import Family
from qwen_audio_cli.families.qwen_audio import QwenAudio
from qwen_audio_cli.families.whisper import Whisper
from qwen_audio_cli.options import Options
from qwen_audio_cli.queries import share
from qwen_audio_cli.records import ErrorRecord, Record, to_json
from qwen_audio_cli.schema import SCHEMA

ONE, UN = EXAMPLES / "en-one-participant.wav", EXAMPLES / "fr-one-participant.wav"
TALK = EXAMPLES / "it-no-connection.wav"


def loaded(name: str, family: Family, **how: Any) -> Qwa:
    """A face whose model `name` is `family`, loaded already."""
    how = {"model": name, "batch": 4} | how
    qwa = Qwa(device="cpu", dtype="float32", **how)
    qwa.families[name] = family
    return qwa


@contextlib.contextmanager
def counting(family: Family) -> Iterator[Counter[str]]:
    """Counts the clips that go through the encoder, and the dialogues that are held."""
    counts: Counter[str] = Counter()
    model: Any = family.model
    encode, answer = model.encode, family.answer

    def encode_counted(features: torch.Tensor, lengths: Any) -> Any:
        counts["encoded"] += len(lengths)
        return encode(features, lengths)

    def answer_counted(job: Any, seconds: float) -> Any:
        counts["answered"] += 1
        return answer(job, seconds)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "encode", encode_counted)
        patch.setattr(family, "answer", answer_counted)
        yield counts


def written(records: Iterable[Record | ErrorRecord]) -> list[dict[str, Any]]:
    """Records as they are written, each valid, but for the seconds that they took."""
    found = [orjson.loads(to_json(record)) for record in records]
    for record in found:
        jsonschema.validate(record, SCHEMA)
        record.pop("timing", None)
    return found


@pytest.fixture
def qwa(whisper: Whisper) -> Qwa:
    return loaded("whisper-base", whisper, model=None)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> QwenAudio:
    family = QwenAudio(qwen_audio(tmp_path_factory.mktemp("tiny")), "tiny")
    family.load(torch.float32, CPU)
    return family


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source of several clips: speech in two languages, and silence between."""
    path = tmp_path_factory.mktemp("long") / "long.wav"
    pause = np.zeros(16 * 16_000, "float32")
    one, un = recording(ONE.stem), recording(UN.stem)
    soundfile.write(path, np.concatenate([one, pause, un, pause]), 16_000)
    return path


# --- the same as one by one ---------------------------------------------------------------------


def test_each_record_is_that_of_its_own_run_and_each_clip_is_encoded_once(
    qwa: Qwa, whisper: Whisper, long: Path
) -> None:
    sources = [UN, long]
    list(qwa.transcribe(UN))  # the silence behind all clips is encoded with the first of them
    tasks = ["transcribe,translate", "classify:language", "timestamp"]
    with counting(whisper) as alone:
        expected = [
            *written(qwa.transcribe(sources)),
            *written(qwa.translate(sources)),
            *written(qwa.classify(sources, task="language", top_k=3)),
            *written(qwa.timestamp(sources)),
        ]
    with counting(whisper) as counts:
        found = written(qwa.run(tasks, sources, top_k=3))
    clips = counts["encoded"]
    assert clips > len(sources)  # the long one is cut
    assert (alone["encoded"], counts["answered"]) == (4 * clips, 4 * clips)
    assert sorted(found, key=lambda r: r["id"]) == sorted(expected, key=lambda r: r["id"])
    assert len({record["id"] for record in found}) == 8
    assert all(record["text"] for record in found if record["task"] != "language")
    # Those of a source together, in the order of the tasks.
    files = [record["file"] for record in found]
    assert [*dict.fromkeys(files)] == files[::4]
    names = [record["task"] for record in found]
    assert names == ["asr", "translation", "language", "word-times"] * 2


def test_each_answer_of_qwen_audio_is_that_of_its_own_run(tiny: QwenAudio, long: Path) -> None:
    sources = [ONE, long]
    qwa = loaded("tiny", tiny)
    questions = ("What is said?", "Who says it?")
    with counting(tiny) as counts:
        found = written(
            qwa.run(
                "caption,classify:emotion,ask:music-qa,timestamp:sound-event-times,transcribe",
                sources,
                questions=questions,
                max_tokens=12,
            )
        )
    short = {"max_tokens": 12}
    expected = [
        *written(qwa.caption(sources, **short)),
        *written(qwa.classify(sources, task="emotion", vad=False)),
        *(r for q in questions for r in written(qwa.ask(q, sources, task="music-qa", **short))),
        *written(qwa.timestamp(sources, task="sound-event-times", **short)),
        *written(qwa.transcribe(sources, vad=False, **short)),
    ]
    assert counts["answered"] == 6 * counts["encoded"] > 12
    assert sorted(found, key=lambda r: r["id"]) == sorted(expected, key=lambda r: r["id"])
    assert [record.get("question") for record in found[:6]] == [
        None, None, *questions, None, None,
    ]  # fmt: skip


def test_speech_is_looked_for_only_if_all_tasks_are_of_speech(
    tiny: QwenAudio, tmp_path: Path
) -> None:
    silence = tmp_path / "silence.wav"
    soundfile.write(silence, np.zeros(32_000), 16_000)
    qwa = loaded("tiny", tiny)
    tasks = "transcribe,classify:emotion"
    with counting(tiny) as counts:
        speech, emotion = written(qwa.run(tasks, silence))
    assert not counts and speech["flags"] == emotion["flags"] == ["no_speech"]
    (alone,) = written(qwa.transcribe(silence, vad=False))
    with counting(tiny) as counts:
        whole = written(qwa.run(tasks, silence, vad=False))
        mixed = written(qwa.run(f"{tasks},caption", silence))
    assert counts["encoded"] == 2
    assert whole == mixed[:2] and whole[0] == alone
    assert {record["id"] for record in whole}.isdisjoint((speech["id"], emotion["id"]))


# --- what fails, and what is done already -------------------------------------------------------


def test_a_source_that_cannot_be_read_has_an_error_record_per_task(
    qwa: Qwa, tmp_path: Path
) -> None:
    gone = tmp_path / "gone.wav"
    found = list(qwa.run("transcribe,translate", [gone, ONE]))
    failed = [record for record in found if isinstance(record, ErrorRecord)]
    assert [(r.file, r.task, r.code) for r in failed] == [
        (str(gone), "asr", "missing"),
        (str(gone), "translation", "missing"),
    ]
    assert len({record.id for record in found}) == 4
    assert [r.id for r in qwa.transcribe(gone)] == [failed[0].id]


@pytest.mark.parametrize("batch", [1, 4])
def test_a_task_that_fails_within_the_engine_fails_alone(
    whisper: Whisper, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    """Steps with the tag of translation raise, as one that runs out of memory does."""
    qwa = loaded("whisper-base", whisper, model=None, batch=batch)
    expected = written(qwa.transcribe([ONE, UN])) + written(qwa.timestamp([ONE, UN]))
    translate = whisper._tasks["translate"]
    forward = whisper.model.forward

    def failing(tokens: torch.Tensor, *rest: Any) -> torch.Tensor:
        if (tokens == translate).any():
            raise MemoryError("no room for this one")
        return forward(tokens, *rest)

    monkeypatch.setattr(whisper.model, "forward", failing)
    found = list(qwa.run("transcribe,translate,timestamp", [ONE, UN]))
    assert [r.task for r in found] == ["asr", "translation", "word-times"] * 2
    failed = [record for record in found if isinstance(record, ErrorRecord)]
    assert [(r.task, r.code) for r in failed] == [("translation", "memory")] * 2
    others = written(record for record in found if isinstance(record, Record))
    assert sorted(others, key=lambda r: r["id"]) == sorted(expected, key=lambda r: r["id"])


def test_a_task_that_failed_in_one_clip_is_not_tried_in_the_next(
    whisper: Whisper, monkeypatch: pytest.MonkeyPatch, long: Path
) -> None:
    qwa = loaded("whisper-base", whisper, model=None, batch=1)
    asked: list[str] = []
    answer = whisper.answer

    def failing(job: Any, seconds: float) -> Any:
        asked.append(job.task.name)
        if job.task.name == "translation":
            raise ZeroDivisionError
        return answer(job, seconds)

    monkeypatch.setattr(whisper, "answer", failing)
    translated, language = qwa.run("translate,classify:language", long)
    assert isinstance(translated, ErrorRecord) and translated.code == "internal"
    assert isinstance(language, Record) and language.labels
    assert asked.count("translation") == 1 < asked.count("language")


def test_an_encoder_that_fails_fails_all_tasks_of_its_source_alone(
    whisper: Whisper, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = whisper.model.encode

    def failing(features: torch.Tensor, lengths: Any) -> Any:
        if max(lengths) > 800:
            raise RuntimeError("too long for this encoder")
        return encode(features, lengths)

    monkeypatch.setattr(whisper.model, "encode", failing)
    qwa = loaded("whisper-base", whisper, model=None)
    found = list(qwa.run("transcribe,translate", [TALK, ONE]))
    kinds = {(Path(r.file).name, r.task): type(r) for r in found}
    assert kinds == {
        (path.name, task): kind
        for path, kind in ((TALK, ErrorRecord), (ONE, Record))
        for task in ("asr", "translation")
    }


def _holds(ids: Container[str], identifier: str, name: str) -> bool:
    return identifier in ids


def test_of_a_source_done_in_part_the_rest_is_done(qwa: Qwa, whisper: Whisper) -> None:
    tasks = "transcribe,translate,classify:language"
    whole = {record.task: record.id for record in qwa.run(tasks, ONE)}
    for done in ({"asr"}, {"translation", "language"}, {*whole}):
        there = {whole[task] for task in done}
        answering = qwa.verify(share([tasks], (), Options()))
        with counting(whisper) as counts:
            is_done = partial(_holds, there)
            found = list(answering(expand_sources([ONE]), is_done))
        assert {record.task: record.id for record in found} == {
            task: identifier for task, identifier in whole.items() if task not in done
        }
        assert counts == Counter({"encoded": 1, "answered": len(found)} if found else {})


# --- what can be asked --------------------------------------------------------------------------


def test_options_are_for_the_tasks_that_have_them() -> None:
    queries = share(
        ["transcribe,translate", "caption:audio-caption,classify:language,classify:custom"],
        ["Why?", "How?"],
        Options(
            language="fr", to="de", timestamps=True, style="caption_plain", labels=("a", "b"),
            top_k=2, threshold=0.1, temperature=0.5, seed=3, max_tokens=9, vad=False,
        ),
    )  # fmt: skip
    wrote = {"language": "fr", "temperature": 0.5, "seed": 3, "max_tokens": 9}
    scored = {"top_k": 2, "threshold": 0.1}
    assert [(query.command, query.options) for query in queries] == [
        ("transcribe", Options(task="asr", timestamps=True, vad=False, **wrote)),
        ("translate", Options(task="translation", to="de", vad=False, **wrote)),
        ("caption", Options(task="audio-caption", style="caption_plain", **wrote)),
        ("classify", Options(task="language", vad=False, **scored)),
        ("classify", Options(task="custom", language="fr", labels=("a", "b"), **scored)),
        ("ask", Options(task="audio-qa", question="Why?", **wrote)),
        ("ask", Options(task="audio-qa", question="How?", **wrote)),
    ]


@pytest.mark.parametrize(
    ("tasks", "questions", "options", "told"),
    [
        ((), (), {}, "--tasks"),
        (("",), (), {}, "unknown command ''"),
        (("transcribe,",), (), {}, "unknown command ''"),
        (("transcribe:",), (), {}, "unknown task ''"),
        (("transcribe:emotion",), (), {}, "'qwa classify'"),
        (("transcript",), (), {}, "did you mean transcribe"),
        (("run",), (), {}, "unknown command 'run'"),
        (("transcribe", "transcribe:asr"), (), {}, "'asr' is in this run twice"),
        (("transcribe",), ("a?", "a?"), {}, "question 'a[?]' is in this run twice"),
        (("transcribe", "ask"), (), {}, "give a question"),
        (("transcribe,classify:language",), (), {"to": "en"}, "--to"),
        (("translate",), (), {"timestamps": True}, "--timestamps"),
        (("transcribe",), (), {"top_k": 1}, "--top-k"),
        (("classify:language",), (), {"seed": 1}, "--seed"),
        (("classify:language",), (), {"language": "en"}, "--language"),
        (("caption",), (), {"style": "loud"}, "--style"),
        (("caption",), (), {"vad": False}, "--no-vad"),
        (("transcribe",), (), {"tags": "<|en|>"}, "--tags"),
        (("transcribe",), (), {"task": "asr"}, "--task"),
        (("transcribe,classify:custom",), (), {}, "--labels"),
        (("transcribe,ask:conversation",), ("a?",), {}, "'asr' takes 1 .* takes all"),
        (("caption,classify:speaker-verification",), (), {}, "'audio-caption' takes 1 .* takes 2"),
        (("timestamp:alignment",), (), {}, "--text"),
        (("caption,classify:scene",), (), {"context": "Qwen"}, "--context"),
        (("ask",), ("a?",), {"together": True}, "--together"),
    ],
)
def test_what_does_not_go_together_is_refused(
    tasks: tuple[str, ...], questions: tuple[str, ...], options: dict[str, Any], told: str
) -> None:
    with pytest.raises(UsageError, match=told):
        Qwa().run(tasks, ONE, questions=questions, **options)


def test_a_model_must_be_able_to_do_all(tiny: QwenAudio) -> None:
    with pytest.raises(UsageError, match=r"all of 'asr' .*'audio-caption' .*: qwen-audio,"):
        Qwa().run("transcribe,caption", ONE)
    with pytest.raises(
        UsageError, match=r"whisper cannot do audio-caption; .*: mini .*qwen-audio,"
    ):
        Qwa(model="whisper-base").run("transcribe,caption", ONE)
    with pytest.raises(UsageError, match="no model of this release can"):
        Qwa().run("transcribe:lyrics,transcribe:overlapped", ONE)
    with pytest.raises(UsageError, match="qwen-audio cannot do conversation"):
        loaded("tiny", tiny).run("ask:conversation", ONE, questions=["Who?"])
