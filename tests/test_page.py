"""The page of a dataset: whole, closed to the network, deaf to what stands in labels, and it plays."""

import base64
import hashlib
import io
import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import matplotlib.pyplot as plt
import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By

from shards.decode import decode
from shards.html.examples import rows_shown, spelled
from shards.html.figures import curves, histogram, is_sparse, power_picture, value_picture
from shards.html.markup import element, joined
from shards.html.page import PAGE_BYTES, write_page
from shards.manifest import Manifest
from shards.writer import npy_bytes
from tests import browse
from tests.building import build_here
from tests.forgery import forge_payloads, write_sounding_dataset
from tests.labelled import IMAGE, MOODS, SCRIPT, SPLITS, changed, labelled_dataset

COLUMNS = ("audio", "mel", "codec:logpower")
needs_browser = pytest.mark.skipif(bool(browse.MISSING), reason=f"not installed: {', '.join(browse.MISSING)}")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return labelled_dataset(tmp_path_factory.mktemp("page"), *COLUMNS)


@pytest.fixture(scope="module")
def page(dataset: Path) -> Path:
    return paged(dataset.parent / "page.html", *folders(dataset))


def folders(dataset: Path) -> list[Path]:
    return sorted(dataset / split for split in SPLITS)


def paged(path: Path, *datasets: Path, examples: int = 12, seed: int = 0) -> Path:
    write_page(path, datasets, examples=examples, seed=seed, opened=())
    return path


def tree_of(page: Path) -> ElementTree.Element:
    return ElementTree.fromstring(page.read_text())


def shown(page: Path) -> str:
    return " ".join(" ".join(tree_of(page).itertext()).split())


def sources(page: Path, name: str) -> list[bytes]:
    return [base64.b64decode(found.attrib["src"].partition(",")[2]) for found in tree_of(page).iter(name)]


def test_a_page_is_well_formed_and_all_it_shows_is_inside(page: Path):
    tree = tree_of(page)
    links = [found.attrib[name] for found in tree.iter() for name in ("src", "href") if name in found.attrib]
    anchors = {f"#{found.attrib['id']}" for found in tree.iter() if "id" in found.attrib}
    assert {link for link in links if not link.startswith("data:")} == anchors
    assert "url(" not in page.read_text() and "@import" not in page.read_text()


def test_the_policy_lets_in_the_pages_own_style_and_data_and_nothing_else(page: Path):
    tree = tree_of(page)
    (policy,) = (meta.attrib["content"] for meta in tree.iter("meta") if "http-equiv" in meta.attrib)
    digest = base64.b64encode(hashlib.sha256((tree.findtext("head/style") or "").encode()).digest()).decode()
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules == {
        **{"default-src": "'none'", "base-uri": "'none'", "form-action": "'none'"},
        **{"style-src": f"'sha256-{digest}'", "img-src": "data:", "media-src": "data:"},
    }
    assert {name for found in tree.iter() for name in found.attrib if name.startswith("on") or name == "style"} == set()


def test_hostile_names_and_labels_are_shown_as_the_text_they_are(page: Path):
    text = shown(page)
    assert all(" ".join(mood.replace("\x1b", "\ufffd").split()) in text for mood in MOODS)
    assert f"0 {IMAGE}.wav" in text and SCRIPT in text
    assert {found.tag for found in tree_of(page).iter()} & {"script", "b", "iframe", "object", "embed"} == set()
    assert all(found.attrib["src"].startswith("data:image/png") for found in tree_of(page).iter("img"))


def test_equal_arguments_give_equal_bytes_and_another_seed_other_examples(dataset: Path, tmp_path: Path):
    one, again, other = (
        paged(tmp_path / f"{name}.html", *folders(dataset), examples=1, seed=seed)
        for name, seed in (("one", 0), ("again", 0), ("other", 1))
    )
    assert one.read_bytes() == again.read_bytes()
    assert keys(one) != keys(other)


def keys(page: Path) -> list[str]:
    return [" ".join(found.itertext()) for found in tree_of(page).iterfind(".//article[@aria-label]/h3")]


def test_counts_hours_splits_reasons_digests_and_the_command_are_there(dataset: Path, page: Path):
    text, manifests = shown(page), [Manifest.read(folder) for folder in folders(dataset)]
    rejected = "train listing cannot read it 1 train/broken.wav: cannot read it"
    for said in ("examples 10", "rejected 1", "hours 0.01", "train 6 7 1 0.00 2", rejected):
        assert said in text, said
    for manifest in manifests:
        assert manifest.fingerprint in text
        assert all(stored.sha256 in text for shard in manifest.shards for stored in shard.files.values())
    assert "sonograph build folder --root" in text and "in the layout of folder" in text


def test_lists_count_each_of_their_values_and_numbers_make_histograms(page: Path):
    tables = {found.attrib["aria-label"]: found for found in tree_of(page).iterfind(".//div[@role='region']")}
    rows = [[" ".join(cell.itertext()) for cell in row.iter("td")] for row in tables["tags, , examples"].iter("tr")]
    assert [(row[0], row[2]) for row in rows if row] == [(SCRIPT, "5"), ("loud", "3"), ("none", "3")]
    charts = [found.attrib.get("aria-label", "") for found in tree_of(page).iter("svg")]
    assert "Label tempo: 10 values from 100 to 102.2, median 101.1" in charts
    assert "Lengths of the examples: 10 values from 1 s to 2.8 s, median 1.9 s" in charts


def test_loudness_is_that_of_the_stored_audio_where_there_is_some_and_says_so(
    dataset: Path, page: Path, tmp_path: Path
):
    loudest_db = 20 * np.log10(0.8) + 10 * np.log10(0.5)
    assert f"to {loudest_db:.4g} dB of full scale" in page.read_text()
    mels = [changed(folder, tmp_path / folder.name, features=only_mel(folder)) for folder in folders(dataset)]
    assert "Loudness: mean power of mel" in shown(paged(tmp_path / "page.html", *mels))


def only_mel(folder: Path) -> dict[str, object]:
    return {"mel": Manifest.read(folder).features["mel"]}


def test_originals_are_the_stored_bytes_and_other_players_are_named_as_not_the_original(page: Path):
    players = [(found.attrib["aria-label"], found.attrib["src"]) for found in tree_of(page).iter("audio")]
    names = [label.rpartition(", of ")[0] for label, _ in players]
    kinds = ["original, as stored in audio", "not the original: decoded from mel, phases by Griffin-Lim"]
    assert names == [*kinds, "not the original: decoded from codec-logpower"] * 10
    seconds = [decode(content).seconds for content in sources(page, "audio")[::3]]
    assert sorted(seconds) == pytest.approx([1 + 0.2 * number for number in range(10)])


def test_pictures_and_players_say_in_words_what_they_are(page: Path):
    tree = tree_of(page)
    assert len(list(tree.iter("img"))) == 20 and all(len(image.attrib["alt"]) > 20 for image in tree.iter("img"))
    assert all(svg.attrib.get("aria-label") or svg.attrib.get("aria-hidden") for svg in tree.iter("svg"))
    assert tree.attrib["lang"] == "en" and tree.findtext("head/title") == "folder: train, valid, test"


def test_a_column_of_another_version_is_shown_as_stored_and_the_page_says_so(dataset: Path, tmp_path: Path):
    mel = {**Manifest.read(dataset / "valid").features["mel"], "hop_samples": 511}
    folder = changed(dataset / "valid", tmp_path / "valid", features={"mel": mel})
    text = shown(paged(tmp_path / "page.html", folder))
    assert "values are shown as stored" in text and "mel: its values, 128 bands" in text and "Griffin-Lim" not in text


def test_rendered_music_is_said_to_be_rendered(dataset: Path, tmp_path: Path):
    folder = changed(dataset / "test", tmp_path / "test", rendered=True)
    assert "Rendered music: composed and played by a program" in shown(paged(tmp_path / "page.html", folder))


def test_a_page_without_examples_is_whole(dataset: Path, tmp_path: Path):
    assert "0 of 6, drawn with seed 0" in shown(paged(tmp_path / "page.html", dataset / "train", examples=0))


def test_mels_of_a_few_frames_and_of_none_are_on_a_page(tmp_path: Path):
    folder = write_sounding_dataset(tmp_path / "short", 2, shard_examples=2)
    page = paged(tmp_path / "short.html", folder)
    assert "mel: mel spectrogram, dB, 128 bands, 3 frames" in shown(page) and len(sources(page, "audio")) == 2
    forge_payloads(folder, lambda payload: npy_bytes(np.zeros((128, 0), np.float16, order="F")))
    page = paged(tmp_path / "none.html", folder)
    assert "mel: no frames" in shown(page) and len(sources(page, "audio")) == 2


def test_the_page_of_long_loud_recordings_stays_below_its_bound(tmp_path: Path):
    rng = np.random.default_rng(0)
    for number in range(12):
        (tmp_path / "noise").mkdir(exist_ok=True)
        soundfile.write(tmp_path / "noise" / f"{number}.wav", rng.uniform(-1, 1, 12 * 44_100), 44_100)
    words = ("folder", "--root", tmp_path / "noise", "--valid-share", 0, "--test-share", 0)
    build_here(*words, "--out", tmp_path / "out", "--features", "audio")
    page = paged(tmp_path / "page.html", tmp_path / "out" / "train")
    assert sum(path.stat().st_size for path in (tmp_path / "out" / "train" / "audio").glob("*.tar")) > PAGE_BYTES
    assert PAGE_BYTES / 2 < page.stat().st_size < PAGE_BYTES
    assert len(sources(page, "audio")) == 12 and "; the first" in shown(page)


# Parts


@given(st.lists(st.integers(0, 30), min_size=1, max_size=5), st.integers(0, 40), st.integers(0, 9))
def test_rows_are_drawn_from_every_split_without_repeating_one(sizes: list[int], count: int, seed: int):
    rows = rows_shown(sizes, count, seed)
    assert [len(chosen) for chosen in rows] == [
        len({row for row in chosen if row < size}) for chosen, size in zip(rows, sizes, strict=True)
    ]
    assert sum(map(len, rows)) == min(count, sum(sizes))
    assert rows == rows_shown(sizes, count, seed)
    assert all(rows[place] for place, size in enumerate(sizes) if size and count >= len(sizes))


@given(st.text(), st.text())
def test_any_text_comes_back_from_elements_and_attributes_as_it_was(text: str, title: str):
    parsed = ElementTree.fromstring(element("p", text, title=title))
    readable = [re.sub("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffe\uffff]", "\ufffd", part) for part in (text, title)]
    assert (parsed.text or "").replace("\r", "\n") == readable[0].replace("\r\n", "\n").replace("\r", "\n")
    assert parsed.attrib["title"].split() == readable[1].split()


def test_text_is_escaped_once_and_elements_never(tmp_path: Path):
    assert element("p", "a < b", element("i", "&"), None) == "<p>a &lt; b<i>&amp;</i></p>"
    assert joined("<", element("img", alt='"')) == '&lt;<img alt="&quot;" />'


@given(st.dictionaries(st.sampled_from(["train", "valid", "test"]), st.lists(st.floats(-1e6, 1e6), max_size=50)))
def test_the_bars_of_a_histogram_count_every_value_once(values: dict[str, list[float]]):
    drawn = histogram({name: np.array(part) for name, part in values.items()}, unit="s", about="Lengths")
    bars = [float(rect.attrib["height"]) for rect in ElementTree.fromstring(drawn).iter("rect")]
    assert not bars or sum(bars) == sum(map(len, values.values()))
    assert bars or len({value for part in values.values() for value in part}) <= 1


def test_a_spectrogram_is_upside_up_and_brightest_where_it_is_loudest():
    power = np.full((128, 2000), 1e-9, np.float32)
    power[10, 1500] = 1.0
    picture = plt.imread(io.BytesIO(power_picture(power)), format="png")
    brightness = picture[..., :3].sum(axis=-1)
    assert picture.shape[:2] == (128, 640)
    assert np.unravel_index(brightness.argmax(), brightness.shape) == (117, 480)


@pytest.mark.parametrize(
    "values", [np.zeros((3, 1)), np.full((1, 5), np.nan), np.arange(12, dtype=np.int16).reshape(3, 4)]
)
def test_any_array_has_a_picture(values: np.ndarray):
    picture = plt.imread(io.BytesIO(value_picture(values)), format="png")
    assert picture.shape[:2] == values.shape


def test_latents_of_both_signs_with_few_large_ones_are_pictured_by_their_squares():
    rng = np.random.default_rng(0)
    assert is_sparse(rng.standard_normal((64, 64)) ** 15) and not is_sparse(rng.standard_normal((64, 64)))


def test_curves_use_logarithms_only_where_values_are_positive_and_differ_a_lot():
    def statistics(values: np.ndarray) -> dict[str, object]:
        shares = ("0.01", "0.25", "0.5", "0.75", "0.99")
        return {
            "mean": values.mean(0).tolist(),
            "quantiles": {s: np.quantile(values, float(s), 0).tolist() for s in shares},
        }

    values = np.random.default_rng(0).standard_normal((1000, 8))
    assert "logarithmic" in curves(statistics(np.exp(4 * values)), about="x")
    assert "logarithmic" not in curves(statistics(values), about="x")
    assert len(ElementTree.fromstring(curves(statistics(values), about="x")).findall(".//polyline")) == 2


@pytest.mark.parametrize(
    ("value", "classes", "text"),
    [
        (1, ["a", "b"], "b"),
        (7, ["a", "b"], "7"),
        ([0, 1, 1], ["a", "b", "c"], "b, c"),
        ([0, 0, 0], ["a", "b", "c"], "none"),
        (["x", "y"], [], "x, y"),
        (None, ["a"], "none"),
        (0.123456, [], "0.1235"),
    ],
)
def test_a_label_is_spelled_by_the_names_of_its_classes(value: object, classes: list[str], text: str):
    assert spelled(value, classes) == text


# In a browser


@pytest.fixture(scope="module")
def driver(page: Path) -> Iterator[Chrome]:
    with browse.browser(width=1300, height=1000) as driver:
        browse.visit(driver, page.as_uri())
        yield driver


def complaints(driver: Chrome) -> list[str]:
    """What the page's console says; about:blank comes before the page."""
    said = [str(entry["message"]) for entry in driver.get_log("browser")]
    return [message for message in said if not message.startswith("about:blank")]


@pytest.mark.browser
@needs_browser
def test_a_browser_shows_all_of_it_without_a_complaint(driver: Chrome):
    browse.await_true(driver, "return [...document.images].every(image => image.complete && image.naturalWidth > 30)")
    browse.await_true(driver, "return [...document.querySelectorAll('audio')].every(audio => audio.readyState >= 1)")
    assert complaints(driver) == []
    assert driver.title == "folder: train, valid, test"
    fetched = (
        "return performance.getEntriesByType('resource').map(one => one.name).filter(name => !name.startsWith('data:'))"
    )
    assert driver.execute_script(fetched) == []
    style = "return getComputedStyle(document.querySelector('.split1')).fill + getComputedStyle(document.body).maxWidth"
    assert driver.execute_script(style).endswith("px") and "rgb(0, 0, 0)" not in driver.execute_script(style)


@pytest.mark.browser
@needs_browser
@pytest.mark.parametrize("place", [0, 1, 2])
def test_players_of_originals_mels_and_codecs_play_by_keyboard(driver: Chrome, place: int):
    player = driver.find_elements(By.TAG_NAME, "audio")[place]
    driver.execute_script("arguments[0].focus()", player)
    player.send_keys(Keys.SPACE)
    browse.await_true(driver, f"return document.querySelectorAll('audio')[{place}].currentTime > 0.1")
    assert complaints(driver) == []


@pytest.mark.browser
@needs_browser
def test_a_phone_shows_it_without_scrolling_sideways(driver: Chrome):
    phone = {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    try:
        assert driver.execute_script("return document.documentElement.scrollWidth") <= 360
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
