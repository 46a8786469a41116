"""Slakh2100 as it is published, damaged and rendered: a genuine track's metadata and MIDI, with sound of our own."""

import io
import json
import logging
import math
import re
import shutil
from collections import Counter
from collections.abc import Mapping
from functools import cache
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipelines.corpora.slakh import Corpus
from pipelines.corpus import Corpus as AnyCorpus
from pipelines.recording import Recording
from shards.decode import decode
from shards.example import Clip
from shards.problem import DataProblem, UsageProblem

GENUINE = Path(__file__).parent / "data" / "slakh" / "Track00001"
SHARED = Path(__file__).parents[2] / "shared" / "data" / "slakh"
RATE_HZ, SECONDS = 8_000, 12.0
STEMS = ("S00", "S01", "S02", "S03", "S04", "S05", "S07", "S08", "S09", "S10")  # S06 was not rendered


def tone(number: int, seconds: float = SECONDS) -> np.ndarray:
    return (0.05 * np.sin(np.arange(round(seconds * RATE_HZ)) * (0.1 + 0.05 * number))).astype(np.float32)


def write_track(folder: Path, *, suffix: str = "flac", metadata: Mapping[str, object] | None = None) -> Path:
    """A copy of the genuine track with a tone for each stem; `metadata` replaces some of its fields."""
    shutil.copytree(GENUINE, folder)
    content = yaml.safe_load((folder / "metadata.yaml").read_bytes())
    content |= {"UUID": folder.name, "audio_dir": f"{folder.name}/stems"} | (metadata or {})
    (folder / "metadata.yaml").write_text(yaml.safe_dump(content))
    (folder / "stems").mkdir()
    for name, content in sounds(suffix).items():
        (folder / name).write_bytes(content)
    return folder


@cache
def sounds(suffix: str) -> dict[str, bytes]:
    """The mix and a tone for each stem, by their place in a track."""
    waves = {f"stems/{name}.{suffix}": tone(number) for number, name in enumerate(STEMS)}
    waves[f"mix.{suffix}"] = np.sum(list(waves.values()), axis=0)
    return {name: encoded(wave, suffix) for name, wave in waves.items()}


def encoded(wave: np.ndarray, suffix: str) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, RATE_HZ, format=suffix)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def genuine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of the one track, which no test may change."""
    root = tmp_path_factory.mktemp("slakh")
    write_track(root / "train" / "Track00001")
    return root


def listed(root: Path, **options: object) -> dict[str, Recording]:
    return {recording.recording_id: recording for recording in Corpus(root, **options).recordings()}


def test_a_track_is_its_mix_and_one_recording_for_each_class_of_one_group_and_length(genuine: Path):
    found = listed(genuine)
    assert isinstance(Corpus(genuine), AnyCorpus)
    assert [name.removeprefix("Track00001_") for name in found] == (
        ["mix", "piano", "organ", "guitar", "bass", "strings_continued", "drums"]
    )
    assert {(r.group, r.split, r.seconds, r.problem) for r in found.values()} == {("Track00001", "train", SECONDS, "")}
    assert found["Track00001_mix"].path == "train/Track00001/mix.flac"
    guitar = found["Track00001_guitar"]
    assert guitar.parts == tuple(f"train/Track00001/stems/{name}.flac" for name in ("S00", "S07", "S08"))
    assert guitar.path == guitar.parts[0]
    assert found["Track00001_bass"].parts == ()


def test_labels_name_track_kind_classes_programs_and_plugins(genuine: Path):
    corpus, found = Corpus(genuine), listed(genuine)
    classes = corpus.labels()["inst_class"]["classes"]
    assert isinstance(classes, list)
    labels = found["Track00001_drums"].labels
    assert [word for word, is_heard in zip(classes, labels["inst_class"], strict=True) if is_heard] == ["drums"]
    assert (labels["track"], labels["kind"], labels["stems"], labels["has_midi"]) == (
        "Track00001",
        "drums",
        ("S01",),
        1,
    )
    assert (labels["programs"], labels["plugins"]) == ((128,), ("session_kit_full.nkm",))
    assert sum(found["Track00001_mix"].labels["inst_class"]) == 6
    assert found["Track00001_mix"].labels["stems"] == STEMS
    assert {*labels} | {*corpus.measure(Clip(tone(0)[None], RATE_HZ))} == {*corpus.labels()}


def test_the_original_wav_layout_lists_the_same(genuine: Path, tmp_path: Path):
    write_track(tmp_path / "train" / "Track00001", suffix="wav")
    for name, recording in listed(tmp_path).items():
        flac = listed(genuine)[name]
        assert recording.path == flac.path.replace(".flac", ".wav")
        assert (recording.labels, recording.seconds) == (flac.labels, flac.seconds)


def test_a_folder_of_a_split_decides_it_else_the_number_that_the_track_had_in_it(tmp_path: Path):
    for place in ("test/Track00003", "validation/Track00004", "Track01500", "Track01501", "Track01876", "Track50001"):
        write_track(tmp_path / place)
    splits = {name.removesuffix("_mix"): r.split for name, r in listed(tmp_path).items() if name.endswith("_mix")}
    assert splits == {
        "Track00003": "test",
        "Track00004": "valid",
        "Track01500": "train",
        "Track01501": "valid",
        "Track01876": "test",
        "Track50001": "train",
    }


def write_list(root: Path, *omitted: str) -> None:
    """The form of the published list."""
    names = [f"Track{number:05d}" for number in range(1, 2101)]
    actions = {
        name: {"action": "omit", "source_split": "train"} if name in omitted else {"action": None} for name in names
    }
    (root / "redux.json").write_text(json.dumps(actions, indent=4))


def test_tracks_that_redux_omits_are_left_out_unless_asked_for(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    for place in ("train/Track00048", "train/Track00049", "omitted/Track01506", "omitted/Track02098"):
        write_track(tmp_path / place)
    write_list(tmp_path, "Track00049", "Track01506")
    with caplog.at_level(logging.INFO):
        assert {r.group for r in listed(tmp_path).values()} == {"Track00048"}
    assert "4 tracks  left out 2 in omitted/, 1 that redux.json omits  recordings train 7" in caplog.text
    kept = {(r.group, r.split) for r in listed(tmp_path, omitted=True).values()}
    assert kept == {("Track00048", "train"), ("Track00049", "train"), ("Track01506", "valid"), ("Track02098", "test")}


@pytest.mark.parametrize("text", ["[1, 2]", "{", '{"Track00001": null}', '{"Track00001": {}}', "\udcff"])
def test_a_list_that_is_not_the_published_one_is_refused(tmp_path: Path, text: str):
    write_track(tmp_path / "train" / "Track00048")
    (tmp_path / "redux.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(DataProblem, match=r"redux.json is not the published list.*Put the original there"):
        listed(tmp_path)


def test_of_tracks_that_play_one_midi_file_the_lowest_number_is_kept_whatever_its_split(tmp_path: Path):
    for place in ("train/Track01502", "test/Track00002", "validation/Track01503"):
        write_track(tmp_path / place, metadata={"UUID": "one and the same"})
    assert {r.group for r in listed(tmp_path).values()} == {"Track00002"}
    assert len({r.group for r in listed(tmp_path, omitted=True).values()}) == 3


def test_when_filters_leave_nothing_the_error_says_which_took_how_many(tmp_path: Path):
    for place in ("omitted/Track00077", "train/Track00049"):
        write_track(tmp_path / place)
    write_list(tmp_path, "Track00049")
    with pytest.raises(
        DataProblem, match=r"None of the 2 tracks .* 1 in omitted/, 1 that redux.json omits[.] .*Pass --omitted"
    ):
        listed(tmp_path)


def test_a_wrong_folder_is_a_data_problem_that_names_the_right_one(tmp_path: Path):
    write_track(tmp_path / "slakh" / "train" / "Track00001")
    with pytest.raises(DataProblem, match=f"holds no TrackNNNNN folder.*{tmp_path / 'slakh'} does"):
        listed(tmp_path)
    with pytest.raises(DataProblem, match="sonograph render slakh"):
        listed(tmp_path / "absent")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A track to be damaged."""
    return write_track(tmp_path / "train" / "Track00001")


def problems(copy: Path) -> dict[str, str]:
    found = listed(copy.parents[1]).values()
    return {r.recording_id.removeprefix("Track00001_"): r.problem for r in found if r.problem}


def test_a_half_downloaded_track_keeps_the_classes_whose_stems_are_all_there(copy: Path):
    (copy / "stems" / "S07.flac").unlink()
    (copy / "stems" / "S01.flac").write_bytes(b"fLaC")
    found = problems(copy)
    assert found.keys() == {"guitar", "drums"}
    assert found["guitar"] == "stems/S07.flac is missing"
    assert found["drums"].startswith("stems/S01.flac cannot be decoded: ")
    (copy / "mix.flac").unlink()
    assert problems(copy)["mix"] == "mix.flac is missing"


def test_a_stem_of_another_length_is_rejected_with_both_lengths(copy: Path):
    (copy / "stems" / "S03.flac").write_bytes(encoded(tone(3, SECONDS - 0.5), "flac"))
    assert problems(copy) == {
        "bass": "stems/S03.flac lasts 11.500000 s where the other files of its track last 12.000000 s"
    }


HOSTILE: dict[str, tuple[str | bytes | Mapping[str, object], str]] = {
    "absolute": ({"audio_dir": "/etc"}, "its audio_dir is '/etc', which leaves the track"),
    "parent": ({"audio_dir": "Track00001/../../other"}, "leaves the track"),
    "backslash": ({"midi_dir": "..\\other"}, "its midi_dir is .* leaves the track"),
    "stem that is a path": ({"stems": {"../S00": {"inst_class": "Bass", "program_num": 1}}}, "is not SNN"),
    "unknown class": ({"stems": {"S00": {"inst_class": "Kazoo", "program_num": 1}}}, "class 'Kazoo'"),
    "unknown program": ({"stems": {"S00": {"inst_class": "Bass", "program_num": 129}}}, "program 129"),
    "no stems": ({"stems": {}}, "lists no stems"),
    "no table": ("- a list", "no table of fields"),
    "no YAML": ("stems: {S00: [", "expected"),
    "a tag of Python": ("UUID: !!python/object/apply:os.system ['touch owned']", "could not determine a constructor"),
    "an alias": ("a: &a [1, 2]\nb: &b [*a, *a]\nc: [*b, *b]", "aliases"),
    "another encoding": ("UUID: Dvořák".encode("iso-8859-2"), "invalid"),
    "an abyss": ("[" * 5_000, "recursion"),
    "a flood": (b"#" * (1 << 16) + b"\n", "65,537 bytes"),
}


@pytest.mark.parametrize("content, reason", HOSTILE.values(), ids=HOSTILE.keys())
def test_metadata_that_cannot_be_used_costs_its_track_and_no_other(content, reason, copy: Path, genuine: Path):
    shutil.copytree(genuine / "train" / "Track00001", copy.parent / "Track00002")
    path = copy / "metadata.yaml"
    if isinstance(content, Mapping):
        content = yaml.safe_dump(yaml.safe_load(path.read_bytes()) | content)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    bad, *good = Corpus(copy.parents[1], omitted=True).recordings()
    assert (bad.path, bad.group, dict(bad.labels)) == ("train/Track00001/metadata.yaml", "Track00001", {})
    assert re.search(reason, bad.problem)
    assert {r.group for r in good} == {"Track00002"}
    assert not list(copy.parents[1].rglob("owned"))


def test_a_track_without_metadata_or_in_two_splits_keeps_its_place_with_a_problem(copy: Path):
    shutil.copytree(copy, copy.parents[1] / "test" / "Track00001")
    assert [r.problem for r in listed(copy.parents[1]).values() if r.split == "train"] == (
        ["the track is in test/Track00001 as well"]
    )
    (copy.parents[1] / "test" / "Track00001" / "metadata.yaml").unlink()
    problem = next(iter(listed(copy.parents[1]).values())).problem
    assert problem == "its metadata.yaml cannot be read: No such file or directory"


def annotated(root: Path, kind: str) -> Recording:
    return Corpus(root).annotated(listed(root)[f"Track00001_{kind}"])


def test_events_are_the_midi_of_the_stems_cut_to_the_sound(genuine: Path):
    events = {kind: annotated(genuine, kind).events for kind in ("mix", "guitar", "drums")}
    assert {*events["mix"]} == {*Corpus(genuine).events()}
    for name in ("notes", "drums", "beats", "chords_derived"):
        assert all(0 <= start <= end <= SECONDS for start, end, _ in events["mix"][name])
    assert events["drums"]["notes"] == events["guitar"]["drums"] == ()
    assert events["mix"]["drums"] == events["drums"]["drums"] != ()
    assert set(events["guitar"]["notes"]) < set(events["mix"]["notes"])
    assert events["drums"]["drums"][0][2] in range(35, 82)
    onsets = Counter(start for start, _, _ in chain(events["mix"]["notes"], events["mix"]["drums"]))
    assert {start: value for start, _, value in events["mix"]["onsets"]} == onsets


def test_beats_tempo_and_chords_are_those_of_the_whole_track(genuine: Path):
    events = annotated(genuine, "drums").events
    assert [value for *_, value in events["beats"]][:5] == [1, 2, 3, 4, 1]
    assert [start for start, *_ in events["downbeats"]] == [start for start, _, beat in events["beats"] if beat == 1]
    assert events["tempos"] == ((0.0, SECONDS, pytest.approx(80.01, abs=0.001)),)
    assert events["chords_derived"] == annotated(genuine, "mix").events["chords_derived"]
    assert events["chords_derived"][0] == (pytest.approx(3.0, abs=0.001), pytest.approx(5.249, abs=0.001), "D:min")


def test_midi_that_cannot_be_read_rejects_what_it_belongs_to_and_nothing_else(copy: Path):
    (copy / "MIDI" / "S08.mid").write_bytes((copy / "MIDI" / "S08.mid").read_bytes()[:-9])
    for kind in ("guitar", "mix"):
        assert annotated(copy.parents[1], kind).problem == "MIDI/S08.mid cannot be read: it is truncated"
    bass = annotated(copy.parents[1], "bass")
    assert (bass.problem, bass.events["chords_derived"]) == ("", ())
    assert bass.events["notes"] and bass.events["beats"]


def test_midi_that_goes_after_the_listing_is_a_problem_too(copy: Path):
    recording = listed(copy.parents[1])["Track00001_bass"]
    (copy / "MIDI" / "S03.mid").unlink()
    assert Corpus(copy.parents[1]).annotated(recording).problem == "the MIDI of S03 was there when it was listed"


def test_without_a_stem_s_midi_nobody_knows_its_notes_and_beats_come_from_elsewhere(copy: Path):
    (copy / "MIDI" / "S08.mid").unlink()
    guitar = annotated(copy.parents[1], "guitar")
    assert (guitar.labels["has_midi"], guitar.problem, guitar.events["notes"], guitar.events["onsets"]) == (
        0,
        "",
        (),
        (),
    )
    beats = guitar.events["beats"]
    (copy / "all_src.mid").write_bytes(b"")
    shutil.copytree(copy.parents[1], copy.parents[1] / "again", ignore=shutil.ignore_patterns("again"))
    assert annotated(copy.parents[1] / "again", "guitar").events["beats"] == beats


def test_a_mixture_is_the_mean_of_the_means_of_its_classes(genuine: Path):
    found = listed(genuine, mixtures=("drums+guitar", "drums+reed"))
    mixture = found["Track00001_drums-guitar"]
    assert "Track00001_drums-reed" not in found, "the track has no reed"
    assert (mixture.labels["kind"], mixture.labels["stems"]) == ("drums+guitar", ("S01", "S00", "S07", "S08"))
    assert (mixture.group, mixture.seconds) == ("Track00001", SECONDS)
    waves = [decode((genuine / part).read_bytes()).waveform for part in mixture.parts]
    drums, guitar = tone(1), np.mean([tone(0), tone(6), tone(7)], axis=0)
    assert np.mean(waves, axis=0)[0] == pytest.approx((drums + guitar) / 2, abs=1e-4)


@pytest.mark.parametrize(
    "words, hint", [("drums+bas", "Did you mean bass"), ("drums", "by [+]"), ("bass+bass", "by [+]")]
)
def test_a_mixture_of_unknown_or_too_few_classes_is_a_usage_problem(words: str, hint: str, genuine: Path):
    with pytest.raises(UsageProblem, match=hint):
        listed(genuine, mixtures=(words,))


@given(amplitude=st.floats(0.002, 1), active=st.integers(0, 20), channels=st.integers(1, 2))
def test_rms_and_activity_are_measured_from_the_example_itself(amplitude: float, active: int, channels: int):
    waveform = np.zeros((channels, 8_000), np.float32)
    waveform[:, : active * 400] = amplitude
    measured = Corpus(Path()).measure(Clip(waveform, RATE_HZ))
    assert measured == {"rms": pytest.approx(amplitude * math.sqrt(active / 20), rel=1e-5), "activity": active / 20}


@pytest.mark.skipif(not SHARED.is_dir(), reason="there is no shared test data here")
def test_the_stems_of_three_shared_tracks_have_the_rms_that_is_expected_of_them():
    expected = yaml.safe_load((SHARED / "expected.json").read_bytes())
    corpus = Corpus(SHARED)
    for recording in corpus.recordings():
        assert recording.problem == ""
        track = expected[recording.group]
        assert recording.seconds == pytest.approx(track["duration_s"])
        if recording.labels["kind"] != "mix":
            paths = recording.parts or (recording.path,)
            for path, stem in zip(paths, recording.labels["stems"], strict=True):
                rms = corpus.measure(decode((SHARED / path).read_bytes()))["rms"]
                assert rms == pytest.approx(track["stems"][stem]["rms"], abs=1e-6)
