"""From a planned span to an example: the right seconds of the right files, with their events, or the reason why not."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from pipelines.example_maker import ExampleMaker, Recipe
from pipelines.plan import Span, SpanRule, spans
from pipelines.recording import Recording
from shards.example import Clip, Example
from shards.features.mel import MYNA
from shards.manifest import Rejected

RATE = 16_000


@dataclass(frozen=True)
class Waveform:
    """A feature that keeps the clip as it is, so that a test sees which samples were taken."""

    sample_rate_hz: int = RATE
    column: str = "waveform"

    def __call__(self, clips: Sequence[Clip]) -> list[np.ndarray]:
        return [clip.waveform for clip in clips]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ramp of 5 s, in which every sample tells its place, stems of 2 s and one of 1 s, near silence, and clipping."""
    root = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    write(root / "ramp.wav", ramp(5 * RATE))
    for name in ("drums", "bass"):
        write(root / f"{name}.flac", 0.2 * rng.standard_normal(2 * RATE))
    write(root / "short.flac", 0.2 * rng.standard_normal(RATE))
    write(root / "quiet.wav", np.concatenate([0.1 * rng.standard_normal(RATE), 0.001 * rng.standard_normal(RATE)]))
    write(root / "clipped.wav", np.clip(0.8 * rng.standard_normal(RATE), -1, 1))
    return root


def ramp(samples: int) -> np.ndarray:
    return 0.5 - np.arange(samples) / 2**18


def write(path: Path, waveform: np.ndarray) -> None:
    soundfile.write(path, waveform.astype(np.float32), RATE, subtype="FLOAT" if path.suffix == ".wav" else "PCM_24")


def recipe(root: Path, **changes: object) -> Recipe:
    return replace(Recipe(root, labels={}, events={}, features=(Waveform(),)), **changes)  # type: ignore[arg-type]


def made(root: Path, recording: Recording, rule: SpanRule, **changes: object) -> list[Example | Rejected]:
    return [*map(ExampleMaker(recipe(root, **changes)), spans([recording], rule))]


@pytest.mark.parametrize("rule", [SpanRule(1.0), SpanRule(2.0, 0.5), SpanRule(1.3, 1.7, last="keep")])
def test_a_span_is_exactly_its_samples_and_its_key_names_the_first(root: Path, rule: SpanRule):
    for example in made(root, Recording("ramp", "ramp.wav", "train", {}, 5.0), rule):
        first, last = (round(RATE * end) for end in (example.start_seconds, example.start_seconds + example.seconds))
        assert example.key == f"ramp@{first}"
        np.testing.assert_allclose(example.arrays["waveform"][0], ramp(5 * RATE)[first:last], atol=1e-6)
        assert example.source_digest == xxhash.xxh3_128_hexdigest((root / "ramp.wav").read_bytes())


def test_without_a_rule_the_example_is_the_recording_and_its_key_the_recordings_id(root: Path):
    (example,) = made(root, Recording("ramp", "ramp.wav", "train"), SpanRule())
    assert (example.key, example.start_seconds, example.seconds) == ("ramp", 0.0, 5.0)


@pytest.mark.parametrize("rule", [SpanRule(), SpanRule(1.0)])
def test_a_segment_is_cut_out_of_a_longer_source_and_is_the_whole_of_one_as_long(root: Path, rule: SpanRule):
    video = Recording("v", "ramp.wav", "train", {}, 2.0, segment=(1.5, 3.5))
    first = made(root, video, rule)[0]
    assert first.arrays["waveform"][0, 0] == pytest.approx(ramp(5 * RATE)[round(1.5 * RATE)], abs=1e-6)
    assert first.seconds == (rule.span_seconds or 2.0) and first.start_seconds == 0.0
    cut_already = replace(video, segment=(30.0, 34.5), seconds=5.0)
    first = made(root, cut_already, rule)[0]
    assert first.arrays["waveform"][0, 0] == pytest.approx(0.5, abs=1e-6)


def test_a_segment_behind_the_end_of_its_source_is_rejected(root: Path):
    (rejected,) = made(root, Recording("v", "ramp.wav", "train", {}, 2.0, segment=(4.0, 6.0)), SpanRule())
    assert rejected.stage == "decode" and "declares only 80,000" in rejected.reason


def test_parts_are_averaged(root: Path):
    stems = ("drums.flac", "bass.flac")
    (example,) = made(root, Recording("s", stems[0], "train", {}, 2.0, parts=stems), SpanRule())
    mean = np.mean([soundfile.read(root / stem)[0] for stem in stems], axis=0)
    np.testing.assert_allclose(example.arrays["waveform"][0], mean, atol=1e-6)


def test_parts_of_different_lengths_are_rejected(root: Path):
    stems = ("drums.flac", "short.flac")
    (rejected,) = made(root, Recording("s", stems[0], "train", parts=stems), SpanRule())
    assert "its parts have different lengths or rates: 2.000 s at 16,000 Hz and 1.000 s" in rejected.reason


def test_a_span_below_the_silence_gate_is_rejected_and_only_it(root: Path):
    recording = Recording("q", "quiet.wav", "train", {}, 2.0)
    loud, quiet = made(root, recording, SpanRule(1.0), silence_db=-40.0)
    assert isinstance(loud, Example) and quiet.reason == "it is quieter than -40 dB of full scale"
    assert all(isinstance(outcome, Example) for outcome in made(root, recording, SpanRule(1.0), silence_db=-70.0))


def test_clipping_is_noticed(root: Path):
    (example,) = made(root, Recording("c", "clipped.wav", "train"), SpanRule())
    waveform, _ = soundfile.read(root / "clipped.wav")
    assert example.clipped_share == pytest.approx((np.abs(waveform) == 1).mean()) and example.clipped_share > 0.1


def test_what_cannot_be_read_is_rejected_with_its_reason(root: Path):
    def reason(**changes: object) -> tuple[str, str]:
        (rejected,) = made(root, replace(Recording("x", "ramp.wav", "train"), **changes), SpanRule())
        return rejected.stage, rejected.reason

    assert reason(path="absent.wav") == ("read", "No such file or directory")
    assert reason(path="../secret.wav") == ("read", "its path leads out of the corpus folder")
    assert reason(problem="no pitch") == ("listing", "no pitch")
    assert reason(parts=("ramp.wav", "absent.wav")) == ("read", "No such file or directory")


def test_a_last_piece_that_is_too_short_for_the_feature_costs_itself_only(root: Path):
    recording = Recording("ramp", "ramp.wav", "train", {}, 5.0)
    *kept, rejected = made(root, recording, SpanRule(2.49, last="keep"), features=(MYNA,))
    assert [example.key for example in kept] == ["ramp@0", "ramp@39840"]
    assert (rejected.stage, rejected.reason.partition(":")[0]) == ("feature", "it is too short for a mel")


EVENTS = st.lists(
    st.tuples(st.floats(0, 10), st.floats(0, 3) | st.just(0.0), st.integers(0, 127)).map(
        lambda drawn: (drawn[0], drawn[0] + drawn[1], drawn[2])
    ),
    max_size=12,
).map(tuple)


@given(events=EVENTS, start=st.floats(0, 4), seconds=st.floats(0.1, 1))
def test_events_are_cut_to_the_span_and_relative_to_it(root: Path, events: tuple, start: float, seconds: float):
    span = Span(0, Recording("ramp", "ramp.wav", "train", events={"notes": events}), start, seconds, True)
    example = ExampleMaker(recipe(root))(span)
    found = example.events["notes"]
    end = start + example.seconds
    overlapping = [event for event in events if (start <= event[0] < end) or (event[0] < start and event[1] > start)]
    assert sorted(value for _, _, value in found) == sorted(value for _, _, value in overlapping)
    assert all(0 <= begin <= stop <= example.seconds + 1e-9 for begin, stop, _ in found)
    assert [event[0] for event in found] == sorted(event[0] for event in found)
    inside = {event for event in events if event[0] >= start and event[1] <= end and event[0] < end}
    assert {(round(begin + start, 9), round(stop + start, 9), value) for begin, stop, value in found} >= {
        (round(begin, 9), round(stop, 9), value) for begin, stop, value in inside
    }


def test_spans_that_are_joined_are_the_recording(root: Path):
    pieces = made(root, Recording("ramp", "ramp.wav", "train", {}, 5.0), SpanRule(0.7, last="keep"))
    joined = np.concatenate([piece.arrays["waveform"][0] for piece in pieces])
    np.testing.assert_array_equal(joined, soundfile.read(root / "ramp.wav", dtype="float32")[0])


@dataclass(frozen=True)
class Enormous(Waveform):
    """A feature that asks for more memory than any machine has."""

    def __call__(self, clips: Sequence[Clip]) -> list[np.ndarray]:
        return [np.empty(1 << 60, np.float32)]


def test_a_recording_that_needs_too_much_memory_costs_itself_only_and_names_the_remedy(root: Path):
    maker = ExampleMaker(recipe(root, features=(Enormous(),)))
    (lost,) = (maker(span) for span in spans([Recording("ramp", "ramp.wav", "train")]))
    assert isinstance(lost, Rejected) and lost.stage == "feature"
    assert "more memory than there is" in lost.reason and "--span-seconds" in lost.reason
