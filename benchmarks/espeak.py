"""Synthetic speech whose word times are known: plain sentences, spoken by espeak-ng.

espeak-ng reports when each word and each pause begins in what it says: a reference that knows
nothing of any recogniser. Needs its library, libespeak-ng.so.1 (Debian: libespeak-ng1).
"""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import soxr
from numpy.typing import NDArray

Samples = NDArray[np.float32]
SAMPLE_RATE = 16_000
WORDS_PER_MINUTE = 150
LEAD, TAIL = 0.4, 0.3
"""Seconds of silence before every other sentence, and behind each."""

VOICES = {
    "en": ("gmw/en-US", "gmw/en-GB-x-rp", "gmw/en-US+f3"),
    "fr": ("roa/fr+klatt4",),
    "es": ("roa/es+klatt4",),
    "de": ("gmw/de+m3",),
}
SENTENCES = {
    "en": """\
The garden behind the house is full of flowers.
He walked slowly down the street and looked at the shops.
My mother makes the best soup in the world.
The ship left the harbour before the storm began.
We are going to visit our friends in the country.
There was a loud noise in the kitchen last night.
The boy found a silver coin under the old tree.
Please bring me a glass of water and some bread.
The river is deep, but the water is very clean.
I have never seen such a beautiful picture before.
She opened the window to let in some fresh air.
The bus stops in front of the library every hour.
They waited for a long time, but nobody came.
The dog ran across the field and jumped over the fence.
You can find the answer at the end of the book.
The winter was long, and the snow was very deep.
He asked his father for help with the broken chair.
A cup of tea is all that I want now.
The road to the village goes through a dark forest.
She bought a new dress for the party on Saturday.
The sun was shining when we woke up in the morning.
If you are hungry, there is some cheese on the table.
The teacher wrote a long word on the board.
Our neighbours have a black horse and a white goat.
It was too late to catch the last train home.
The museum is closed today. You should come back tomorrow.
He took a deep breath, opened the door, and went inside.
The apples on this tree are small, green, and sour.
We sat around the fire and told stories all night.
The young woman read the letter twice and smiled.
Nothing happened for a while. Then the phone began to ring.
My uncle drives a yellow truck from town to town.
The price of milk has gone up again this month.
Do you remember the name of that little restaurant?
The clouds moved fast, and soon it started to rain.
The children played in the park until it was dark.
I will call you as soon as I know more.
The clock on the wall has not worked for years.
They painted the walls of the bedroom blue.
This is the place where my grandfather was born.
The soldiers marched over the bridge and into the city.
She speaks so quietly that nobody can hear her.
The kitchen smells of coffee, fresh bread, and oranges.
He lost his wallet somewhere between here and the market.
When the music stopped, everybody looked at the door.
The lake is frozen in winter and warm in summer.
I would rather walk than wait for the next bus.
The nurse gave him some medicine for the pain.
We need more time, more money, and better tools.
The fisherman threw his net into the calm sea.
A strange man was standing at the corner of the street.
The baby is asleep. Please do not make any noise.
They have lived in the same house for many years.
The engine made a terrible sound, and the car stopped.
My brother wants to become a pilot or a doctor.
The leaves turn red and brown in the autumn.
Could you help me carry this heavy box upstairs?
The queen gave the farmer a bag of gold.
He was tired, so he went to bed early.
The birds in the garden sing before the sun rises.
After breakfast, we packed our bags and left the hotel.
The film was good, but the book was much better.
She put the plates on the shelf above the sink.
The wind blew the paper out of his hand.
I believe that this is the right way to the beach.
The old bridge is made of stone and very narrow.""",
    "fr": """\
Le jardin est plein de fleurs et la maison est blanche.
Nous avons attendu le train pendant une heure.
Elle ouvre la porte, prend la lettre et sourit.
Mon frère habite dans une petite ville près de la mer.
Il fait froid ce matin, mais le soleil brille.""",
    "es": """\
La casa de mi abuela tiene un jardín muy grande.
Mañana vamos a visitar el museo con los niños.
El perro duerme en la cocina, cerca de la ventana.
No sé dónde está la llave de la puerta.
Ella compró pan, queso y una botella de agua.""",
    "de": """\
Der alte Mann sitzt im Garten und liest die Zeitung.
Wir fahren morgen mit dem Zug in die Stadt.
Das Wetter ist heute schön, aber der Wind ist kalt.
Meine Schwester hat gestern einen langen Brief geschrieben.
Die Kinder spielen im Park, bis es dunkel wird.""",
}


@dataclass(frozen=True, slots=True)
class Spoken:
    """A word and when it is heard, in seconds."""

    word: str
    start: float
    end: float


@dataclass(frozen=True, slots=True, eq=False)
class Utterance:
    """A sentence as audio [n] at `SAMPLE_RATE`, and the truth about its words."""

    name: str
    language: str
    samples: Samples
    words: list[Spoken]


class _EventId(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("phoneme", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    """`espeak_EVENT` of espeak-ng's speak_lib.h."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("unique", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _EventId),
    )


_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


class Espeak:
    """The synthesiser, giving samples and the times of words and pauses."""

    SYNCHRONOUS, PHONEME_EVENTS, UTF8, RATE, CHARACTERS = 2, 1, 1, 1, 1
    LIST_END, WORD, PHONEME = 0, 1, 7
    _WORDS = re.compile(r"[^\s|]+")

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libespeak-ng.so.1")
        self._rate = self._library.espeak_Initialize(self.SYNCHRONOUS, 0, None, self.PHONEME_EVENTS)
        self._samples: list[NDArray[np.int16]] = []
        self._starts: dict[int, float] = {}
        self._pauses: list[float] = []
        self._callback = _CALLBACK(self._heard)
        self._library.espeak_SetSynthCallback(self._callback)
        self._library.espeak_SetParameter(self.RATE, WORDS_PER_MINUTE, 0)

    def _heard(self, wave: ctypes._Pointer[ctypes.c_short], count: int, events: object) -> int:
        if count > 0:
            self._samples.append(np.ctypeslib.as_array(wave, (count,)).copy())
        for event in events:  # type: ignore[attr-defined]
            if event.type == self.LIST_END:
                break
            seconds = event.sample / self._rate
            if event.type == self.WORD:
                self._starts.setdefault(event.text_position - 1, seconds)
            elif event.type == self.PHONEME and event.id.phoneme.startswith(b"_"):
                self._pauses.append(seconds)
        return 0

    def _synthesise(self, text: str, voice: str) -> None:
        self._samples, self._starts, self._pauses = [], {}, []
        if self._library.espeak_SetVoiceByName(voice.encode()):
            sys.exit(f"espeak-ng has no voice {voice}")
        data = text.encode() + b"\0"
        self._library.espeak_Synth(data, len(data), 0, self.CHARACTERS, 0, self.UTF8, None, None)

    def speak(self, text: str, voice: str) -> tuple[Samples, list[Spoken]]:
        """Samples at `SAMPLE_RATE` and the words with their times.

        espeak-ng says some pairs ("of the") as one word, with one event: where it does, a bar
        between the two keeps them apart.
        """
        self._synthesise(text, voice)
        while merged := [
            m.start() for m in self._WORDS.finditer(text) if m.start() not in self._starts
        ]:
            before = text[: merged[0]]
            if not before or before.endswith("| "):
                sys.exit(f"espeak-ng does not say when it says '{text[merged[0] :]}'")
            text = f"{before}| {text[merged[0] :]}"
            self._synthesise(text, voice)
        found = list(self._WORDS.finditer(text))
        wave = np.concatenate(self._samples)
        starts = [self._starts[match.start()] for match in found]
        ends = [
            min([*starts[index + 1 :], *(pause for pause in self._pauses if pause > start)])
            for index, start in enumerate(starts)
        ]
        words = [
            Spoken(match[0], start, end)
            for match, start, end in zip(found, starts, ends, strict=True)
        ]
        samples = soxr.resample(wave.astype(np.float32) / 32768, self._rate, SAMPLE_RATE)
        return samples, words


def utterances(wanted: Iterable[tuple[str, int]]) -> Iterator[Utterance]:
    """The sentences (language, number in it), spoken, some behind a silence."""
    espeak = Espeak()
    for language, number in wanted:
        text = SENTENCES[language].splitlines()[number]
        voices = VOICES[language]
        samples, words = espeak.speak(text, voices[number % len(voices)])
        lead = LEAD * (number % 2)
        silence = (round(lead * SAMPLE_RATE), round(TAIL * SAMPLE_RATE))
        yield Utterance(
            f"{language}-{number:02}",
            language,
            np.pad(samples, silence),
            [Spoken(word.word, word.start + lead, word.end + lead) for word in words],
        )
