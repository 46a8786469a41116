"""The NSynth layout: genuine notes and broken ones read, rendered corpora written and read back."""

import json
import os
import re
import shutil
import wave
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.corpora.nsynth import LABELS, MARKER, Corpus, add, finish, is_rendered, planned, render_piece
from pipelines.music.layouts.nsynth import FAMILIES, QUALITIES, SECONDS, SOURCES, planned_notes
from pipelines.music.synthesis import SOUNDFONT
from pipelines.recording import Recording
from shards.problem import DataProblem, UsageProblem

GENUINE = Path(__file__).parent / "data" / "nsynth"
NAME = "guitar_acoustic_014-060-050"
TEXT = st.text(st.characters(exclude_categories=()), max_size=40)  # with lone surrogates, which JSON can hold
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=5,
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A copy of the genuine notes, to be spoilt."""
    return Path(shutil.copytree(GENUINE, tmp_path / "nsynth"))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest corpus that can be rendered: a note for each family and split."""
    root = tmp_path_factory.mktemp("small") / "nsynth"
    assert render(root) == 2
    return root


def render(root: Path) -> int:
    """Render what is missing of the smallest corpus; returns in how many pieces."""
    pieces = planned(size={"notes": 33}, seed=7)
    missing = [piece for piece in pieces if not is_rendered(root, piece)]
    for piece in reversed(missing):
        render_piece(root, piece, SOUNDFONT)
    finish(root, pieces)
    return len(missing)


def recordings(root: Path) -> list[Recording]:
    return list(Corpus(root).recordings())


def entries(root: Path, split: str = "test") -> dict[str, dict]:
    return json.loads((root / f"nsynth-{split}" / "examples.json").read_bytes())


def rewrite(root: Path, changed: dict, split: str = "test") -> None:
    (root / f"nsynth-{split}" / "examples.json").write_text(json.dumps(changed))


def change(root: Path, **fields: object) -> None:
    rewrite(root, {**entries(root), NAME: {**entries(root)[NAME], **fields}})


def tree(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def named(root: Path, recording_id: str) -> Recording:
    return next(recording for recording in recordings(root) if recording.recording_id == recording_id)


# Reading


def test_genuine_notes_are_listed_with_every_published_field_as_a_label():
    listed = {recording.recording_id: recording for recording in recordings(GENUINE)}
    assert list(listed) == sorted(entries(GENUINE))
    for name, entry in entries(GENUINE).items():
        recording = listed[name]
        assert (recording.problem, recording.split, recording.seconds) == ("", "test", 4.0)
        assert (GENUINE / recording.path).is_file()
        assert recording.labels == {k: tuple(v) if isinstance(v, list) else v for k, v in entry.items()}
        assert list(recording.labels) == list(LABELS)


def test_classes_are_the_official_names_in_their_official_order():
    for entry in entries(GENUINE).values():
        assert FAMILIES[entry["instrument_family"]] == entry["instrument_family_str"]
        assert SOURCES[entry["instrument_source"]] == entry["instrument_source_str"]
        assert [QUALITIES[n] for n, flag in enumerate(entry["qualities"]) if flag] == entry["qualities_str"]


@pytest.mark.parametrize(
    "fields, reason",
    [
        ({"pitch": "60"}, 'its pitch is "60", not int'),
        ({"pitch": 60.0}, "its pitch is 60.0, not int"),
        ({"velocity": True}, "its velocity is true, not int"),
        ({"pitch": None}, "its pitch is null, not int"),
        ({"note": 2**70}, "its note is 1180591620717411303424, not int"),
        ({"qualities": "none"}, "its qualities is .*, not list"),
        ({"qualities": [0.5] * 10}, "its qualities is .*, not list"),
        ({"qualities": [0] * 9}, "not ten numbers 0 or 1"),
        ({"qualities": [0] * 9 + [2]}, "not ten numbers 0 or 1"),
        ({"qualities_str": ["dark"]}, "its qualities_str do not name its qualities"),
        ({"pitch": 128}, r"its pitch is 128, not in 0\.\.127"),
        ({"pitch": -1}, r"its pitch is -1, not in 0\.\.127"),
        ({"velocity": 999}, r"its velocity is 999, not in 0\.\.127"),
        ({"sample_rate": 44_100}, "its sample_rate is 44100, not 16000"),
        ({"instrument_family": 4}, "its instrument_family is not the number of its instrument_family_str"),
        ({"instrument_family": 11}, "its instrument_family is not the number"),
        ({"instrument_family": 4, "instrument_family_str": "keyboard"}, "does not begin with keyboard_acoustic"),
        ({"instrument_source": 1}, "its instrument_source is not the number of its instrument_source_str"),
        ({"instrument_str": "guitar_acoustic_015"}, "its name is not that of its instrument, pitch and velocity"),
        ({"pitch": 61}, "its name is not that of its instrument, pitch and velocity"),
        ({"note_str": "guitar_acoustic_014-060-051"}, "its note_str is 'guitar_acoustic_014-060-051'"),
    ],
)
def test_a_bad_entry_keeps_its_place_with_its_reason_and_moves_no_other(root: Path, fields: dict, reason: str):
    before = recordings(root)
    change(root, **fields)
    after = recordings(root)
    place = [recording.recording_id for recording in before].index(NAME)
    assert re.search(reason, after[place].problem), after[place].problem
    assert after[place].recording_id == NAME
    assert after[:place] + after[place + 1 :] == before[:place] + before[place + 1 :]


@pytest.mark.parametrize("field", LABELS)
def test_an_entry_without_one_of_its_fields_is_named_with_that_field(root: Path, field: str):
    changed = entries(root)
    del changed[NAME][field]
    rewrite(root, changed)
    assert named(root, NAME).problem == f"it has no {field}: '{NAME}'"


@pytest.mark.parametrize("entry", [None, 3, "note", [1, 2]])
def test_an_entry_that_is_no_table_keeps_its_place(root: Path, entry: object):
    rewrite(root, {**entries(root), NAME: entry})
    assert named(root, NAME).problem == f"its entry is no table of fields: '{NAME}'"


@pytest.mark.parametrize(
    "name", ["", "..", "../../secret", "/etc/passwd", "a/b", "a.b", "ünï-060-050", "\ud800", "x" * 5_000, "\n"]
)
def test_an_unsafe_name_becomes_a_safe_id_and_names_no_file(root: Path, name: str):
    rewrite(root, {**entries(root), name: entries(root)[NAME]})
    (bad,) = [recording for recording in recordings(root) if recording.problem]
    assert "its name is not FAMILY_SOURCE_NNN-PITCH-VELOCITY" in bad.problem
    assert bad.path == "nsynth-test/examples.json"
    assert bad.recording_id.replace("-", "").replace("_", "").isalnum() and bad.recording_id.isascii()
    assert len(bad.recording_id) <= 100


@given(name=TEXT | st.just(NAME), field=st.sampled_from([None, *LABELS]), value=JSON)
@settings(max_examples=150)
def test_whatever_an_entry_holds_the_listing_has_each_note_once(tmp_path: Path, name: str, field: str, value: object):
    changed = entries(GENUINE)
    changed[name] = {**changed[NAME], field: value} if field else value
    (tmp_path / "nsynth-test").mkdir(exist_ok=True)
    rewrite(tmp_path, changed)
    listed = recordings(tmp_path)
    assert len({recording.recording_id for recording in listed}) == len(listed) == len(changed)
    for recording in listed:
        assert recording.problem or set(recording.labels) == set(LABELS)
        json.dumps(asdict(recording), ensure_ascii=False).encode()


@pytest.mark.parametrize(
    "content, cause",
    [
        (b"", "Expecting value"),
        (b"{", "Expecting property name"),
        (b"[]", "no table of notes"),
        (b"{}", "no table of notes"),
        (b"\x80{}", "decode"),
        (b"[" * 100_000, "recursion"),
        (b'{"guitar": {}, "guitar": {}}', "it lists guitar twice"),
    ],
)
def test_a_broken_examples_json_is_one_readable_error(root: Path, content: bytes, cause: str):
    (root / "nsynth-test" / "examples.json").write_bytes(content)
    with pytest.raises(
        DataProblem, match=f"examples.json cannot be read: .*{cause}.*have no labels.*examples.json there"
    ):
        recordings(root)


def test_a_split_without_examples_json_is_an_error(root: Path):
    (root / "nsynth-test" / "examples.json").unlink()
    with pytest.raises(DataProblem, match="nsynth-test/examples.json cannot be read: .*No such file"):
        recordings(root)


@pytest.mark.parametrize("folder", ["absent", "."])
def test_a_folder_without_any_split_is_an_error_that_names_the_remedy(tmp_path: Path, folder: str):
    with pytest.raises(DataProblem, match="holds none of nsynth-train.*sonograph render nsynth --out"):
        recordings(tmp_path / folder)


def test_a_wav_that_examples_json_does_not_list_is_listed_with_that_problem(root: Path):
    changed = entries(root)
    del changed[NAME]
    rewrite(root, changed)
    (root / "nsynth-test/audio/stray note.wav").write_bytes(b"")
    (root / os.fsdecode(b"nsynth-test/audio/\xff.wav")).write_bytes(b"")
    problems = {recording.path: recording.problem for recording in recordings(root) if recording.problem}
    strays = (NAME, "stray note", r"\udcff")
    assert set(problems) == {f"nsynth-test/audio/{stray}.wav" for stray in strays}
    assert set(problems.values()) == {"examples.json does not list it, so that it has no labels"}


@pytest.mark.parametrize("other", ["valid", "test"])
def test_a_train_note_of_an_instrument_that_is_in_valid_or_test_is_refused(tmp_path: Path, other: str):
    genuine = entries(GENUINE)
    brass = {name: entry for name, entry in genuine.items() if entry["instrument_str"] == "brass_acoustic_016"}
    for split, listed in ((other, dict([brass.popitem()])), ("train", {**brass, NAME: genuine[NAME]})):
        (tmp_path / f"nsynth-{split}").mkdir()
        rewrite(tmp_path, listed, split)
    refused = {recording.recording_id for recording in recordings(tmp_path) if recording.problem}
    assert refused == brass.keys()
    assert "its instrument is also in valid or test" in named(tmp_path, next(iter(brass))).problem


def test_one_name_in_two_splits_is_kept_once_and_every_id_is_unique(root: Path):
    shutil.copytree(root / "nsynth-test", root / "nsynth-valid")
    listed = recordings(root)
    assert Counter((recording.split, bool(recording.problem)) for recording in listed) == {
        ("test", False): 16,
        ("valid", True): 16,
    }
    assert len({recording.recording_id for recording in listed}) == 32


# Rendering


def test_a_rendered_corpus_is_read_back_as_it_was_planned(small: Path):
    planned = {note.name: note for note in planned_notes(33, 7)}
    listed = recordings(small)
    assert [(recording.split, recording.recording_id) for recording in listed] == sorted(
        (note.split, name) for name, note in planned.items()
    )
    for recording in listed:
        assert recording.problem == ""
        entry = planned[recording.recording_id].entry
        assert recording.labels == {k: tuple(v) if isinstance(v, list) else v for k, v in entry.items()}


def test_rendered_notes_are_wavs_of_the_published_form_and_level(small: Path):
    for recording in recordings(small):
        with wave.open(str(small / recording.path)) as file:
            assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (16_000, 1, 2)
            assert file.getnframes() == 64_000 == SECONDS * 16_000
            samples = np.frombuffer(file.readframes(64_000), "<i2")
        assert np.abs(samples.astype(int)).max() == pytest.approx(0.95 * 32_767, abs=1)


def test_rendered_notes_can_not_be_taken_for_published_ones(small: Path):
    labels = [recording.labels for recording in recordings(small)]
    assert min(label["note"] for label in labels) >= 500_000
    assert min(label["instrument"] for label in labels) >= 3_000
    assert min(int(label["instrument_str"][-3:]) for label in labels) >= 500


def test_the_same_seed_gives_the_same_bytes_and_only_what_is_missing_is_made(small: Path, tmp_path: Path):
    root = Path(shutil.copytree(small, tmp_path / "nsynth"))
    gone = sorted((root / "nsynth-train/audio").iterdir())[3:7]
    kept = sorted((root / "nsynth-train/audio").iterdir())[0]
    written_ns = kept.stat().st_mtime_ns
    for path in [*gone, root / "nsynth-train/examples.json"]:
        path.unlink()
    assert render(root) == 1
    assert render(root) == 0
    assert tree(root) == tree(small)
    assert kept.stat().st_mtime_ns == written_ns


def test_a_corpus_whose_rendering_was_interrupted_is_not_read(small: Path, tmp_path: Path):
    root = Path(shutil.copytree(small, tmp_path / "nsynth"))
    (root / "nsynth-valid/examples.json").unlink()
    (root / MARKER).write_text("{}")
    with pytest.raises(DataProblem, match=f"was interrupted: nsynth-valid .* Repeat the command .*{MARKER}"):
        recordings(root)


# Adding published notes


def test_published_notes_join_a_rendered_corpus_unchanged_and_once(small: Path, tmp_path: Path):
    root = Path(shutil.copytree(small, tmp_path / "nsynth"))
    assert add(root, GENUINE) == 16
    once = tree(root)
    assert add(root, GENUINE) == 16
    assert tree(root) == once
    assert {name: once[f"nsynth-test/audio/{name}.wav"] for name in entries(GENUINE)} == {
        name: (GENUINE / f"nsynth-test/audio/{name}.wav").read_bytes() for name in entries(GENUINE)
    }
    assert entries(root) == {**entries(small), **entries(GENUINE)}
    assert [recording.problem for recording in recordings(root)] == [""] * 49
    assert render(root) == 0
    assert tree(root) == once


def test_published_notes_that_are_not_whole_are_left_out_and_logged(
    small: Path, root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    target = Path(shutil.copytree(small, tmp_path / "target"))
    partial = entries(root)
    del partial[NAME]["note"]
    rewrite(root, partial)
    (root / "nsynth-test/audio/reed_acoustic_011-060-050.wav").unlink()
    (root / "nsynth-test-partial").mkdir()
    assert add(target, root) == 14
    assert not {NAME, "reed_acoustic_011-060-050"} & entries(target).keys()
    for words in ("it has no note", "No such file", "nsynth-test-partial, which is no split"):
        assert words in caplog.text


@pytest.mark.parametrize("what", ["wav", "entry"])
def test_a_name_that_stands_for_two_notes_is_refused_before_anything_is_copied(
    small: Path, root: Path, tmp_path: Path, what: str
):
    target = Path(shutil.copytree(small, tmp_path / "target"))
    add(target, GENUINE)
    before = tree(target)
    if what == "wav":
        (root / f"nsynth-test/audio/{NAME}.wav").write_bytes(b"another")
    else:
        change(root, note=1)
    with pytest.raises(DataProblem, match=f"{NAME} is another note in .* than in "):
        add(target, root)
    assert tree(target) == before


def test_a_rendered_corpus_is_not_added_as_published_notes(small: Path, tmp_path: Path):
    other = Path(shutil.copytree(small, tmp_path / "other"))
    (other / MARKER).write_text("{}")
    with pytest.raises(UsageProblem, match="is itself rendered"):
        add(small, other)
