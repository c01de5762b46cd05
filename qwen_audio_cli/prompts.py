"""How a task is said in words, to models that are told rather than tagged: the one place for it.

The tags say what is asked; the words follow from them. `instruction` is for models that follow
instructions, `base_prompt` for Qwen2-Audio's base checkpoint, which was trained on these alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from .errors import UsageError
from .languages import LANGUAGES
from .tags import TRADITIONAL_CHINESE, UNKNOWN, TagSequence
from .tasks import Task

# QwenLM/Qwen2.5-Omni, `cookbooks/universal_audio_understanding.ipynb`, where it has the task; the
# others are worded after them. {source} is the language that is spoken, {target} the one to write.
_INSTRUCTIONS: Mapping[str, str] = MappingProxyType(
    {
        "asr": "Transcribe the {source}audio into text.",
        "dialect": "Transcribe the {source}audio into text. The speaker uses a dialect.",
        "lyrics": "Transcribe the lyrics of the {source}song into text.",
        "entities": "Transcribe the {source}audio into text, and mark every named entity in it as "
        "[type: entity].",
        "slots": "List what the spoken command is about as slot=value pairs, parted by commas.",
        "keyword-spotting": "Which of these words is spoken in the audio?",
        "translation": "Listen to the provided {source}speech and produce a translation in "
        "{target} text.",
        "audio-caption": "Describe in one sentence in {target} what is heard in the audio.",
        "music-caption": "Describe the music in {target}: its style, instruments and mood.",
        "language": "Which language is spoken in the audio?",
        "dialect-id": "Which dialect of Chinese does the speaker use?",
        "gender": "What is the gender of the speaker?",
        "age": "What is the age of the speaker?",
        "emotion": "Recognize the emotion of the speaker.",
        "intent": "What is the intent of the spoken command?",
        "vocal-sound": "Classify the given human vocal sound in {target}.",
        "sound-event": "Which sound is heard in the audio?",
        "scene": "Where was the audio recorded?",
        "scene-cochl": "Where was the audio recorded?",
        "instrument": "Which family of instruments plays the note?",
        "genre": "What is the genre of the music?",
        "singer": "Who is the singer? Answer with the name only.",
        "song": "What is the name of this piece of music? Answer with the name only.",
        "music-emotion": "Recognize the emotion of the music.",
        "sound-event-times": "List the sounds in the audio with their times in seconds, one a "
        "line, as begin-end: sound, for example 0.5-2.0: dog barking.",
        "speaker-turns": "Say who speaks when, in seconds, one turn a line, as begin-end: speaker, "
        "for example 0.5-2.0: speaker 1.",
    }
)

# QwenLM/Qwen2-Audio: the prompts of its evaluation, and of its README for captions.
_BASE_PROMPTS: Mapping[str, str] = MappingProxyType(
    {
        "asr": "Detect the language and recognize the speech: ",
        "dialect": "Detect the language and recognize the speech: ",
        "translation": "Detect the language and translate the speech into {target}: ",
        "audio-caption": "Generate the caption in {target}:",
        "emotion": "Recognize the emotion with keywords in {target}:",
        "vocal-sound": "Classify the human vocal sound to VocalSound in {target}:",
    }
)

BASE_LANGUAGES = ("en", "zh", "yue", "fr", "de", "es", "it", "ja", "ko")
"""Languages that Qwen2-Audio's base checkpoint is asked for: evaluated on, or its predecessor's."""

# What an output instruction adds that is not the task's default.
_ADDITIONS: Mapping[tuple[str, str], str] = MappingProxyType(
    {
        ("transcribe", "itn"): " Write numbers as figures.",
        ("translate", "wo_itn"): " Write numbers out as words.",
        ("caption", "caption_audiocaps"): " Be as brief as a title.",
        ("caption", "caption_plain"): " Use plain words.",
        ("keyword", "audioset_ontology"): " Name it as AudioSet does.",
    }
)


def instruction(task: Task, tags: TagSequence, labels: Sequence[str] = ()) -> str:
    """A task in words, as a user would ask for it; `labels` are those to choose from, if any.

    Raises UsageError for an output instruction that there are no words for.
    """
    text = tags.question
    if text is None:
        text = _INSTRUCTIONS[task.name].format(
            source=_spoken(tags.audio_language), target=language_name(tags.text_language or "en")
        )
    if _unusual(task, tags):
        addition = _ADDITIONS.get((tags.task, tags.instruction or ""))
        if addition is None:
            raise UsageError(f"{task.name}: there are no words for <|{tags.instruction}|>")
        text += addition
    if labels and task.name != "language":
        text += f" Answer with one of: {', '.join(labels)}."
    return text


def base_prompt(task: Task, tags: TagSequence) -> str:
    """The prompt of Qwen2-Audio's base checkpoint; in the transcription phase a tag follows.

    That is the `language_tag` of what is spoken. Raises UsageError for an output instruction: this
    checkpoint knows none.
    """
    if _unusual(task, tags):
        raise UsageError(f"{task.name}: qwen2-audio has no prompt for <|{tags.instruction}|>")
    target = tags.text_language or "en"
    name = "Mandarin" if target == "zh" else language_name(target)
    return _BASE_PROMPTS[task.name].format(target=name)


def language_tag(code: str) -> str:
    """How Qwen2-Audio's base checkpoint spells a language: text, no token of its own."""
    return f"<|{code}|>"


def language_name(code: str) -> str:
    """The English name of a language, as a sentence writes it."""
    if code == TRADITIONAL_CHINESE:
        return "Traditional Chinese"
    return LANGUAGES[code].title()


def _unusual(task: Task, tags: TagSequence) -> bool:
    """Whether the tags end with another instruction than the task's default."""
    return tags.instruction not in (None, *task.instructions[:1])


def _spoken(code: str | None) -> str:
    return "" if code in (None, UNKNOWN) else f"{language_name(code or '')} "
