"""Every format by every back end: what the table of back ends in shards/decode.py follows.

    python -m tests.benchmarks.decode

Ten seconds of 44.1 kHz stereo in each format, from bytes in memory to a checked mono Clip; CPU time of this process and
its children, one thread, in alternating rounds. torchcodec takes part where it is installed. Writes the tables of
docs/decoding.md.
"""

import re
import resource
import statistics
import time
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soxr
import torch

from shards import ffmpeg, libav
from shards.containers.container import AudioHeader, Block, DecodeError, Unreadable
from shards.decode import BACK_ENDS, BackEnd, decode_by, probe, resampled, with_libsndfile
from shards.example import Clip
from tests.media import FORMATS as ALL_FORMATS
from tests.media import encoded

FORMATS = [name for name in ALL_FORMATS if name != "mp3-low"]  # 8 kbit/s is there to test seeking, no music
DOCS = Path(__file__).parents[2] / "docs" / "decoding.md"
SECONDS, ROUNDS = 10.0, 25
RATES_HZ = ((44_100, 16_000), (48_000, 16_000), (44_100, 24_000), (96_000, 44_100), (8_000, 16_000))
PASSED_SHARE = 0.91  # soxr HQ begins to fall here, as a share of the lower of the two Nyquist frequencies


class Response(NamedTuple):
    """How far from 0 dB the resampler gets where it passes, and how far below where nothing of a tone may remain."""

    ripple_db: float
    rejection_db: float


def measure() -> dict[str, object]:
    """CPU milliseconds per clip of the chosen back end and of the fastest, and the worst ratio over all formats."""
    torch.set_num_threads(1)
    rounds = {name: _milliseconds(encoded(name, SECONDS)) for name in FORMATS}
    table = {name: {each: statistics.median(times) for each, times in rows.items()} for name, rows in rounds.items()}
    chosen = {name: _name_of(BACK_ENDS[probe(encoded(name, SECONDS)).container]) for name in table}
    fastest = {name: min(row, key=row.__getitem__) for name, row in table.items()}
    ratios = {name: _paired_ratio(rounds[name][fastest[name]], rounds[name][chosen[name]]) for name in table}
    _refresh_docs("formats", _formats_table(table, chosen, ratios))
    _refresh_docs("resampler", _resampler_table())
    return {
        "what": f"decode {SECONDS:g} s of stereo to a mono clip: the worst of {len(table)} formats",
        "unit": "ms per clip",
        "ours": statistics.geometric_mean(table[name][chosen[name]] for name in table),
        "peer": statistics.geometric_mean(table[name][fastest[name]] for name in table),
        "peer_name": "the fastest back end of each format",
        "ratio": min(ratios.values()),
        "ratio_spread": [min(ratios.values()), max(ratios.values())],
        "target": 0.9,
        "milliseconds": table,
    }


def _paired_ratio(fastest: list[float], chosen: list[float]) -> float:
    """Median over the rounds, in each of which both met the same machine."""
    return statistics.median(one / other for one, other in zip(fastest, chosen, strict=True))


def resampler_response(from_hz: int, to_hz: int) -> Response:
    """Pure tones through the resampler: those in the pass band keep their level, of all others nothing remains."""
    lower_nyquist_hz = min(from_hz, to_hz) / 2
    passed = [_tone_decibels(hertz, from_hz, to_hz) for hertz in np.linspace(20, PASSED_SHARE * lower_nyquist_hz, 60)]
    images = [rest for _, rest in passed]
    stopped = np.linspace(lower_nyquist_hz, 0.98 * from_hz / 2, 60) if to_hz < from_hz else []
    aliases = [max(_tone_decibels(hertz, from_hz, to_hz)) for hertz in stopped]
    return Response(max(abs(level) for level, _ in passed), -max(images + aliases))


def _tone_decibels(hertz: float, from_hz: int, to_hz: int) -> tuple[float, float]:
    """Level of a tone after resampling, and of everything else that came with it."""
    tone = np.sin(2 * np.pi * hertz / from_hz * np.arange(1 << 15)).astype(np.float32)
    found = resampled(Clip(tone[None], from_hz), to_hz).waveform[0].astype(np.float64)
    found = found[len(found) // 4 : -len(found) // 4]
    phase = 2 * np.pi * hertz / to_hz * np.arange(len(found))
    waves = np.stack([np.sin(phase), np.cos(phase)], axis=1)
    weights = np.linalg.lstsq(waves, found, rcond=None)[0]
    rest = found - waves @ weights
    return float(20 * np.log10(np.hypot(*weights))), float(10 * np.log10(2 * np.mean(rest**2) + 1e-30))


def _milliseconds(source: bytes) -> dict[str, list[float]]:
    """One number a round for each back end that can read it."""
    found: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for name, back_end in _back_ends().items():
            begin = _cpu_seconds()
            try:
                decode_by(back_end, source)
            except DecodeError:
                continue
            found.setdefault(name, []).append(1000 * (_cpu_seconds() - begin))
    return found


def _back_ends() -> dict[str, BackEnd]:
    with_torchcodec = {"torchcodec": _by_torchcodec} if find_spec("torchcodec") else {}
    return {"libsndfile": with_libsndfile, "PyAV": libav.read, **with_torchcodec, "ffmpeg child": ffmpeg.read}


def _name_of(back_end: BackEnd) -> str:
    return next(name for name, each in _back_ends().items() if each is back_end)


def _by_torchcodec(
    source: bytes, header: AudioHeader, start_seconds: float, seconds: float | None
) -> Iterator[tuple[Block, int]]:
    """Measured and not used: it takes no white list of formats or protocols, and needs FFmpeg's libraries installed."""
    from torchcodec.decoders import AudioDecoder

    try:
        samples = AudioDecoder(source).get_all_samples()
    except (RuntimeError, ValueError) as error:
        raise Unreadable(str(error)) from error
    yield samples.data.numpy(), samples.sample_rate


def _cpu_seconds() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def _formats_table(table: dict[str, dict[str, float]], chosen: dict[str, str], ratios: dict[str, float]) -> list[str]:
    names = list(_back_ends())
    lines = [
        f"| format | {' | '.join(names)} | chosen | to the fastest | x real time |",
        "|---" * (len(names) + 4) + "|",
    ]
    for name, row in table.items():
        cells = [f"{row[each]:.1f}" if each in row else "-" for each in names]
        speed = 1000 * SECONDS / row[chosen[name]]
        lines.append(f"| {name} | {' | '.join(cells)} | {chosen[name]} | {ratios[name]:.2f} | {speed:,.0f} |")
    return lines


def _resampler_table() -> list[str]:
    lines = [
        f"| from | to | ripple up to {PASSED_SHARE} of the lower Nyquist frequency | rejection |",
        "|---|---|---|---|",
    ]
    for from_hz, to_hz in RATES_HZ:
        response = resampler_response(from_hz, to_hz)
        lines.append(
            f"| {from_hz:,} Hz | {to_hz:,} Hz | {response.ripple_db:.4f} dB | {response.rejection_db:.0f} dB |"
        )
    return [*lines, "", f"soxr {soxr.__version__}, PyAV {version('av')}, soundfile {version('soundfile')}."]


def _refresh_docs(mark: str, lines: list[str]) -> None:
    begin, end = f"<!-- {mark} -->", f"<!-- /{mark} -->"
    text, table = DOCS.read_text(), "\n".join([begin, *lines, end])
    DOCS.write_text(re.sub(f"{begin}.*{end}", lambda _: table, text, flags=re.S))


if __name__ == "__main__":
    for name, value in measure().items():
        print(f"{name:16}{value}")
