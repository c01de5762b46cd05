"""The rows of the task table, subcommand by subcommand: tags, prompts, label sets, families."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType

from . import labels
from .languages import LANGUAGES
from .tags import UNKNOWN
from .task import Family, Parser, Task

EXPERIMENTAL: Mapping[Family, frozenset[str]] = MappingProxyType(
    {
        "mini": frozenset(
            {
                "asr",
                "translation",
                "audio-caption",
                "music-caption",
                "custom",
                "word-times",
                "audio-qa",
                "music-qa",
                "language",
                "gender",
                "sound-event",
                "instrument",
            }
        )
    }
)
"""The tasks that a family learned, and does not do well enough to be chosen for by itself."""

_TAGGED: frozenset[Family] = frozenset({"qwen-audio"})
_CHATS: frozenset[Family] = frozenset({"qwen-audio-chat", "qwen2-audio-instruct", "qwen-omni"})
_ALL_QWEN_AUDIO = _TAGGED | _CHATS
# Qwen2-Audio's base checkpoint has published prompts for a few tasks only.
_PROMPTED: frozenset[Family] = _ALL_QWEN_AUDIO | {"qwen2-audio"}
_WHISPER: frozenset[Family] = frozenset({"whisper"})
_QWEN3_ASR: frozenset[Family] = frozenset({"qwen3-asr"})
_MINI: frozenset[Family] = frozenset({"mini"})

_transcript = partial(
    Task,
    command="transcribe",
    tag="transcribe",
    parser=Parser.TEXT,
    metric="wer",
    instructions=("wo_itn", "itn"),
    speech=True,
)
_found_in_speech = partial(
    Task,
    command="transcribe",
    parser=Parser.KEYWORDS,
    metric="f1",
    families=_ALL_QWEN_AUDIO,
    speech=True,
    inferred=True,
)
_TRANSCRIBE = (
    _transcript(
        name="asr",
        title="speech recognition",
        families=_PROMPTED | _WHISPER | _QWEN3_ASR | _MINI,
        timestamps=(False, True),
    ),
    _transcript(
        name="dialect",
        title="speech recognition of dialects",
        families=_PROMPTED | _QWEN3_ASR,
        inferred=True,
    ),
    _transcript(
        name="overlapped",
        title="speech recognition of several speakers at once",
        families=_TAGGED,
        inferred=True,
    ),
    _transcript(
        name="lyrics",
        title="recognition of sung words",
        families=frozenset({"qwen-omni", "qwen3-asr"}),
        speech=False,
        inferred=True,
    ),
    _found_in_speech(
        name="entities",
        title="speech recognition with named entities",
        tag="transcribe",
        parser=Parser.TEXT,
        instructions=("named_entity_recognition",),
    ),
    _found_in_speech(
        name="slots",
        title="slot filling: what a spoken command is about",
        tag="keyword",
        instructions=("speech_understanding",),
        audio_language="en",
    ),
    _found_in_speech(
        name="keyword-spotting",
        title="which of a set of words is spoken",
        tag="transcribe",
        parser=Parser.LABEL,
        metric="accuracy",
        instructions=("wo_itn",),
        labels=labels.COMMAND_WORDS,
    ),
)

_TRANSLATE = (
    Task(
        name="translation",
        command="translate",
        title="speech-to-text translation",
        tag="translate",
        parser=Parser.TEXT,
        metric="bleu",
        families=_PROMPTED | _WHISPER | _MINI,
        instructions=("itn", "wo_itn"),
        speech=True,
    ),
)

_caption = partial(
    Task,
    command="caption",
    tag="caption",
    parser=Parser.TEXT,
    metric="spider",
    audio_language=UNKNOWN,
)
_CAPTION = (
    _caption(
        name="audio-caption",
        title="a sentence about what is heard",
        families=_PROMPTED | _MINI | {"qwen3-omni-captioner"},
        instructions=("caption_clotho", "caption_audiocaps", "caption_plain"),
    ),
    _caption(
        name="music-caption",
        title="a description of a piece of music",
        families=_ALL_QWEN_AUDIO | _MINI | {"qwen3-omni-captioner"},
        instructions=("music_description",),
        inferred=True,
    ),
)

_classify = partial(
    Task,
    command="classify",
    tag="keyword",
    parser=Parser.LABEL,
    metric="accuracy",
    families=_ALL_QWEN_AUDIO,
    audio_language=UNKNOWN,
)
_speaker = partial(
    _classify,
    instructions=("speaker_meta",),
    audio_language="en",
    speech=True,
    inferred=True,
)
_note = partial(_classify, instructions=("note_analysis",))
_song = partial(_classify, instructions=("song_meta",), inferred=True)
_CLASSIFY_SPEECH = (
    Task(
        name="language",
        command="classify",
        title="spoken language",
        # The language tag is itself the answer, so the sequence is that of an undetermined `asr`.
        tag="transcribe",
        parser=Parser.LABEL,
        metric="accuracy",
        families=_ALL_QWEN_AUDIO | _WHISPER | _QWEN3_ASR | _MINI,
        instructions=("wo_itn",),
        labels=tuple(LANGUAGES),
        speech=True,
        inferred=True,
    ),
    _speaker(
        name="dialect-id",
        title="dialect of Mandarin",
        labels=labels.DIALECTS,
        audio_language="zh",
    ),
    _speaker(
        name="gender",
        title="gender of the speaker",
        labels=labels.GENDERS,
        families=_ALL_QWEN_AUDIO | _MINI,
    ),
    _speaker(name="age", title="age of the speaker", labels=labels.AGES),
    _classify(
        name="emotion",
        title="emotion of the speaker",
        families=_PROMPTED,
        instructions=("emotion_recognition",),
        labels=labels.EMOTIONS,
        audio_language="en",
        speech=True,
    ),
    _classify(
        name="intent",
        title="intent of a spoken command",
        instructions=("speech_understanding",),
        labels=labels.INTENTS,
        audio_language="en",
        speech=True,
        inferred=True,
    ),
    Task(
        name="speaker-verification",
        command="classify",
        title="whether two clips have the same speaker",
        tag="question",
        question="Do both clips have the same speaker?",
        parser=Parser.LABEL,
        metric="eer",
        families=_CHATS,
        labels=labels.YES_NO,
        audio_language="en",
        clips=2,
        speech=True,
        inferred=True,
    ),
    _classify(
        name="vocal-sound",
        title="sound made with the voice",
        families=_PROMPTED,
        instructions=("vocal_classification",),
        labels=labels.VOCAL_SOUNDS,
        audio_language="en",
    ),
)
_CLASSIFY_SOUND = (
    _classify(
        name="sound-event",
        title="kind of sound",
        families=_ALL_QWEN_AUDIO | _MINI,
        instructions=("event", "audioset_ontology"),
        labels=labels.SOUND_EVENTS,
        inferred=True,
    ),
    _classify(
        name="scene",
        title="place of a recording",
        instructions=("scene",),
        labels=labels.TUT_SCENES,
    ),
    _classify(
        name="scene-cochl",
        title="place of a recording, by CochlScene's places",
        instructions=("scene",),
        labels=labels.COCHL_SCENES,
    ),
    _classify(
        name="custom",
        title="any labels of yours, for any question",
        families=_ALL_QWEN_AUDIO | _MINI,
        tag="question",
        question="What is heard in the audio?",
        audio_language="en",
    ),
)
_CLASSIFY_MUSIC = (
    _note(
        name="note",
        title="pitch, velocity, instrument and qualities of a note",
        parser=Parser.NOTE,
        families=_TAGGED,
    ),
    _note(
        name="instrument",
        title="instrument family",
        labels=labels.INSTRUMENTS,
        families=_ALL_QWEN_AUDIO | _MINI,
    ),
    _note(
        name="pitch",
        title="MIDI pitch of a note",
        labels=labels.PITCHES,
        families=_TAGGED | _MINI,
    ),
    _note(
        name="velocity",
        title="MIDI velocity of a note",
        labels=labels.VELOCITIES,
        families=_TAGGED | _MINI,
    ),
    _note(
        name="qualities",
        title="sonic qualities of a note, several at once",
        metric="map",
        labels=labels.QUALITIES,
        families=_TAGGED,
    ),
    _song(name="genre", title="genre of music", labels=labels.GENRES),
    _song(name="singer", title="name of the singer", parser=Parser.KEYWORDS),
    _song(name="song", title="name of a piece of music", parser=Parser.KEYWORDS),
    _classify(
        name="music-emotion",
        title="emotion of music",
        instructions=("emotion_recognition",),
        labels=labels.MUSIC_EMOTIONS,
        inferred=True,
    ),
)

_timed = partial(Task, command="timestamp", timestamps=(True,))
_TIMESTAMP = (
    _timed(
        name="word-times",
        title="speech recognition with the time of each word",
        tag="transcribe",
        parser=Parser.WORDS,
        metric="aas",
        families=_TAGGED | _WHISPER | _QWEN3_ASR | _MINI,
        speech=True,
    ),
    _timed(
        name="sound-event-times",
        title="kinds of sound and when they are heard",
        tag="keyword",
        parser=Parser.SPANS,
        metric="event-f1",
        families=_TAGGED | {"qwen-omni"},
        instructions=("audio_grounding",),
        audio_language=UNKNOWN,
        inferred=True,
    ),
    _timed(
        name="alignment",
        title="the time of each word of a given text",
        tag="transcribe",
        parser=Parser.WORDS,
        metric="aas",
        families=frozenset({"qwen3-forced-aligner"}),
        aligns=True,
    ),
    _timed(
        name="speaker-turns",
        title="who speaks when",
        tag="keyword",
        parser=Parser.SPANS,
        metric="der",
        families=frozenset({"qwen-omni"}),
        instructions=("speaker_meta",),
        audio_language="en",
        speech=True,
        inferred=True,
    ),
)

_ask = partial(
    Task,
    command="ask",
    tag="question",
    parser=Parser.TEXT,
    metric="accuracy",
    audio_language="en",
)
_ASK = (
    _ask(
        name="audio-qa",
        title="questions about speech and sounds",
        families=_ALL_QWEN_AUDIO | _MINI,
    ),
    _ask(
        name="music-qa",
        title="questions about music",
        families=_ALL_QWEN_AUDIO | _MINI,
        inferred=True,
    ),
    _ask(
        name="conversation",
        title="several turns about any number of clips",
        families=_CHATS,
        clips=None,
        inferred=True,
    ),
)


def _experimental(task: Task) -> frozenset[Family]:
    return frozenset(family for family, names in EXPERIMENTAL.items() if task.name in names)


TABLE: tuple[Task, ...] = tuple(
    replace(task, experimental=_experimental(task))
    for task in (
        *_TRANSCRIBE,
        *_TRANSLATE,
        *_CAPTION,
        *_CLASSIFY_SPEECH,
        *_CLASSIFY_SOUND,
        *_CLASSIFY_MUSIC,
        *_TIMESTAMP,
        *_ASK,
    )
)
"""Every task, in the order of the subcommands."""
