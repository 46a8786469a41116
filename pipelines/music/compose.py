"""A style and a seed become a Score, by rules: form, harmony, rhythm section, tune, and the hands that play them.

    score = compose("jazz", seconds=180.0, seed=(0, 17))

Pieces of 45 s or more are whole, from intro to a last chord; shorter ones are cut from the middle of a piece. Notes
deviate from the annotated grid as players do (pipelines/music/band.py). About 15 ms for three minutes, 55 ms for the
busiest metal.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby

import numpy as np

from pipelines.music import styles_acoustic, styles_electric, styles_synthetic
from pipelines.music.band import lineup, parts
from pipelines.music.form import (
    METERS,
    Bar,
    Meter,
    Plan,
    Section,
    chords_by_beat,
    harmonies,
    sections_of_excerpt,
    sections_of_whole,
)
from pipelines.music.harmony import Chord, chord_of
from pipelines.music.score import KEYS, PITCH_CLASSES, Mark, Score
from pipelines.music.styles import Style
from shards.problem import UsageProblem

_STYLES = {
    style.name: style
    for module in (styles_acoustic, styles_electric, styles_synthetic)
    for style in vars(module).values()
    if isinstance(style, Style)
}
STYLES = tuple(sorted(_STYLES))
SHORTEST_SECONDS, LONGEST_SECONDS = 3.0, 600.0

_WHOLE_SECONDS = 45.0


def compose(style: str, *, seconds: float, seed: Sequence[int], key: str | None = None) -> Score:
    """A piece of exactly `seconds` (3 to 600) in one of STYLES; `key` (one of KEYS) is drawn when it is None.

    A pure function of its arguments. Raises UsageProblem for a style, length or key that there is not.
    """
    _check(style, seconds, key)
    rng = np.random.default_rng((*seed, *style.encode()))  # so that styles do not share keys and forms
    plan = _plan(_STYLES[style], seconds, key, rng)
    count = int(np.ceil(seconds / plan.beat_seconds - 1e-9))
    beats = tuple((np.arange(count) * plan.beat_seconds).tolist())
    return Score(
        style=style,
        key=plan.key,
        tempo_bpm=plan.tempo_bpm,
        beats_per_bar=plan.meter.beats,
        seconds=seconds,
        parts=parts(plan, lineup(plan, rng), rng),
        beats=beats,
        downbeats=beats[:: plan.meter.beats],
        chords=_marks([(0, chord.label) for chord in plan.chords_by_beat], beats, seconds),
        sections=_marks(_section_of_beat(plan), beats, seconds),
        meter=plan.meter.name,
    )


def _check(style: str, seconds: float, key: str | None) -> None:
    if style not in _STYLES:
        raise UsageProblem(f"There is no style {style!r}, so nothing was composed. Choose among {', '.join(STYLES)}")
    if not SHORTEST_SECONDS <= seconds <= LONGEST_SECONDS:
        raise UsageProblem(
            f"A piece of {seconds} s was asked for; the rules here give music from {SHORTEST_SECONDS:g} s to "
            f"{LONGEST_SECONDS:g} s. Ask for a length between these."
        )
    if key is not None and key not in KEYS:
        raise UsageProblem(f"There is no key {key!r}, so nothing was composed. Keys are {', '.join(KEYS)}")


def _plan(style: Style, seconds: float, key: str | None, rng: np.random.Generator) -> Plan:
    mode = "minor" if rng.random() < style.minor_share else "major"
    key = key or f"{PITCH_CLASSES[rng.integers(12)]} {mode}"
    groove = style.grooves[rng.integers(len(style.grooves))]
    meter = METERS[groove.meter]
    slowest, fastest = groove.tempos_bpm
    tempo_bpm = float(rng.integers(2 * slowest, 2 * fastest, endpoint=True)) / 2
    beats = seconds * tempo_bpm / 60
    bars = int(beats / meter.beats + 1e-9) - 1
    is_whole = seconds >= _WHOLE_SECONDS and bars >= style.phrase_bars + 6
    if is_whole:
        sections = sections_of_whole(bars, style.phrase_bars, rng)
    else:
        sections = sections_of_excerpt(int(np.ceil(beats / meter.beats - 1e-9)), style.phrase_bars, rng)
    bars_of = harmonies(style, key.split()[1], rng)
    sounding = _sounding(sections, bars_of, meter, key, int(np.ceil(beats - 1e-9)))
    return Plan(style, groove, key, tempo_bpm, seconds, sections, sounding, is_whole)


def _sounding(
    sections: Sequence[Section], bars_of: Mapping[str, list[Bar]], meter: Meter, key: str, beats: int
) -> tuple[Chord, ...]:
    """The chord of every beat; after the last section the tonic as it was first heard, with its seventh if any."""
    tonic, mode = PITCH_CLASSES.index(key.split()[0]), key.split()[1]
    result = [
        chord
        for section in sections
        for chord in chords_by_beat(section, bars_of[section.material], meter=meter, tonic=tonic)
    ]
    heard = [chord for chord in result if chord.root == tonic]
    rest = heard[0] if heard else chord_of("I" if mode == "major" else "i", tonic)
    return tuple(result + [rest] * (beats - len(result)))


def _section_of_beat(plan: Plan) -> list[tuple[int, str]]:
    """Number and name of the section of every beat; the last chord belongs to the outro."""
    last = len(plan.sections) - 1
    beats = [
        (place, section.name)
        for place, section in enumerate(plan.sections)
        for _ in range(section.bars * plan.meter.beats)
    ]
    missing = len(plan.chords_by_beat) - len(beats)
    return beats + [(last, plan.sections[last].name)] * missing


def _marks(values: Sequence[tuple[int, str]], beats: Sequence[float], seconds: float) -> tuple[Mark, ...]:
    """Runs of equal values, one value a beat, as marks that tile the piece."""
    runs = [(value, len(list(run))) for value, run in groupby(values[: len(beats)])]
    starts = np.cumsum([0, *(length for _, length in runs)]).tolist()
    ends = [*(beats[start] for start in starts[1:-1]), seconds]
    return tuple(Mark(beats[start], end, name) for ((_, name), _), start, end in zip(runs, starts, ends, strict=False))
