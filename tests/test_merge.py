from __future__ import annotations

from typing import Any

import pytest

from qwen_audio_cli.families.base import ClipAnswer, TimedWord
from qwen_audio_cli.merge import Choice, ClipPart, merge


def part(start: float, end: float, **answer: Any) -> ClipPart:
    return ClipPart(start, end, ClipAnswer(**answer))


def test_texts_are_joined_in_the_order_of_the_source() -> None:
    merged = merge(
        [
            part(30, 40, text="third", language="en"),
            part(0, 10, text="First,", language="en"),
            part(12, 20, text="", language="en", flags=frozenset({"no_speech"})),
            part(20, 30, text="second", language="fr"),
        ],
        scored=False,
        choice=Choice(),
    )
    assert merged.text == "First, second third" and merged.language == "en"
    assert merged.segments is not None
    assert [(s.start, s.text) for s in merged.segments] == [
        (0, "First,"), (12, ""), (20, "second"), (30, "third"),
    ]  # fmt: skip
    assert merged.flags == frozenset()  # there was speech elsewhere


def test_scripts_without_spaces_are_joined_without() -> None:
    parts = [part(0, 1, text="今日は", language="ja"), part(1, 2, text="いい", language="ja")]
    assert merge(parts, scored=False, choice=Choice()).text == "今日はいい"


def test_word_times_are_those_of_the_source() -> None:
    words = (TimedWord("hello", 0.25, 0.5, 0.9),)
    merged = merge([part(7.5, 9, text="hello", words=words)], scored=False, choice=Choice())
    assert merged.segments is not None and merged.segments[0].words is not None
    assert (merged.segments[0].words[0].start, merged.segments[0].words[0].end) == (7.75, 8.0)


def test_nothing_heard_is_no_speech() -> None:
    merged = merge([], scored=False, choice=Choice())
    assert (merged.text, merged.segments, merged.flags) == ("", (), {"no_speech"})
    assert merge([], scored=True, choice=Choice()).flags == {"no_speech"}


def test_flags_of_any_part_stand() -> None:
    parts = [
        part(0, 1, text="a", flags=frozenset({"repetition"})),
        part(1, 2, text="b", flags=frozenset({"truncated"})),
    ]
    assert merge(parts, scored=False, choice=Choice()).flags == {"repetition", "truncated"}


def test_probabilities_are_averaged_by_length_then_chosen() -> None:
    parts = [
        part(0, 30, labels=(("dog", 0.9), ("cat", 0.1))),
        part(30, 40, labels=(("cat", 0.7), ("dog", 0.3))),
    ]
    merged = merge(parts, scored=True, choice=Choice())
    assert merged.labels is not None and merged.text is None
    assert [label.label for label in merged.labels] == ["dog", "cat"]
    assert merged.labels[0].probability == pytest.approx((0.9 * 30 + 0.3 * 10) / 40)
    assert len(merge(parts, scored=True, choice=Choice(top_k=1)).labels or ()) == 1
    unsure = merge(parts, scored=True, choice=Choice(threshold=0.8))
    assert unsure.labels == () and unsure.flags == {"abstained"}


def test_the_confidence_of_a_transcript_counts_by_words() -> None:
    parts = [
        part(0, 10, text="one two three", language="en", confidence=0.9),
        part(10, 11, text="four", language="en", confidence=0.5),
        part(11, 30, text="", confidence=0.1),
    ]
    spoken = merge(parts, scored=False, choice=Choice(), spoken=True)
    assert spoken.confidence == pytest.approx((3 * 0.9 + 0.5) / 4)
    described = merge(parts, scored=False, choice=Choice())
    assert described.confidence == pytest.approx((10 * 0.9 + 1 * 0.5 + 19 * 0.1) / 30)
    silent = [part(0, 1, text="", confidence=0.4), part(1, 4, text="", confidence=0.8)]
    merged = merge(silent, scored=False, choice=Choice(), spoken=True)
    assert merged.confidence == pytest.approx(0.7)


def test_scripts_without_spaces_count_by_characters() -> None:
    parts = [
        part(0, 1, text="今日は", language="ja", confidence=1.0),
        part(1, 2, text="い", language="ja", confidence=0.0),
    ]
    merged = merge(parts, scored=False, choice=Choice(), spoken=True)
    assert merged.confidence == pytest.approx(3 / 4)


def test_the_confidence_of_labels_is_that_of_the_best() -> None:
    parts = [
        part(0, 30, labels=(("dog", 0.9), ("cat", 0.1)), confidence=0.9),
        part(30, 40, labels=(("cat", 0.7), ("dog", 0.3)), confidence=0.7),
    ]
    merged = merge(parts, scored=True, choice=Choice())
    assert merged.labels is not None and merged.confidence == merged.labels[0].probability
    assert merge(parts, scored=True, choice=Choice(threshold=0.8)).confidence is None


@pytest.mark.parametrize("scored", [False, True])
def test_there_is_no_confidence_where_a_clip_has_none(scored: bool) -> None:
    sure = part(0, 1, text="a", labels=(("dog", 1.0),), confidence=0.9)
    unsure = part(1, 2, text="a", labels=(("dog", 1.0),))
    assert merge([sure], scored=scored, choice=Choice()).confidence is not None
    for parts in ([sure, unsure], [unsure], []):
        assert merge(parts, scored=scored, choice=Choice()).confidence is None
