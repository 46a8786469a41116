"""The players of a piece: who they are, what each plays in each section, and how their hands deviate from the grid.

Starts deviate by a few milliseconds (the style's `jitter_ms`, at most three times that), notes that one player strikes
together by less; strummed strings follow each other by about 7 ms; pairs swing as the groove says. Velocities vary by
section, phrase and hand.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import starmap

import numpy as np

from pipelines.music.accompaniment import bass, chords, drums
from pipelines.music.form import BEAT_TICKS, Passage, Plan, Section, material_bar
from pipelines.music.harmony import Chord, voicing
from pipelines.music.instruments import PRESETS
from pipelines.music.melody import Register, Tone, answers, doubled, resting_pitch, tune, varied
from pipelines.music.score import DRUMS, Note, Part, instrument_class
from pipelines.music.styles import DRUM_PITCHES, Player

_RANGES = {preset.program: (preset.low_pitch, preset.high_pitch) for preset in PRESETS if preset.bank == 0}
# How much louder a preset of FluidR3 is than the median of all, playing the same eight notes; of 3 dB or more.
_PRESET_LOUDNESS_DB = {
    **{0: -6, 1: -7, 3: -7, 4: 3, 9: -5, 11: -5, 15: -9, 17: 3, 21: -4, 22: -3, 23: -4, 27: -4, 28: -10, 30: 4},
    **{35: 4, 36: -3, 39: 7, 41: -4, 42: -3, 43: -9, 50: 4, 51: 5, 52: -3, 57: 4, 60: 3, 69: -7, 77: 5, 78: 6, 79: 3},
    **{86: -4, 92: 3, 93: 4, 95: 6, 99: 4, 105: -3, 108: -6},
}
_PAD_RANGE = (36, 96)  # of programs that no real instrument limits
_ENERGY = {"intro": 0.0, "verse": 0.5, "chorus": 1.0, "bridge": 0.6, "outro": 0.4}
_VELOCITY = 96  # of an accent at full energy
_LEAST_NOTE_SECONDS, _END_SECONDS = 0.03, 0.001  # what is left of shorter ones is not played


@dataclass(frozen=True)
class Seat:
    """A player of this piece, with the program drawn, the register it leaves, and where and how loud it plays."""

    player: Player
    program: int
    register: Register
    pan: float
    gain_db: float


def lineup(plan: Plan, rng: np.random.Generator) -> list[Seat]:
    """Who plays: a program each, no two alike where it can be helped; half of all stages are mirrored."""
    mirror = 1 if rng.random() < 0.5 else -1
    taken: set[int] = set()
    seats = []
    for player in plan.style.players:
        if rng.random() < player.share and (player.plays == "double" or player.name in plan.groove.patterns):
            programs = [program for program in player.programs if program not in taken] or list(player.programs)
            program = programs[rng.integers(len(programs))]
            taken |= {program} if player.plays != "drums" else set()
            pan = float(np.clip(mirror * player.pan + rng.normal(0, 0.08), -1, 1))
            # Half of it, since a soft instrument is meant to be one: pianos come through, whistles do not shriek.
            gain_db = player.gain_db - _PRESET_LOUDNESS_DB.get(program, 0) / 2 + rng.normal(0, 1)
            seats.append(Seat(player, program, register_of(player, program), pan, float(np.clip(gain_db, -12, 4))))
    return seats


def register_of(player: Player, program: int) -> Register:
    """Where a player's notes lie on a program: its own register, moved by octaves to where the instrument has it."""
    low, high = _RANGES.get(program, _PAD_RANGE)

    def shared(octaves: int) -> int:
        return min(high, player.high_pitch + 12 * octaves) - max(low, player.low_pitch + 12 * octaves)

    octaves = max((0, 1, -1, 2, -2), key=shared)
    return Register(max(low, player.low_pitch + 12 * octaves), min(high, player.high_pitch + 12 * octaves))


def parts(plan: Plan, seats: Sequence[Seat], rng: np.random.Generator) -> tuple[Part, ...]:
    """Everything that the seats play; a seat without a note, as happens in short excerpts, leaves no part."""
    tunes = _tunes(plan, seats, rng)
    played = [_part(seat, _played(seat, plan, tunes, rng), plan, rng) for seat in seats]
    return tuple(part for part in played if part.notes)


def _tunes(plan: Plan, seats: Sequence[Seat], rng: np.random.Generator) -> list[list[Tone]]:
    """The melody of every section: one tune for all verses, one for all choruses, varied when they return."""
    lead = next((seat for seat in seats if seat.player.plays == "melody"), None)
    if lead is None:
        return [[] for _ in plan.sections]
    known: dict[str, list[Tone]] = {}
    result = []
    for section in plan.sections:
        if section.material not in known:
            known[section.material] = _new_tune(plan, section.material, lead, rng)
        tones = _fitted(known[section.material], section, plan)
        result.append(varied(tones, plan.passage(section), lead.register, rng) if section.turn else tones)
    return result


def _new_tune(plan: Plan, material: str, lead: Seat, rng: np.random.Generator) -> list[Tone]:
    longest = max((section for section in plan.sections if section.material == material), key=lambda each: each.bars)
    passage = plan.passage(replace(longest, bars=min(longest.bars, plan.style.phrase_bars)))
    cells = plan.groove.patterns[lead.player.name]
    return tune(passage, cells, lead.register, leaps=plan.style.leaps, rng=rng)


def _fitted(tones: Sequence[Tone], section: Section, plan: Plan) -> list[Tone]:
    """The bars of a tune that belong to the bars of a section."""
    ticks = plan.meter.bar_ticks
    shifts = ((bar, bar - material_bar(bar, section, plan.style.phrase_bars)) for bar in range(section.bars))
    return [
        (start + shift * ticks, end + shift * ticks, pitch, loudness)
        for bar, shift in shifts
        for start, end, pitch, loudness in tones
        if start // ticks == bar - shift
    ]


def _played(seat: Seat, plan: Plan, tunes: Sequence[list[Tone]], rng: np.random.Generator) -> list[Tone]:
    """All that a seat plays, in ticks of the piece; players that a style can do without rest in some sections."""
    player = seat.player
    patterns = _patterns(seat, plan, rng)
    may_rest = player.share < 1 and plan.is_whole and rng.random() < 0.4
    resting = ("intro", "verse", "bridge")[rng.integers(3)] if may_rest else ""
    result: list[Tone] = []
    for section, melody in zip(plan.sections, tunes, strict=True):
        if section.name[0] in player.sections and section.name != resting:
            origin = section.first_bar * plan.meter.bar_ticks
            level = 1 - 0.45 * plan.style.dynamics * (1 - _ENERGY[section.name])
            tones = _section(seat, plan, section, melody, patterns[section.material], rng)
            result += [(start + origin, end + origin, pitch, loud * level) for start, end, pitch, loud in tones]
    if plan.is_whole and "o" in player.sections:
        result += _last_chord(seat, plan, result[-1][2] if result else 0)
    return result


def _patterns(seat: Seat, plan: Plan, rng: np.random.Generator) -> dict[str, tuple[str, str]]:
    """Two patterns for each kind of section, usual and other; different ones for verse and chorus where there are."""
    patterns = plan.groove.patterns.get(seat.player.name, ("",))
    order = rng.permutation(len(patterns))
    places = {"verse": 0, "chorus": 1, "bridge": 2}
    return {
        name: (patterns[order[place % len(order)]], patterns[order[(place + 1) % len(order)]])
        for name, place in places.items()
    }


def _section(
    seat: Seat, plan: Plan, section: Section, melody: list[Tone], patterns: tuple[str, str], rng: np.random.Generator
) -> Iterable[Tone]:
    """What a seat plays in one section, in ticks from its start."""
    player, passage = seat.player, plan.passage(section)
    match player.plays:
        case "drums":
            return _drummed(plan, section, patterns, rng)
        case "bass":
            return bass(patterns[0], passage, seat.register)
        case "chords" | "power":
            is_power = player.plays == "power"
            return chords(patterns[0], passage, seat.register, voices=player.voices, is_power=is_power)
        case "double":
            return doubled(melody, passage, seat.register)
        case "answer":
            cells = plan.groove.patterns[player.name]
            return answers(passage, cells, seat.register, leaps=plan.style.leaps, rng=rng)
        case _:
            return melody


def _drummed(plan: Plan, section: Section, patterns: tuple[str, str], rng: np.random.Generator) -> Iterator[Tone]:
    """A crash begins and a fill ends each section, but not the edges of an excerpt, which lie within a piece."""
    fills = plan.style.fills.get(plan.meter.name, ("",))
    is_cut = section == plan.sections[-1] and not plan.is_whole
    is_light = section.name == "intro" and rng.random() < 0.7
    return drums(
        patterns,
        "" if is_cut else fills[rng.integers(len(fills))],
        plan.passage(section),
        has_crash=bool(plan.style.fills) and section.first_bar > 0,
        is_light=is_light,
        rng=rng,
    )


def _last_chord(seat: Seat, plan: Plan, pitch: int) -> Iterator[Tone]:
    """The tonic, held for up to a bar and a half; `pitch` is the seat's last note before."""
    meter = plan.meter
    origin = plan.end_bar * meter.bar_ticks
    end = min(origin + 1.5 * meter.bar_ticks, plan.seconds / plan.beat_seconds * BEAT_TICKS)
    chord = plan.chords_by_beat[-1]
    passage = Passage(meter, plan.scale, plan.tonic, 1, (chord,) * (meter.beats + 1))
    match seat.player.plays:
        case "drums":
            pitches = [DRUM_PITCHES["BD"], DRUM_PITCHES["CC"]] if plan.style.fills else []
        case "bass":
            pitches = [tone[2] for tone in bass("R" + "-" * (meter.steps - 1), passage, seat.register)]
        case "chords" | "power":
            quality = "5" if seat.player.plays == "power" else chord.quality
            register = seat.register
            pitches = list(voicing(Chord(chord.root, quality), (), seat.player.voices, register.low, register.high))
        case "answer":
            pitches = []
        case _:
            pitches = [resting_pitch(chord, plan.tonic, pitch, seat.register)]
    yield from ((origin, end, each, 0.9) for each in pitches)


def _part(seat: Seat, tones: Sequence[Tone], plan: Plan, rng: np.random.Generator) -> Part:
    is_drum = seat.player.plays == "drums"
    name = DRUMS if is_drum else instrument_class(seat.program)
    notes = tuple(_notes(seat, tones, plan, rng)) if tones else ()
    return Part(seat.player.name, seat.program, is_drum, name, notes, seat.pan, seat.gain_db)


def _notes(seat: Seat, tones: Sequence[Tone], plan: Plan, rng: np.random.Generator) -> Iterator[Note]:
    """Tones as a hand plays them; no two of one pitch overlap, and none lasts beyond the piece."""
    table = np.array(tones, dtype=float)
    table = table[np.lexsort((table[:, 0], table[:, 2]))]
    moments, place = np.unique(np.floor(table[:, 0]), return_inverse=True)
    jitter_s = plan.style.jitter_ms / 1000
    deviation_s = np.clip(rng.normal(0, jitter_s, len(moments)), -2.5 * jitter_s, 2.5 * jitter_s)[place]
    deviation_s += np.clip(rng.normal(0, jitter_s / 6, len(table)), -0.5 * jitter_s, 0.5 * jitter_s)
    starts = np.maximum(_seconds(table[:, 0], plan) + deviation_s, 0)
    ends = starts + (_seconds(table[:, 1], plan) - _seconds(table[:, 0], plan)) * seat.player.held
    ends = np.minimum(ends, plan.seconds - _END_SECONDS)
    is_same = table[1:, 2] == table[:-1, 2]
    ends[:-1] = np.where(is_same, np.minimum(ends[:-1], starts[1:] - 1e-4), ends[:-1])
    velocities = _velocities(table[:, 0], table[:, 3], len(moments), place, plan, rng)
    rows = np.stack([starts, ends - starts], axis=1).round(6)
    order = np.lexsort((table[:, 2], starts))
    order = order[rows[order, 1] >= _LEAST_NOTE_SECONDS]
    pitches = table[:, 2].astype(int)
    columns = (rows[order, 0], rows[order, 1], pitches[order], velocities[order])
    return starmap(Note, zip(*(column.tolist() for column in columns), strict=True))


def _seconds(ticks: np.ndarray, plan: Plan) -> np.ndarray:
    """Times of ticks, the second of each pair of notes later where the groove swings."""
    swing, pairs = plan.groove.swing, plan.groove.swung_pairs_per_beat
    whole, phase = np.divmod(ticks * pairs / BEAT_TICKS, 1)
    late = np.where(phase < 0.5, 2 * swing * phase, swing + (2 * phase - 1) * (1 - swing))
    return (whole + late) * plan.beat_seconds / pairs


def _velocities(
    ticks: np.ndarray, loudness: np.ndarray, moments: int, place: np.ndarray, plan: Plan, rng: np.random.Generator
) -> np.ndarray:
    """MIDI velocities: loudness, an arc over every four bars, and the unevenness of a hand."""
    arc = 1 + 0.06 * np.sin(np.pi * (ticks / (4 * plan.meter.bar_ticks) % 1))
    uneven = rng.normal(0, 4, moments)[place] + rng.normal(0, 2, len(ticks))
    return np.clip(np.round(_VELOCITY * loudness * arc + uneven), 15, 127).astype(int)
