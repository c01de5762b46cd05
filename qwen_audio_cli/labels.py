"""The built-in label sets of the classification tasks, each with the data set it comes from.

Labels are spelled as their data set spells them; only ESC-50's underscores, which stand for
spaces in a table, are written as spaces.
"""

from __future__ import annotations


def _set(text: str) -> tuple[str, ...]:
    return tuple(label.strip() for label in text.split(","))


YES_NO = ("yes", "no")

# MELD (Poria et al. 2019): emotions of the utterances.
EMOTIONS = ("neutral", "joy", "sadness", "anger", "surprise", "fear", "disgust")

# Mozilla Common Voice: the values of its `gender` and `age` columns (its "fourties" corrected).
GENDERS = ("female", "male")
AGES = _set("teens, twenties, thirties, forties, fifties, sixties, seventies, eighties, nineties")

# KeSpeech (Tang et al. 2021): standard Mandarin and eight subdialects.
DIALECTS = _set(
    "Mandarin, Beijing, Ji-Lu, Jiang-Huai, Jiao-Liao, Lan-Yin, Northeastern, Southwestern, "
    "Zhongyuan"
)

# VocalSound (Gong et al. 2022): its six classes.
VOCAL_SOUNDS = ("laughter", "sigh", "cough", "throat clearing", "sneeze", "sniff")

# Speech Commands version 2 (Warden 2018): its 35 words.
COMMAND_WORDS = _set(
    "backward, bed, bird, cat, dog, down, eight, five, follow, forward, four, go, happy, "
    "house, learn, left, marvin, nine, no, off, on, one, right, seven, sheila, six, stop, "
    "three, tree, two, up, visual, wow, yes, zero"
)

# SLURP (Bastianelli et al. 2020) by way of MASSIVE (FitzGerald et al. 2022): 60 intents, each
# a scenario and an action.
_ACTIONS = {
    "alarm": "query remove set",
    "audio": "volume_down volume_mute volume_other volume_up",
    "calendar": "query remove set",
    "cooking": "query recipe",
    "datetime": "convert query",
    "email": "addcontact query querycontact sendemail",
    "general": "greet joke quirky",
    "iot": "cleaning coffee hue_lightchange hue_lightdim hue_lightoff hue_lighton hue_lightup"
    " wemo_off wemo_on",
    "lists": "createoradd query remove",
    "music": "dislikeness likeness query settings",
    "news": "query",
    "play": "audiobook game music podcasts radio",
    "qa": "currency definition factoid maths stock",
    "recommendation": "events locations movies",
    "social": "post query",
    "takeaway": "order query",
    "transport": "query taxi ticket traffic",
    "weather": "query",
}
INTENTS = tuple(
    f"{scenario}_{action}" for scenario, actions in _ACTIONS.items() for action in actions.split()
)

# ESC-50 (Piczak 2015): five groups of ten sounds.
SOUND_EVENTS = _set(
    "dog, rooster, pig, cow, frog, cat, hen, insects, sheep, crow, "
    "rain, sea waves, crackling fire, crickets, chirping birds, "
    "water drops, wind, pouring water, toilet flush, thunderstorm, "
    "crying baby, sneezing, clapping, breathing, coughing, "
    "footsteps, laughing, brushing teeth, snoring, drinking sipping, "
    "door wood knock, mouse click, keyboard typing, door wood creaks, can opening, "
    "washing machine, vacuum cleaner, clock alarm, clock tick, glass breaking, "
    "helicopter, chainsaw, siren, car horn, engine, train, church bells, airplane, fireworks, "
    "hand saw"
)

# TUT Acoustic Scenes 2017 (Mesaros et al.), the scenes of DCASE 2017 task 1.
TUT_SCENES = _set(
    "beach, bus, cafe/restaurant, car, city_center, forest_path, grocery_store, home, "
    "library, metro_station, office, park, residential_area, train, tram"
)

# CochlScene (Jeong and Park 2022).
COCHL_SCENES = _set(
    "bus, cafe, car, crowdedindoor, elevator, kitchen, park, residentialarea, restaurant, "
    "restroom, street, subway, subwaystation"
)

# NSynth (Engel et al. 2017): instrument families, note qualities, the five MIDI velocities it
# was played at; MIDI pitches are MIDI's own range.
INSTRUMENTS = _set(
    "bass, brass, flute, guitar, keyboard, mallet, organ, reed, string, synth_lead, vocal"
)
QUALITIES = _set(
    "bright, dark, distortion, fast_decay, long_release, multiphonic, nonlinear_env, "
    "percussive, reverb, tempo-synced"
)
VELOCITIES = ("25", "50", "75", "100", "127")
PITCHES = tuple(str(pitch) for pitch in range(128))

# GTZAN (Tzanetakis and Cook 2002).
GENRES = _set("blues, classical, country, disco, hiphop, jazz, metal, pop, reggae, rock")

# The quadrants of Russell's circumplex (1980), by which the 4Q set (Panda et al. 2018) sorts.
MUSIC_EMOTIONS = ("happy", "angry", "sad", "calm")
