"""The zones of a SoundFont, read plainly (SoundFont 2.01, section 7): which samples answer to which keys."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

KEYS, VELOCITIES, INSTRUMENT, SAMPLE = 43, 44, 41, 53
ANY = 0x7F00


@dataclass(frozen=True)
class Zone:
    """One sample of a preset, and the ranges in which it sounds: inclusive, of the preset and of the instrument."""

    sample: int
    keys: tuple[range, range]
    velocities: tuple[range, range]

    def answers(self, pitch: int, velocity: int) -> bool:
        return all(pitch in keys for keys in self.keys) and all(velocity in part for part in self.velocities)


def zones(soundfont: Path) -> dict[tuple[int, int], list[Zone]]:
    """(bank, program) -> its zones."""
    articulation = soundfont.read_bytes()
    articulation = articulation[articulation.index(b"pdta") :]
    presets = list(struct.iter_unpack("<20sHHH12x", _chunk(articulation, b"phdr")))
    parts = [list(struct.iter_unpack(form, _chunk(articulation, name))) for name, form in _TABLES]
    return {(head[2], head[1]): list(_zones(parts, head[3], after[3])) for head, after in pairwise(presets)}


_TABLES = ((b"pbag", "<HH"), (b"pgen", "<HH"), (b"inst", "<20sH"), (b"ibag", "<HH"), (b"igen", "<HH"))


def _chunk(source: bytes, name: bytes) -> bytes:
    begin = source.index(name) + 8
    return source[begin : begin + struct.unpack_from("<I", source, begin - 4)[0]]


def _zones(parts: list[list[tuple]], first: int, last: int) -> Iterator[Zone]:
    preset_bags, preset_generators, instruments, bags, generators = parts
    for outer in _bags(preset_bags, preset_generators, first, last):
        if INSTRUMENT in outer:
            number = outer[INSTRUMENT]
            for inner in _bags(bags, generators, instruments[number][1], instruments[number + 1][1]):
                if SAMPLE in inner:
                    yield Zone(inner[SAMPLE], _ranges(outer, inner, KEYS), _ranges(outer, inner, VELOCITIES))


def _bags(bags: list[tuple], generators: list[tuple], first: int, last: int) -> Iterator[dict[int, int]]:
    for bag in range(first, last):
        yield dict(generators[bags[bag][0] : bags[bag + 1][0]])


def _ranges(outer: dict[int, int], inner: dict[int, int], generator: int) -> tuple[range, range]:
    bounds = [zone.get(generator, ANY) for zone in (outer, inner)]
    low_high = [range(bound & 255, (bound >> 8) + 1) for bound in bounds]
    return low_high[0], low_high[1]
