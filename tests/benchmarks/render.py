"""A minute of composed music, played and mastered, against fluidsynth alone on the same notes.

    python -m tests.benchmarks.render

The peer is `fluidsynth -F` with the same MIDI file, SoundFont and options, its sound left unmastered in a file. Ours
composes nothing here either: it writes the MIDI, waits for that same child, reads, masters and returns the samples. One
score of each style; CPU seconds of the process and its children, alternating rounds.
"""

import os
import statistics
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from pipelines.music.compose import STYLES, compose
from pipelines.music.performance import _messages, _passes, _room, play_score
from pipelines.music.score import Score
from pipelines.music.synthesis import SOUNDFONT, _options, fluidsynth_version, midi_file

SECONDS, RATE_HZ, ROUNDS = 10.0, 44_100, 5


def measure() -> dict[str, object]:
    """Seconds of music per CPU second of both and their ratio in each of five alternating rounds."""
    scores = [compose(style, seconds=SECONDS, seed=(0, number)) for number, style in enumerate(STYLES)]
    with tempfile.TemporaryDirectory() as folder:
        peer = [_command(Path(folder), number, score) for number, score in enumerate(scores)]
        rounds = [(_rate(scores, lambda: _ours(scores)), _rate(scores, lambda: _peer(peer))) for _ in range(ROUNDS)]
    ratios = [ours / theirs for ours, theirs in rounds]
    return {
        "what": f"play and master {len(scores)} scores of {SECONDS:.0f} s, one of each style, stereo at 44.1 kHz",
        "unit": "s of music per CPU second",
        "ours": statistics.median(ours for ours, _ in rounds),
        "peer": statistics.median(theirs for _, theirs in rounds),
        "peer_name": f"fluidsynth {fluidsynth_version()} -F alone, the same notes and options",
        "ratio": statistics.median(ratios),
        "ratio_spread": [min(ratios), max(ratios)],
        "target": 0.8,
    }


def _ours(scores: list[Score]) -> None:
    for score in scores:
        sound = play_score(score, sample_rate_hz=RATE_HZ, soundfont=SOUNDFONT)
        assert sound.shape == (2, round(SECONDS * RATE_HZ))


def _peer(commands: list[list[str]]) -> None:
    for command in commands:
        subprocess.run(command, capture_output=True, check=True)


def _command(folder: Path, number: int, score: Score) -> list[str]:
    """What plays a score once: the notes as a MIDI file, at the score's end and no later."""
    (channels,) = _passes(score.parts)
    midi = folder / f"{number}.mid"
    midi.write_bytes(midi_file(_messages(channels, SECONDS), ticks_per_second=20_000))
    return ["fluidsynth", *_options(RATE_HZ, _room(score)), "-F", str(folder / "sound.raw"), str(SOUNDFONT), str(midi)]


def _rate(scores: list[Score], work: Callable[[], None]) -> float:
    begin = sum(os.times()[:4])
    work()
    return sum(score.seconds for score in scores) / (sum(os.times()[:4]) - begin)


if __name__ == "__main__":
    for name, value in measure().items():
        print(f"{name:16}{value}")
