"""What is listed: lengths asked once and again after a change, absent files, and what a corpus file gets wrong."""

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import soundfile

from pipelines import headers, listing
from pipelines.corpus import Kind
from pipelines.headers import JOURNAL, LISTING
from pipelines.listing import listed
from pipelines.presence import Presence
from pipelines.recording import Recording
from pipelines.source import Tree
from shards.manifest import read_table

RATE = 16_000


@dataclass(frozen=True)
class Given:
    """A corpus of given recordings."""

    root: Path
    given: tuple[Recording, ...]

    sample_rate_hz: ClassVar[int | None] = None

    def labels(self) -> Mapping[str, Kind]:
        return {"pitch": {"type": "int", "classes": None}, "tags": {"type": "list[str]", "classes": None}}

    def events(self) -> Mapping[str, Kind]:
        return {"beats": {"type": "int", "classes": None}}

    def recordings(self) -> Iterator[Recording]:
        yield from self.given


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three files of 1, 2 and 3 s, and one that is no audio."""
    root = tmp_path / "corpus"
    root.mkdir()
    for seconds in (1, 2, 3):
        soundfile.write(root / f"{seconds}.flac", np.full(seconds * RATE, 0.1), RATE)
    (root / "text.flac").write_text("no audio")
    return root


def ask(root: Path, *given: Recording, is_cut: bool = True) -> list[Recording]:
    return list(listed(Given(root, given), tree=Tree(root), kept=root.parent, workers=1, is_cut=is_cut))


def file(name: str, **fields: object) -> Recording:
    return replace(Recording(name.partition(".")[0], name, "train"), **fields)


def test_lengths_come_from_headers_unless_the_layout_states_them(root: Path):
    found = ask(root, file("1.flac"), file("2.flac", seconds=1.5), file("3.flac"))
    assert [one.seconds for one in found] == [1.0, 1.5, 3.0]
    (row, _) = read_table(root.parent / LISTING).to_pylist()
    assert (row["path"], row["seconds"], row["sample_rate_hz"], row["channels"]) == ("1.flac", 1.0, RATE, 1)
    status = (root / "1.flac").stat()
    assert (row["bytes"], row["mtime_ns"]) == (status.st_size, status.st_mtime_ns)


def test_where_nothing_is_cut_lengths_stay_open_and_broken_headers_are_found_all_the_same(root: Path):
    whole, broken = ask(root, file("1.flac"), file("text.flac"), is_cut=False)
    assert whole == file("1.flac")
    assert broken.problem and broken.seconds is None


def test_no_header_is_asked_twice_until_its_file_changes(root: Path, monkeypatch: pytest.MonkeyPatch):
    asked: list[str] = []
    probe = headers.probe
    monkeypatch.setattr(headers, "probe", lambda source: asked.append(source.name) or probe(source))
    recordings = [file(f"{seconds}.flac") for seconds in (1, 2, 3)] + [file("text.flac")]
    first = ask(root, *recordings)
    assert ask(root, *recordings) == first
    assert asked == ["1.flac", "2.flac", "3.flac", "text.flac"]
    soundfile.write(root / "2.flac", np.full(5 * RATE, 0.1), RATE)
    assert [one.seconds for one in ask(root, *recordings)] == [1.0, 5.0, 3.0, None]
    assert asked[4:] == ["2.flac"]
    (root.parent / LISTING).write_bytes(b"damaged")
    assert [one.seconds for one in ask(root, *recordings)] == [1.0, 5.0, 3.0, None]


def test_a_file_of_several_recordings_is_asked_once(root: Path, monkeypatch: pytest.MonkeyPatch):
    asked: list[str] = []
    probe = headers.probe
    monkeypatch.setattr(headers, "probe", lambda source: asked.append(source.name) or probe(source))
    ask(root, *(file("3.flac", recording_id=f"r{number}") for number in range(5)))
    assert asked == ["3.flac"]


def test_a_segment_gives_its_length_to_a_recording_whose_source_is_longer(root: Path):
    found = ask(
        root,
        file("3.flac", recording_id="video", segment=(1.0, 2.5)),
        file("2.flac", recording_id="cut", segment=(60.0, 62.0)),
    )
    assert [one.seconds for one in found] == [1.5, 2.0]


def test_absent_files_and_paths_that_lead_out_are_problems_and_keep_their_place(root: Path):
    found = ask(
        root,
        file("9.flac", labels={"pitch": 1}, seconds=4.0),
        file("1.flac"),
        file("a", path="../secret.flac"),
        file("b", path=str(root / "1.flac")),
        file("c", path="1.flac", parts=("1.flac", "absent.flac")),
    )
    assert [one.problem for one in found] == [
        "No such file",
        "",
        *["its path leads out of the corpus folder"] * 2,
        "No such file",
    ]
    assert found[0].labels == {}


@pytest.mark.parametrize("header", ["nan", "-1", "1e300"])
def test_an_absurd_length_is_a_problem(root: Path, header: str, monkeypatch: pytest.MonkeyPatch):
    probe = headers.probe
    monkeypatch.setattr(headers, "probe", lambda source: replace(probe(source), seconds=float(header)))
    (one,) = ask(root, file("1.flac"))
    assert "absurd length" in one.problem


@pytest.mark.parametrize(
    "labels, problem",
    [
        ({"pitch": "60"}, "its label pitch is no int: '60'"),
        ({"pitch": 2**63}, "no int"),
        ({"tags": ("a", 1)}, "no list"),
        ({"color": "red"}, "not declared"),
    ],
)
def test_a_label_that_is_not_what_the_corpus_declares_is_a_problem(root: Path, labels: dict, problem: str):
    (one,) = ask(root, file("1.flac", labels=labels))
    assert problem in one.problem and one.labels == {}


def test_events_that_are_not_what_the_corpus_declares_are_a_problem(root: Path):
    good = file("1.flac", events={"beats": ((0.0, 0.5, 1), (0.5, 0.5, 2))})
    assert ask(root, good)[0].problem == ""
    for beats in (((0.5, 0.1, 1),), ((0.0, float("nan"), 1),), ((0.0, 1.0, "one"),)):
        (one,) = ask(root, file("1.flac", events={"beats": beats}))
        assert one.problem.startswith("one of its beats is not a start, an end and int: ")
    assert ask(root, file("1.flac", events={"chords": ()}))[0].problem == "its events chords are not declared"


def test_ids_are_unique_and_fit_to_name_members(root: Path):
    found = ask(root, file("1.flac"), file("2.flac", recording_id="1"), file("3.flac", recording_id="a/b"))
    assert [bool(one.problem) for one in found] == [False, True, True]
    ids = [one.recording_id for one in found]
    assert len(set(ids)) == 3 and all("/" not in one for one in ids)


# Many files


def test_a_listing_that_is_killed_asks_nothing_again_and_its_journal_goes_when_all_is_kept(
    root: Path, monkeypatch: pytest.MonkeyPatch
):
    asked: list[str] = []
    probe = headers.probe
    monkeypatch.setattr(headers, "probe", lambda source: asked.append(source.name) or probe(source))
    monkeypatch.setattr(listing, "_ROUND_RECORDINGS", 2)
    recordings = tuple(file(f"{seconds}.flac") for seconds in (3, 1, 2))
    begun = listed(Given(root, recordings), tree=Tree(root), kept=root.parent, workers=0, is_cut=True)
    assert next(begun).seconds == 3.0
    begun.close()  # with the first round asked and the second not
    assert asked == ["3.flac", "1.flac"] and not (root.parent / LISTING).exists()
    with (root.parent / JOURNAL).open("a") as journal:
        journal.write('\n{"path": "2.flac", "bytes": 1')  # where the kill came in the middle of a line
    assert [one.seconds for one in ask(root, *recordings)] == [3.0, 1.0, 2.0]
    assert asked == ["3.flac", "1.flac", "2.flac"]
    assert not (root.parent / JOURNAL).exists()
    assert [row["path"] for row in read_table(root.parent / LISTING).to_pylist()] == ["3.flac", "1.flac", "2.flac"]


def test_what_is_known_of_files_that_are_gone_or_have_changed_is_given_up(root: Path):
    ask(root, *(file(f"{seconds}.flac") for seconds in (1, 2, 3)))
    soundfile.write(root / "2.flac", np.full(5 * RATE, 0.1), RATE)
    ask(root, file("2.flac"), file("3.flac"))
    rows = read_table(root.parent / LISTING).to_pylist()
    assert [(row["path"], row["seconds"]) for row in rows] == [("3.flac", 3.0), ("2.flac", 5.0)]


@pytest.mark.parametrize("round_recordings", [1, 2, 100])
def test_the_listing_does_not_depend_on_how_many_recordings_are_looked_at_together(
    root: Path, round_recordings: int, monkeypatch: pytest.MonkeyPatch
):
    recordings = (
        *(file("1.flac"), file("2.flac", recording_id="1"), file("absent.flac", labels={"pitch": 1})),
        *(file("3.flac", recording_id="a/b"), file("3.flac", labels={"pitch": "x"}), file("2.flac", seconds=1.5)),
    )
    together = ask(root, *recordings)
    monkeypatch.setattr(listing, "_ROUND_RECORDINGS", round_recordings)
    found = list(listed(Given(root, recordings), tree=Tree(root), kept=root.parent, workers=0, is_cut=True))
    assert found == together
    assert [bool(one.problem) for one in found] == [False, True, True, True, True, False]


def test_a_file_is_there_whatever_folder_it_is_in(root: Path):
    (root / "deep" / "er").mkdir(parents=True)
    shutil.copy(root / "1.flac", root / "deep" / "er" / "1.flac")
    (root / "dangling.flac").symlink_to("nowhere")
    found = Presence(Tree(root)).problems(
        ["deep/er/1.flac", "deep/1.flac", "1.flac", "no/1.flac", "dangling.flac", "deep", "", "deep/er/"]
    )
    no = "No such file"
    assert found == ["", no, "", no, "", "", "its path leads out of the corpus folder", no]
