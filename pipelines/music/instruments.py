"""Instruments made of the presets of Debian's FluidR3_GM.sf2: their family, their split, and the notes they play.

A preset belongs to the family that General MIDI's groups give it (accordions are organs), or sounds like (banjo:
guitar, kalimba: mallet, bagpipe: reed, choir pad: vocal); sound effects, drums, pads and hits are left out. Presets
that share a sample stand in the same split, over all families: an instrument of the test split was never heard in
training under another name. The split does not depend on a seed, so that two rendered corpora can be joined.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.music.synthesis import Timbre

# family source split: bank:program low-high, ...
_TABLE = """
bass acoustic train: 0:32 28-67
bass electronic train: 0:33 28-67, 0:35 28-67, 0:36 28-67
bass synthetic train: 0:38 24-72, 8:38 24-72, 8:39 24-72
bass electronic valid: 0:34 28-67
bass electronic test: 0:37 28-67
bass synthetic test: 0:39 24-72
brass acoustic train: 0:56 52-87, 0:58 29-60, 0:61 36-84, 8:61 36-84
brass synthetic train: 0:62 36-96, 0:63 36-96, 8:62 36-96, 8:63 36-96
brass acoustic valid: 0:59 52-84
brass acoustic test: 0:57 36-74, 0:60 41-77
flute acoustic train: 0:73 60-96, 0:75 55-96, 0:76 55-96, 0:77 55-88, 0:79 60-91
flute acoustic valid: 0:78 60-96
flute acoustic test: 0:72 67-102, 0:74 60-96
guitar acoustic train: 0:24 40-84, 0:25 40-84, 8:24 55-84, 8:25 40-84, 16:25 55-88, 0:104 43-77, 0:106 50-84
guitar electronic train: 0:27 40-86, 8:28 40-86, 0:28 40-80, 0:30 40-86, 0:31 40-84
guitar electronic valid: 0:29 40-86
guitar electronic test: 0:26 40-86, 8:26 40-86
guitar acoustic test: 0:105 48-84
keyboard acoustic train: 0:0 21-108, 0:1 21-108, 0:3 21-108
keyboard electronic train: 0:4 28-103, 8:4 28-103, 0:7 29-96
keyboard electronic valid: 0:2 28-103
keyboard electronic test: 0:5 28-103, 8:5 28-103
keyboard acoustic test: 0:6 29-93, 8:6 29-93
mallet acoustic train: 0:8 60-108, 0:9 72-108, 0:11 53-89, 0:12 45-96, 0:14 60-84, 0:108 48-88, 0:114 48-88
mallet acoustic valid: 0:10 55-96
mallet acoustic test: 0:13 65-108, 0:15 48-88
organ electronic train: 0:16 36-96, 8:16 36-96, 0:17 36-96, 8:17 36-96
organ acoustic train: 0:21 48-96, 0:22 55-91, 0:23 48-96, 8:21 48-96
organ acoustic valid: 0:20 36-96
organ electronic test: 0:18 36-96
organ acoustic test: 0:19 36-96, 8:19 36-96
reed acoustic train: 0:64 54-87, 0:65 49-80, 0:67 36-69, 0:68 58-91, 0:70 34-72, 0:109 48-84
reed acoustic valid: 0:69 52-81
reed acoustic test: 0:66 44-75, 0:71 50-91, 0:111 55-88
string acoustic train: 0:41 48-88, 0:43 28-57, 0:44 36-96, 0:45 36-96, 0:48 36-96, 0:49 36-96
string synthetic train: 0:50 36-96, 0:51 36-96, 8:50 36-96
string acoustic valid: 0:42 36-77
string acoustic test: 0:40 55-93, 8:40 55-93, 0:110 55-93, 0:46 24-103
synth_lead synthetic train: 0:81 36-96, 0:83 36-96, 0:84 36-96, 0:86 36-96, 0:87 36-96
synth_lead synthetic valid: 8:80 36-96
synth_lead synthetic test: 0:80 36-96, 0:82 36-96
vocal acoustic train: 0:52 43-84
vocal synthetic train: 0:85 43-84, 0:91 43-84
vocal synthetic valid: 0:54 43-84
vocal acoustic test: 0:53 43-84
"""

_INSTRUMENT_NOTES = 8  # many instruments of few notes: probes ask whether instruments never heard are understood
# When every preset has been taken as it is, it is taken again with shifts drawn from these ranges, ends included: from
# as written to 2 octaves duller, with up to 6 dB of resonance, up to 4 times slower in attack, twice as fast or slow in
# decay and release, with up to 15 cents of vibrato, a fifth of a semitone flat or sharp.
_VARIATION = {
    "cutoff_cents": (-2400, 0),
    "resonance_centibels": (0, 60),
    "attack_timecents": (0, 2400),
    "decay_timecents": (-1200, 1200),
    "release_timecents": (-1200, 1200),
    "vibrato_cents": (0, 15),
    "tuning_cents": (-20, 20),
}


@dataclass(frozen=True)
class Preset:
    """One sound of the SoundFont, and the MIDI pitches, both ends included, at which the real instrument is played."""

    family: str
    source: str
    split: str
    bank: int
    program: int
    low_pitch: int
    high_pitch: int


@dataclass(frozen=True)
class Instrument:
    """A preset, as it is or with a timbre of its own, and the different (pitch, velocity) at which it is heard."""

    preset: Preset
    timbre: Timbre
    keys: tuple[tuple[int, int], ...]


def instruments(
    family: str, split: str, *, notes: int, velocities: Sequence[int], rng: np.random.Generator
) -> Iterator[Instrument]:
    """Instruments of one family and split that play `notes` notes together, about eight each, over all presets."""
    heard = [preset for preset in PRESETS if (preset.family, preset.split) == (family, split)]
    count = -(-notes // _INSTRUMENT_NOTES)
    for position, instrument_notes in enumerate(even_parts(notes, count)):
        preset = heard[position % len(heard)]
        timbre = Timbre() if position < len(heard) else _varied(rng)
        yield Instrument(preset, timbre, tuple(_keys(preset, instrument_notes, velocities, rng)))


def even_parts(total: int, parts: int) -> list[int]:
    """`total` as a sum of `parts` numbers that differ by one at most."""
    return [total // parts + (position < total % parts) for position in range(parts)]


def _varied(rng: np.random.Generator) -> Timbre:
    return Timbre(**{name: int(rng.integers(low, high, endpoint=True)) for name, (low, high) in _VARIATION.items()})


def _keys(preset: Preset, notes: int, velocities: Sequence[int], rng: np.random.Generator) -> Iterator[tuple[int, int]]:
    pitches = range(preset.low_pitch, preset.high_pitch + 1)
    for choice in sorted(rng.choice(len(pitches) * len(velocities), notes, replace=False)):
        yield pitches[choice // len(velocities)], velocities[choice % len(velocities)]


def _parse(table: str) -> tuple[Preset, ...]:
    lines = (line.split(": ", 1) for line in table.strip().splitlines())
    return tuple(_preset(words, sound) for words, sounds in lines for sound in sounds.split(", "))


def _preset(words: str, sound: str) -> Preset:
    family, source, split = words.split()
    bank, program, low_pitch, high_pitch = (int(number) for number in re.split("[: -]", sound))
    return Preset(family, source, split, bank, program, low_pitch, high_pitch)


PRESETS = _parse(_TABLE)
