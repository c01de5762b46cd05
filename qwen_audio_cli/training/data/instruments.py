"""The instruments of General MIDI: how they are called, NSynth's family of each, their range."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Instrument:
    """A General MIDI program (from 0) with its name, NSynth's family, and keys that suit it.

    `family` is None where NSynth has none, or may count it to another. `pitched` is whether a key
    gives one note of that pitch.
    """

    program: int
    name: str
    family: str | None
    lowest: int
    highest: int
    pitched: bool = True


# A line: the first program, NSynth's family, the range of keys, names parted by commas. A name with
# `~` is of no family for sure, one with `!` has no single pitch.
_PROGRAMS = """
0   keyboard   24 103  piano, bright piano, electric grand piano, honky-tonk piano, electric piano
5   keyboard   28 100  FM electric piano, harpsichord, clavinet
8   mallet     60 100  celesta
9   mallet     84 103  glockenspiel
10  mallet     60 100  music box, vibraphone, marimba, xylophone
14  mallet     53  84  tubular bell, dulcimer
16  organ      36  96  drawbar organ, percussive organ, rock organ, church organ, reed organ
21  reed       53  88  ~accordion, ~harmonica, ~bandoneon
24  guitar     40  84  nylon-string guitar, steel-string guitar, jazz guitar, clean electric guitar
28  guitar     40  80  muted guitar, overdriven guitar, distorted guitar, !guitar harmonics
32  bass       28  60  double bass, fingered bass, picked bass, fretless bass, slap bass, pop bass
38  bass       28  60  synthesizer bass, rubbery synthesizer bass
40  string     55  96  violin
41  string     48  88  viola
42  string     36  76  cello
43  string     28  55  contrabass
44  string     40  88  tremolo string section, pizzicato string section, harp, !~timpani
48  string     40  91  string section, slow string section
50  string     40  91  synthesizer string section, soft synthesizer string section
52  vocal      48  79  choir, vocal group, synthesizer voice, !~orchestra hit
56  brass      54  84  trumpet
57  brass      40  72  trombone
58  brass      29  58  tuba
59  brass      54  80  muted trumpet
60  brass      41  76  French horn, brass section
62  brass      41  76  synthesizer brass section, soft synthesizer brass section
64  reed       56  87  soprano saxophone
65  reed       49  80  alto saxophone
66  reed       44  75  tenor saxophone
67  reed       37  68  baritone saxophone
68  reed       58  91  oboe
69  reed       52  81  English horn
70  reed       34  72  bassoon
71  reed       50  91  clarinet
72  flute      74 103  piccolo
73  flute      60  96  flute, recorder, pan flute, bottle, shakuhachi, whistle, ocarina
80  synth_lead 40  91  square-wave lead, sawtooth lead, calliope lead, chiffer lead, !charang lead
85  synth_lead 45  84  !~voice lead, !fifths lead, bass and lead
104 string     43  84  ~sitar, ~banjo, ~shamisen, ~koto, ~kalimba, !~bagpipe
110 string     55  93  fiddle
111 reed       60  84  ~shanai
112 mallet     72  96  !~tinkle bell, !~agogo, ~steel drum
"""


def _table() -> dict[int, Instrument]:
    table: dict[int, Instrument] = {}
    for line in _PROGRAMS.strip().splitlines():
        first, family, lowest, highest, names = line.split(maxsplit=4)
        for program, spelled in enumerate(names.split(","), int(first)):
            marked = spelled.strip()
            name = marked.lstrip("!~")
            marks = marked[: len(marked) - len(name)]
            table[program] = Instrument(
                program,
                name,
                None if "~" in marks else family,
                int(lowest),
                int(highest),
                "!" not in marks,
            )
    return table


INSTRUMENTS: Mapping[int, Instrument] = MappingProxyType(_table())
"""Program -> instrument; pads (88-103), drums and effects (115-127) are no instruments of notes."""

DRUMS: Mapping[int, str] = MappingProxyType(
    {
        36: "bass drum",
        38: "snare drum",
        39: "hand clap",
        42: "hi-hat",
        46: "hi-hat",
        45: "tom",
        50: "tom",
        49: "cymbal",
        51: "cymbal",
        54: "tambourine",
        56: "cowbell",
        60: "bongo",
        63: "conga",
        67: "agogo",
        69: "shaker",
        70: "maracas",
        72: "whistle",
        74: "guiro",
        75: "claves",
        76: "wood block",
        81: "triangle",
    }
)
"""General MIDI percussion: key -> what is heard."""

EFFECTS: Mapping[int, str] = MappingProxyType(
    {
        122: "sea waves",
        123: "chirping birds",
        124: "telephone",
        125: "helicopter",
        126: "clapping",
        127: "gunshot",
    }
)
"""General MIDI sound effects: program -> what is heard, in ESC-50's words where it has it."""
