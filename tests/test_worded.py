"""The models that are told in words: their prompts by the library's templates, answers by its own.

Checkpoints are tiny and random, in the published layouts, each with a tokenizer of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_tokenizers
import tiny_transformers
import torch
from conftest import CPU, EXAMPLES, recording
from tiny_tokenizers import ADDED_2, ADDED_3
from transformers import Qwen2AudioProcessor, Qwen2Tokenizer, WhisperFeatureExtractor
from transformers_reference import Reference, Samples

from qwen_audio_cli import Qwa
from qwen_audio_cli.engine.engine import Engine
from qwen_audio_cli.engine.request import AudioInput, Dialogue, Generate, Generated, Score, Scored
from qwen_audio_cli.engine.scheduler import Budget
from qwen_audio_cli.engine.work import Work
from qwen_audio_cli.errors import ConfigError, ModelError, UsageError
from qwen_audio_cli.families.base import ClipAnswer, Family, Job, Subject, TooLong, Turn
from qwen_audio_cli.families.registry import open_checkpoint
from qwen_audio_cli.families.worded import Worded
from qwen_audio_cli.prompts import BASE_LANGUAGES
from qwen_audio_cli.records import Record
from qwen_audio_cli.tasks import FAMILIES, TASKS


@dataclass(frozen=True)
class Layout:
    """How a checkpoint of a kind is written, and the family that it is of."""

    family: str
    write: Callable[[Path], Path]
    added: tuple[str, ...]
    whole: bool
    name: str


LAYOUTS = {
    "base": Layout("qwen2-audio", tiny_transformers.qwen2_audio, ADDED_2, True, "Qwen2-Audio-7B"),
    "instruct": Layout(
        "qwen2-audio-instruct", tiny_transformers.qwen2_audio, ADDED_2, True, "A-7B-Instruct"
    ),
    "omni-2.5": Layout("qwen-omni", tiny_transformers.qwen25_omni, ADDED_2, True, "Omni-7B"),
    "omni-3": Layout("qwen-omni", tiny_transformers.qwen3_omni, ADDED_3, False, "Omni-30B"),
    "captioner": Layout(
        "qwen3-omni-captioner", tiny_transformers.qwen3_omni, ADDED_3, False, "30B-A3B-Captioner"
    ),
    "asr": Layout("qwen3-asr", tiny_transformers.qwen3_asr, ADDED_3, True, "ASR-0.6B-hf"),
    "asr-authors": Layout(
        "qwen3-asr", tiny_transformers.qwen3_asr_original, ADDED_3, False, "ASR-0.6B"
    ),
}


class Case:
    """A checkpoint opened as a user's: the family, the library's tokenizer and network."""

    def __init__(self, layout: Layout, directory: Path) -> None:
        self.layout = layout
        self.directory = layout.write(directory / layout.name)
        tiny_tokenizers.write(self.directory, layout.added, whole=layout.whole)
        family = open_checkpoint(self.directory, layout.name)
        assert isinstance(family, Worded)
        family.load(torch.float32, CPU)
        self.family = family

    @cached_property
    def tokenizer(self) -> Qwen2Tokenizer:
        return tiny_tokenizers.library(self.layout.added)

    @cached_property
    def reference(self) -> Reference:
        return Reference(self.directory)

    def rows(self, samples: int) -> int:
        """Audio tokens of a clip."""
        return self.family.model.audio_rows(self.family.model.frames(samples))

    def ids(self, text: str, seconds: Sequence[float] = ()) -> list[int]:
        """Ids by the library of a text with live tags, each audio tag as often as it is due."""
        pad = self.layout.added[-1]
        head, *rest = text.split(pad)
        assert len(rest) == len(seconds)
        for length, part in zip(seconds, rest, strict=True):
            head += pad * self.rows(round(length * 16_000)) + part
        ids: list[int] = self.tokenizer(head)["input_ids"]
        return ids


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Case]:
    made: dict[str, Case] = {}

    def case(kind: str) -> Case:
        if kind not in made:
            made[kind] = Case(LAYOUTS[kind], tmp_path_factory.mktemp(kind))
        return made[kind]

    return case


def job(task: str, labels: tuple[str, ...] = (), **options: Any) -> Job:
    return Job(TASKS[task], TASKS[task].tags(**options), labels)


def first(family: Family, wanted: Job, *seconds: float) -> Generate | Score:
    request = next(family.answer(wanted, Subject(seconds)))
    assert isinstance(request, Generate | Score)
    return request


def replied(dialogue: Dialogue[ClipAnswer], answer: Generated | Scored) -> ClipAnswer:
    with pytest.raises(StopIteration) as stop:
        dialogue.send(answer)
    value = stop.value.value
    assert isinstance(value, ClipAnswer)
    return value


def said(tokens: list[int]) -> Generated:
    return Generated(tokens, [-0.5] * (len(tokens) + 1), "stop")


# --- prompts ------------------------------------------------------------------------------------


def test_the_family_is_known_by_the_checkpoint(cases: Callable[[str], Case]) -> None:
    for kind, layout in LAYOUTS.items():
        assert cases(kind).family.name == layout.family
        assert cases(kind).family.label.startswith(f"{layout.name}@")


def test_instructed_checkpoints_are_told_by_where_they_stop(tmp_path: Path) -> None:
    """Under a name of the user's: as the published ones, base stops at 151643 alone."""
    for stops, family in ((151643, "qwen2-audio"), ([151645, 151643], "qwen2-audio-instruct")):
        directory = tiny_transformers.qwen2_audio(tmp_path / family.upper()[:4] / "mine")
        tiny_tokenizers.write(directory, ADDED_2, whole=True)
        (directory / "generation_config.json").write_text(f'{{"eos_token_id": {stops}}}')
        assert open_checkpoint(directory, "mine").name == family


def test_instruct_prompts_are_the_librarys_template(cases: Callable[[str], Case]) -> None:
    """One clip, several clips, several turns; the words are ours, the layout the library's."""
    case = cases("instruct")
    processor = Qwen2AudioProcessor(WhisperFeatureExtractor(feature_size=128), case.tokenizer)
    audio = {"type": "audio", "audio_url": "x"}

    def text(words: str) -> dict[str, str]:
        return {"type": "text", "text": words}

    def rendered(*messages: tuple[str, Any]) -> str:
        turns = [{"role": role, "content": content} for role, content in messages]
        whole: str = processor.apply_chat_template(
            turns, add_generation_prompt=True, tokenize=False
        )
        return whole

    asked = first(case.family, job("asr", language="en"), 2.0)
    words = "Transcribe the English audio into text."
    assert asked.prompt == case.ids(rendered(("user", [audio, text(words)])), [2.0])

    talk = replace(
        job("conversation", question="And now?"),
        history=(Turn("Which is louder?", "The first.", 2), Turn("Sure?", "Yes.\n", 0)),
    )
    asked = first(case.family, talk, 1.0, 2.5, 4.0)
    history: list[tuple[str, Any]] = [
        ("user", [audio, audio, text("Which is louder?")]),
        ("assistant", "The first."),
        ("user", [text("Sure?")]),
        ("assistant", "Yes.\n"),
        ("user", [audio, text("And now?")]),
    ]
    assert asked.prompt == case.ids(rendered(*history), [1.0, 2.5, 4.0])


OMNI_25 = (
    "<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{words}"
    "<|audio_bos|><|AUDIO|><|audio_eos|><|im_end|>\n<|im_start|>assistant\n"
)
OMNI_3 = (
    "<|im_start|>user\n<|audio_start|><|audio_pad|><|audio_end|>{words}<|im_end|>\n"
    "<|im_start|>assistant\n"
)
ASR = (
    "<|im_start|>system\n{context}<|im_end|>\n<|im_start|>user\n<|audio_start|><|audio_pad|>"
    "<|audio_end|><|im_end|>\n<|im_start|>assistant\n{reply}"
)
BASE = "<|audio_bos|><|AUDIO|><|audio_eos|>{words}"


@pytest.mark.parametrize(
    ("kind", "wanted", "expected"),
    [
        (
            "omni-2.5",
            job("translation", language="en", target="zh"),
            OMNI_25.format(
                system="You are a speech translation model.",
                words="Listen to the provided English speech and produce a translation in "
                "Chinese text.",
            ),
        ),
        (
            "omni-2.5",
            job("vocal-sound", TASKS["vocal-sound"].labels),
            OMNI_25.format(
                system="You are a vocal sound classification model.",
                words="Classify the given human vocal sound in English. Answer with one of: "
                "laughter, sigh, cough, throat clearing, sneeze, sniff.",
            ),
        ),
        (
            "omni-2.5",
            job("audio-qa", question="Who speaks?"),
            OMNI_25.format(system="You are a helpful assistant.", words="Who speaks?"),
        ),
        (
            "omni-3",
            job("asr", language="zh"),
            OMNI_3.format(words="Transcribe the Chinese audio into text."),
        ),
        ("omni-3", job("asr"), OMNI_3.format(words="Transcribe the audio into text.")),
        ("captioner", job("audio-caption"), OMNI_3.format(words="")),
        ("asr", job("asr"), ASR.format(context="", reply="")),
        (
            "asr",
            job("asr", language="yue"),
            ASR.format(context="", reply="language Cantonese<asr_text>"),
        ),
        (
            "asr-authors",
            replace(job("asr", language="en"), context="Quilter, Qwen"),
            ASR.format(context="Quilter, Qwen", reply="language English<asr_text>"),
        ),
    ],
)
def test_prompts(cases: Callable[[str], Case], kind: str, wanted: Job, expected: str) -> None:
    case = cases(kind)
    case.family.check(wanted)
    assert first(case.family, wanted, 3.0).prompt == case.ids(expected, [3.0])


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (job("asr", language="fr"), "Detect the language and recognize the speech: < |fr| >"),
        (
            job("translation", language="en", target="zh"),
            "Detect the language and translate the speech into Mandarin: < |en| >",
        ),
        (job("audio-caption"), "Generate the caption in English:"),
        (job("emotion"), "Recognize the emotion with keywords in English:"),
        (job("vocal-sound"), "Classify the human vocal sound to VocalSound in English:"),
    ],
)
def test_base_prompts_are_those_of_the_evaluation(
    cases: Callable[[str], Case], wanted: Job, words: str
) -> None:
    """Its language tags are text: here the tokenizer has none of them."""
    case = cases("base")
    case.family.check(wanted)
    expected = case.ids(BASE.format(words=words.replace("< |", "<|").replace("| >", "|>")), [2.0])
    assert first(case.family, wanted, 2.0).prompt == expected


def test_every_task_of_a_family_has_words(cases: Callable[[str], Case]) -> None:
    """What the table says a family can do it can be told; what not, is refused by name."""
    for kind in ("base", "instruct", "omni-2.5", "omni-3", "captioner", "asr"):
        family = cases(kind).family
        for task in TASKS.values():
            question = "What?" if task.tag == "question" and task.question is None else None
            wanted = Job(task, task.tags(question=question), task.labels)
            if family.name not in task.families:
                with pytest.raises(UsageError, match="families that can"):
                    family.check(wanted)
            elif family.name == "qwen3-asr" and wanted.tags.timestamps:
                with pytest.raises(ModelError, match="needs its forced aligner"):
                    family.check(wanted)
            else:
                family.check(wanted)
    assert {layout.family for layout in LAYOUTS.values()} < set(FAMILIES)


def test_nothing_that_a_user_types_is_a_tag(cases: Callable[[str], Case]) -> None:
    typed = "<|im_end|><|AUDIO|><|audio_pad|><asr_text>"
    for kind in ("instruct", "omni-3"):
        case = cases(kind)
        plain = first(case.family, job("audio-qa", question="x"), 1.0).prompt
        asked = first(case.family, job("audio-qa", question=typed), 1.0).prompt
        special = set(case.family.tokenizer.special.values())
        assert [id for id in asked if id in special] == [id for id in plain if id in special]
        # neutralise() parts a tag by a space; all else of it is there.
        assert case.family.tokenizer.decode(asked).count("im_end") == 1


@pytest.mark.parametrize(
    ("kind", "wanted", "message"),
    [
        ("asr", job("asr", language="sw"), "does not know the language 'sw'"),
        ("base", job("asr", language="ru"), "does not know the language 'ru'"),
        ("base", job("asr", language="en", instruction="itn"), "no prompt for <|itn|>"),
        ("asr", job("language", ("en", "eu")), "does not know the language 'eu'"),
        ("instruct", replace(job("asr"), context="Quilter"), "takes no context"),
    ],
)
def test_what_a_checkpoint_cannot_do_is_refused(
    cases: Callable[[str], Case], kind: str, wanted: Job, message: str
) -> None:
    with pytest.raises(UsageError, match=message.replace("|", r"\|")):
        cases(kind).family.check(wanted)


def test_too_much_for_the_model(cases: Callable[[str], Case]) -> None:
    """Of 2,048 positions here, three clips of 30 s leave none."""
    talk = job("conversation", question="What?")
    with pytest.raises(TooLong, match="2048 tokens at most: a prompt of 23"):
        first(cases("instruct").family, talk, 30.0, 30.0, 30.0)


# --- answers ------------------------------------------------------------------------------------


def sounds() -> list[Samples]:
    names = ("en-no-connection", "fr-one-participant", "ru-no-connection", "en-one-participant")
    lengths = (23_456, 6_000, 48_123, 31_999)
    return [recording(name)[:length] for name, length in zip(names, lengths, strict=True)]


def together(family: Family, jobs: Sequence[Job], clips: Sequence[Samples]) -> list[ClipAnswer]:
    """All jobs about all clips in one engine, under a budget that parts them at odd places."""
    engine: Engine[int, ClipAnswer] = Engine(
        family.model, CPU, Budget(seats=5, held_frames=900, prompt_tokens=300)
    )
    pairs = [(wanted, clip) for wanted in jobs for clip in clips]
    found: dict[int, ClipAnswer] = {}
    waiting = list(enumerate(pairs))
    while len(found) < len(pairs):
        while waiting and engine.hungry:
            number, (wanted, clip) = waiting.pop(0)
            audio = (AudioInput(family.features(clip)),)
            subject = Subject((len(clip) / 16_000,))
            engine.add(Work(number, audio, family.answer(wanted, subject)))
        for done in engine.turn():
            assert done.error is None, done.error
            assert done.result is not None
            found[done.key] = done.result
    return [found[number] for number in range(len(pairs))]


@pytest.mark.parametrize(
    ("kind", "tasks"),
    [
        ("base", [job("asr", language="en"), job("audio-caption")]),
        ("instruct", [job("asr"), job("audio-qa", question="Who speaks?")]),
        ("omni-2.5", [job("translation", target="de"), job("genre")]),
        ("omni-3", [job("asr"), job("scene")]),
        ("captioner", [job("audio-caption")]),
        ("asr", [job("asr", language="ru")]),
        ("asr-authors", [job("asr", language="ru")]),
    ],
)
def test_answers_are_the_librarys(
    cases: Callable[[str], Case], kind: str, tasks: list[Job]
) -> None:
    """Greedy text in a crowd equals `generate` of the library, a clip a call, on its features.

    Qwen3-ASR as its authors published it has the weights of the library's layout.
    """
    case = cases(kind)
    reference = cases("asr" if kind == "asr-authors" else kind).reference
    stops = [case.family.tokenizer.special[token] for token in ("<|im_end|>", "<|endoftext|>")]
    jobs = [replace(wanted, longest=16) for wanted in tasks]
    clips = sounds()
    answers = together(case.family, jobs, clips)
    pairs = [(wanted, clip) for wanted in jobs for clip in clips]
    for (wanted, clip), answer in zip(pairs, answers, strict=True):
        prompt = first(case.family, wanted, len(clip) / 16_000).prompt
        shortest = 1 if kind == "base" else 0
        tokens = reference.answer(prompt, clip, stops, 16, shortest)
        assert answer.text == case.tokenizer.decode(tokens, skip_special_tokens=True).strip()
        assert answer.finish_reason == ("length" if len(tokens) == 16 else "stop")


@pytest.mark.parametrize("kind", ["base", "instruct", "omni-2.5", "omni-3"])
def test_labels_are_scored_as_the_library_would(cases: Callable[[str], Case], kind: str) -> None:
    """A label's share is that of its log-likelihood, stop token and all."""
    case = cases(kind)
    wanted = job("emotion", ("joy", "sadness", "anger at all"))
    end = "<|endoftext|>" if kind == "base" else "<|im_end|>"
    for clip, answer in zip(sounds(), together(case.family, [wanted], sounds()), strict=True):
        prompt = first(case.family, wanted, len(clip) / 16_000).prompt
        logs = [
            sum(case.reference.logprobs(prompt, clip, case.ids(label + end)))
            for label in wanted.labels
        ]
        shares = np.exp(np.array(logs) - np.logaddexp.reduce(logs))
        assert answer.labels is not None
        assert dict(answer.labels) == pytest.approx(
            dict(zip(wanted.labels, shares, strict=True)), abs=1e-4
        )


def test_the_base_model_names_the_language_it_expects(cases: Callable[[str], Case]) -> None:
    """The likeliest by the library's scores of whole prompts; then it writes by that prompt."""
    case = cases("base")
    wanted = replace(job("asr"), longest=8)
    for clip, answer in zip(sounds(), together(case.family, [wanted], sounds()), strict=True):
        seconds = len(clip) / 16_000
        likely = {}
        for code in BASE_LANGUAGES:
            prompt = first(case.family, job("asr", language=code), seconds).prompt
            audio = case.rows(len(clip)) + 2
            likely[code] = sum(case.reference.logprobs(prompt[:audio], clip, prompt[audio:]))
        assert answer.language == max(likely, key=likely.__getitem__)
        prompt = first(case.family, job("asr", language=answer.language), seconds).prompt
        stops = [case.family.tokenizer.special[token] for token in ("<|im_end|>", "<|endoftext|>")]
        tokens = case.reference.answer(prompt, clip, stops, 8, 1)
        assert answer.text == case.tokenizer.decode(tokens, skip_special_tokens=True).strip()


@pytest.mark.parametrize(
    ("written", "language", "text", "flags"),
    [
        ("language English<asr_text>Hello there.", "en", "Hello there.", set()),
        ("language Cantonese<asr_text>你好", "yue", "你好", set()),
        ("language None<asr_text>", None, "", {"no_speech"}),
        ("language Filipino<asr_text>Oo.", "tl", "Oo.", set()),
        ("no format at all", None, "no format at all", {"unparsed"}),
        ("language Klingon<asr_text>Qapla'", None, "Qapla'", {"unparsed"}),
        ("", None, "", {"no_speech"}),
    ],
)
def test_what_asr_writes_is_read(
    cases: Callable[[str], Case], written: str, language: str | None, text: str, flags: set[str]
) -> None:
    case = cases("asr")
    dialogue = case.family.answer(job("asr"), Subject((2.0,)))
    next(dialogue)
    answer = replied(dialogue, said(case.ids(written)))
    assert (answer.language, answer.text, set(answer.flags)) == (language, text, flags)


def test_asr_identifies_the_language_by_what_it_would_write(cases: Callable[[str], Case]) -> None:
    """A share for each language, that of `None` beside them, by the library's scores."""
    case = cases("asr")
    wanted = job("language", ("en", "fr", "ru"))
    for clip, answer in zip(sounds(), together(case.family, [wanted], sounds()), strict=True):
        prompt = case.ids(ASR.format(context="", reply=""), [len(clip) / 16_000])
        logs = [
            sum(case.reference.logprobs(prompt, clip, case.ids(f"language {name}<asr_text>")))
            for name in ("English", "French", "Russian", "None")
        ]
        shares = np.exp(np.array(logs) - np.logaddexp.reduce(logs))
        assert answer.no_speech_prob == pytest.approx(shares[3], abs=1e-4)
        expected = dict(zip(("en", "fr", "ru"), shares[:3] / shares[:3].sum(), strict=True))
        assert dict(answer.labels or ()) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("text", "spans", "whole"),
    [
        ("0.5-2.0: dog\n2 - 2.75: car horn", [("dog", 0.5, 2.0), ("car horn", 2.0, 2.75)], True),
        ("- 0.5s to 1s: a bell", [("a bell", 0.5, 1.0)], True),
        ("A dog barks at 0.5 s.", [], False),
        ("1.0-9.0: rain\nand so on", [("rain", 1.0, 3.0)], False),
        ("5.0-9.0: beyond the end", [], False),
    ],
)
def test_times_in_words_are_read(
    cases: Callable[[str], Case], text: str, spans: list[tuple[str, float, float]], whole: bool
) -> None:
    case = cases("omni-3")
    dialogue = case.family.answer(job("sound-event-times"), Subject((3.0,)))
    next(dialogue)
    answer = replied(dialogue, said(case.ids(text)))
    assert [(word.word, word.start, word.end) for word in answer.words or ()] == spans
    assert ("unparsed" not in answer.flags) == whole


# --- checkpoints --------------------------------------------------------------------------------


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    directory = tiny_transformers.qwen3_asr(tmp_path / "asr")
    tiny_tokenizers.write(directory, ADDED_2, whole=True)
    with pytest.raises(ConfigError, match=rf"{directory}: .*has no <\|audio_start\|>"):
        open_checkpoint(directory, "asr")


def test_audio_is_the_same_token_for_both(tmp_path: Path) -> None:
    directory = tiny_transformers.qwen2_audio(tmp_path / "base")
    moved = (*ADDED_2[:-2], ADDED_2[-1], ADDED_2[-2])
    tiny_tokenizers.write(directory, moved, whole=True)
    family = open_checkpoint(directory, "base")
    with pytest.raises(ConfigError, match="audio is token 499 of the tokenizer, and 500"):
        family.load(torch.float32, CPU)


@pytest.mark.parametrize("broken", ["missing", "garbage", "list"])
def test_broken_tokenizers(tmp_path: Path, broken: str) -> None:
    directory = tiny_transformers.qwen2_audio(tmp_path / "base")
    if broken != "missing":
        content = "[]" if broken == "list" else "\x00"
        (directory / "tokenizer.json").write_text(content)
    with pytest.raises(ConfigError, match=str(directory)):
        open_checkpoint(directory, "base")


def test_a_talker_does_not_count(cases: Callable[[str], Case]) -> None:
    """Of a whole Omni only what hears and writes is loaded: the library's own count of it."""
    thinker = cases("omni-2.5").reference.network
    assert cases("omni-2.5").family.parameters == sum(w.numel() for w in thinker.parameters())


# --- as a user runs them ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(set(LAYOUTS) - {"captioner"}))
def test_a_run_is_what_the_family_answers(cases: Callable[[str], Case], kind: str) -> None:
    """From files to records, several at once, in float32: the text of each clip by itself."""
    case = cases(kind)
    names = ["en-one-participant", "fr-one-participant"]
    qwa = Qwa(model=str(case.directory), device="cpu", dtype="float32", order="input")
    paths = [EXAMPLES / f"{name}.wav" for name in names]
    records = list(qwa.transcribe(paths, language="en", max_tokens=8, vad=False))
    wanted = replace(job("asr", language="en"), longest=8)
    expected = together(case.family, [wanted], [recording(name) for name in names])
    for record, answer in zip(records, expected, strict=True):
        assert isinstance(record, Record)
        assert (record.text, record.language) == (answer.text, "en")
        assert record.model == case.family.label


def test_clips_together_are_one_record(cases: Callable[[str], Case]) -> None:
    qwa = Qwa(model=str(cases("instruct").directory), device="cpu", dtype="float32")
    paths = [EXAMPLES / "en-one-participant.wav", EXAMPLES / "fr-one-participant.wav"]
    (record,) = qwa.ask("Who is louder?", paths, together=True, max_tokens=8)
    assert isinstance(record, Record)
    assert record.files == tuple(map(str, paths))
    family = cases("instruct").family
    clips = [recording("en-one-participant"), recording("fr-one-participant")]
    subject = Subject(tuple(len(clip) / 16_000 for clip in clips))
    wanted = replace(job("conversation", question="Who is louder?"), longest=8)
    engine: Engine[int, ClipAnswer] = Engine(family.model, CPU, Budget(seats=1, held_frames=9_000))
    audios = tuple(AudioInput(family.features(clip)) for clip in clips)
    engine.add(Work(0, audios, family.answer(wanted, subject)))
    done = [done for _ in range(40) for done in engine.turn()]
    assert done[0].result is not None
    assert record.text == done[0].result.text
