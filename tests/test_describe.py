"""What a dataset says of itself to strangers: mlcroissant reads its description, webdataset runs its card's example."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import mlcroissant
import pytest
import yaml

from shards import describe
from shards.describe import CARD, CROISSANT, Describe, main
from shards.licences import RENDERED, UNKNOWN, terms_of
from shards.manifest import MANIFEST, Manifest
from shards.problem import DataProblem, UsageProblem
from shards.reader import Reader
from shards.store import sha256_of
from shards.verify import verify
from shards.words import words_in
from tests.labelled import SPLITS, changed, labelled_dataset

pytestmark = [  # of what mlcroissant calls
    pytest.mark.filterwarnings("ignore::DeprecationWarning:rdflib"),
    pytest.mark.filterwarnings("ignore:The inplace keyword"),
]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = labelled_dataset(tmp_path_factory.mktemp("describe"), "mel")
    main(Describe(folder))
    return folder


def test_mlcroissant_finds_nothing_wrong_with_the_description(dataset: Path, caplog: pytest.LogCaptureFixture):
    described = mlcroissant.Dataset(dataset / CROISSANT)
    assert described.metadata.ctx.issues.report() == "" and caplog.text == ""
    assert described.metadata.name == "tones"
    assert {record_set.name for record_set in described.metadata.record_sets} == {"splits", "examples"}


def test_mlcroissant_reads_every_example_with_its_split_and_labels(dataset: Path):
    records = list(mlcroissant.Dataset(dataset / CROISSANT).records("examples"))
    found = {(_text(record["split"]), record["index"]): record for record in map(_without_prefix, records)}
    assert len(found) == len(records) == sum(SPLITS.values())
    for split in SPLITS:
        reader = Reader(dataset / split)
        for row, index in enumerate(reader.indices.tolist()):
            record = found[split, index]
            for name in ("key", "label.mood"):
                assert _text(record[name]) == reader.labels(name.removeprefix("label."))[row]
            assert [_text(tag) for tag in record["label.tags"]] == list(reader.labels("tags")[row])
            assert record["label.tempo"] == reader.labels("tempo")[row]
            assert record["seconds"] == reader.labels("seconds")[row]


def _without_prefix(record: dict[str, object]) -> dict[str, object]:
    return {name.removeprefix("examples/"): value for name, value in record.items()}


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def test_the_description_carries_the_digests_of_the_manifests_which_carry_all_others(dataset: Path):
    content = json.loads((dataset / CROISSANT).read_bytes())
    files = {one["contentUrl"]: one["sha256"] for one in content["distribution"] if "sha256" in one}
    assert files == {f"{split}/{MANIFEST}": sha256_of(dataset / split / MANIFEST) for split in SPLITS}
    patterns = {pattern for one in content["distribution"] for pattern in one.get("includes", ())}
    assert patterns == {f"{split}/{part}" for split in SPLITS for part in ("index/*.parquet", "mel/*.tar")}
    assert all(any(dataset.glob(pattern)) for pattern in patterns)


def test_classes_become_an_enumeration_in_their_order(dataset: Path, tmp_path: Path):
    labels = {**Manifest.read(dataset / "valid").labels, "take": {"type": "int", "classes": ["one", "b | <b>"]}}
    changed(dataset / "valid", tmp_path / "valid", labels=labels)
    main(Describe(tmp_path / "valid"))
    described = mlcroissant.Dataset(tmp_path / CROISSANT)
    names = [_text(record["classes-take/name"]) for record in described.records("classes-take")]
    assert names == ["one", "b | <b>"]
    assert "2: one, b \\| &lt;b&gt; |" in (tmp_path / CARD).read_text()


def test_the_cards_example_runs_as_it_stands(dataset: Path):
    (code,) = re.findall(r"```python\n(.*?)```", (dataset / CARD).read_text(), flags=re.S)
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=dataset, capture_output=True, text=True, timeout=120, env={"PATH": os.defpath}
    )
    assert ran.returncode == 0, ran.stderr
    assert re.match(r"\d{9} \(128, \d+\) \{.*'mood'", ran.stdout)


def test_the_cards_front_matter_is_what_hubs_read(dataset: Path):
    front = yaml.safe_load((dataset / CARD).read_text().split("---\n")[1])
    paths = [{"split": split, "path": f"{split}/mel/*.tar"} for split in ("train", "valid", "test")]
    assert front["configs"] == [{"config_name": "mel", "default": True, "data_files": paths}]
    assert (front["pretty_name"], front["license"], front["size_categories"]) == ("tones", "unknown", ["n<1K"])


def test_the_card_counts_and_explains(dataset: Path):
    card = (dataset / CARD).read_text()
    manifest = Manifest.read(dataset / "train")
    assert f"| train | 6 | 0.00 | 1 | 2 | `{manifest.fingerprint[:16]}` |" in card
    assert "- 1 of train at listing: cannot read it" in card
    assert "sonograph build folder --root" in card and UNKNOWN.licence in card


def test_hostile_names_are_no_markup_in_the_card(dataset: Path, tmp_path: Path):
    hostile = "x`</script><script>alert(1)</script>\n## Licences\n| ![a](javascript:b)"
    labels = {hostile: {"type": "str", "classes": None}, "take": {"type": "int", "classes": [hostile]}}
    changed(dataset / "valid", tmp_path / "valid", labels=labels, made_with={hostile: "1"}, corpus=hostile)
    main(Describe(tmp_path / "valid", name=hostile))
    text = (tmp_path / CARD).read_text()
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", text.split("---\n", 2)[2], flags=re.S)
    assert "<script" not in prose and re.search(r"(?<!\\)!\[", prose) is None
    assert len(re.findall("^## Licences$", text, flags=re.M)) == 1
    assert yaml.safe_load(text.split("---\n")[1])["pretty_name"] == hostile


def test_describing_again_gives_the_same_bytes_and_leaves_the_dataset_whole(dataset: Path):
    before = [(dataset / name).read_bytes() for name in (CROISSANT, CARD)]
    assert main(Describe(dataset))["output"] == str(dataset.resolve() / CARD)
    assert [(dataset / name).read_bytes() for name in (CROISSANT, CARD)] == before
    assert [problem for split in SPLITS for problem in verify(dataset / split)] == []


def test_a_card_that_somebody_else_wrote_is_not_replaced(dataset: Path, tmp_path: Path):
    changed(dataset / "valid", tmp_path / "valid")
    (tmp_path / CARD).write_text("# Mine\n")
    with pytest.raises(DataProblem, match=r"README\.md exists and was not written by .*--out FOLDER"):
        main(Describe(tmp_path / "valid"))
    assert (tmp_path / CARD).read_text() == "# Mine\n" and not (tmp_path / CROISSANT).exists()


def test_a_description_inside_or_away_from_its_dataset_is_refused(dataset: Path, tmp_path: Path):
    with pytest.raises(UsageProblem, match="lies inside a dataset"):
        main(Describe(dataset, out=dataset / "train"))
    with pytest.raises(UsageProblem, match="does not lie below"):
        main(Describe(dataset, out=tmp_path))


def test_a_description_above_its_dataset_names_the_files_from_there(dataset: Path, tmp_path: Path):
    changed(dataset / "valid", tmp_path / "deep" / "valid")
    main(Describe(tmp_path / "deep", out=tmp_path))
    assert len(list(mlcroissant.Dataset(tmp_path / CROISSANT).records("examples"))) == SPLITS["valid"]
    assert '"deep/valid/mel/000000.tar"' in (tmp_path / CARD).read_text()


def test_rendered_music_has_the_terms_of_its_sound_font_and_says_that_it_is_rendered(dataset: Path, tmp_path: Path):
    changed(dataset / "valid", tmp_path / "valid", rendered=True, corpus="nsynth")
    main(Describe(tmp_path / "valid"))
    content, card = json.loads((tmp_path / CROISSANT).read_bytes()), (tmp_path / CARD).read_text()
    assert content["license"] == RENDERED.url and content["description"].startswith(
        "Music rendered in the layout of nsynth"
    )
    assert "**Rendered music**" in card and "license: mit" in card and "Engel" not in card


def test_weights_are_named_with_their_licence(dataset: Path, tmp_path: Path):
    mel = Manifest.read(dataset / "valid").features["mel"]
    weights = {"source": "maker/model", "sha256": "ab" * 32, "licence": "CC-BY-NC-4.0"}
    changed(dataset / "valid", tmp_path / "valid", features={"mel": {**mel, "weights": weights}})
    main(Describe(tmp_path / "valid"))
    assert re.search(
        r"weights of maker/model \(SHA-256 abab.*\); their licence: CC-BY-NC-4\.0", (tmp_path / CARD).read_text()
    )


def test_every_published_corpus_has_terms_and_the_users_own_word_goes_first():
    published = set("audioset emomusic giantsteps gtzan magnatagatune nsynth slakh".split())
    known = {corpus for corpus in words_in("pipelines.corpora") if terms_of(corpus, is_rendered=False) != UNKNOWN}
    assert known >= published  # a corpus of one's own is one file, whose terms `describe --license` states
    assert terms_of("nsynth", is_rendered=False).identifier == "cc-by-4.0"
    stated = terms_of("folder", is_rendered=False, stated="https://example.org/terms")
    assert stated.url == stated.licence == "https://example.org/terms"


def test_the_mark_by_which_own_files_are_known_is_in_both(dataset: Path):
    assert all(describe.MARK in (dataset / name).read_text() for name in (CROISSANT, CARD))
