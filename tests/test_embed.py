"""Embedding files: any length and container, in blocks that do not show, and never stopped by one of them."""

import logging
import multiprocessing
import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

from shards.decode import decode
from shards.feature import described, load_feature
from shards.problem import DataProblem, UsageProblem
from sonograph import command_of
from tests.bumps import write_bumps
from tests.command import sonograph
from tests.tiny_run import write_run
from trainers.embed import SAID, Embed, Windows, feature_of, main
from trainers.encoder import ContractMismatch, cut_windows, open_encoder
from trainers.listening import Block, Listener, block_of

MODEL = "random:myna:base"


def write_noise(path: Path, seconds: float, *, sample_rate_hz: int = 16_000, seed: int = 0) -> Path:
    """Stereo noise that swells, so that every moment differs."""
    rng = np.random.default_rng(seed)
    samples = round(seconds * sample_rate_hz)
    waveform = 0.1 * rng.standard_normal((samples, 2)) * np.linspace(0.1, 1, samples)[:, None]
    soundfile.write(path, waveform, sample_rate_hz)
    return path


def power_of(path: Path) -> torch.Tensor:
    """Mel power of a whole file at once."""
    feature = load_feature("mel")
    (stored,) = feature([decode(path.read_bytes(), sample_rate_hz=feature.sample_rate_hz)])
    return feature.restore(torch.from_numpy(np.array(stored)))


def command(folder: Path, *files: Path, **options: object) -> Embed:
    return Embed(files, **{"model": MODEL, "out": folder / "table.parquet", "size": "debug", **options})


@pytest.fixture(scope="module")
def music(tmp_path_factory) -> dict[str, Path]:
    """A FLAC of 13 s at 44.1 kHz, a WAV shorter than a window, an Ogg, and two files that are no music."""
    folder = tmp_path_factory.mktemp("music")
    cut, words = folder / "cut.flac", folder / "words.txt"
    long = write_noise(folder / "long.flac", 13.0, sample_rate_hz=44_100)
    cut.write_bytes(long.read_bytes()[:100_000])
    words.write_text("no music")
    short, ogg = write_noise(folder / "short.wav", 1.0), write_noise(folder / "sound.ogg", 5.0, sample_rate_hz=22_050)
    return {"cut": cut, "long": long, "short": short, "sound": ogg, "words": words}


@pytest.fixture(scope="module")
def embedded(tmp_path_factory, music) -> Embed:
    """All of them by one command, in which the whole folder is named."""
    asked = command(tmp_path_factory.mktemp("embedded"), music["long"].parent)
    result = main(asked)
    assert result["metrics"] == {"files": 5, "rejected": 2, "rows": 3}
    return asked


def rows(table: Path) -> dict[str, dict]:
    return {Path(row["path"]).stem: row for row in parquet.read_table(table).to_pylist()}


@pytest.mark.parametrize("name", ["long", "short", "sound"])
def test_a_files_embedding_is_the_mean_over_windows_of_its_whole_mel(embedded, music, name):
    encoder = open_encoder(MODEL, size="debug")
    windows = cut_windows(power_of(music[name]), 96)
    with torch.no_grad():
        expected = encoder.model(windows).mean(dim=0)
    found = rows(embedded.out)[name]
    np.testing.assert_allclose(found["embedding"], expected, rtol=1e-4, atol=1e-5)
    assert found["windows"] == len(windows)


def test_a_file_that_cannot_be_embedded_is_listed_with_its_reason_and_stops_nothing(embedded):
    assert set(rows(embedded.out)) == {"long", "short", "sound"}
    assert rows(embedded.out)["long"]["seconds"] == pytest.approx(13.0, abs=1e-3)
    rejected = rows(embedded.out.with_suffix(".rejected.parquet"))
    assert "no audio container" in rejected["words"]["reason"] and "declared" in rejected["cut"]["reason"]


def test_the_table_has_vectors_of_one_width_and_says_whose_they_are(embedded):
    schema = parquet.read_schema(embedded.out)
    assert str(schema.field("embedding").type) == "fixed_size_list<element: float>[32]"
    assert b'"encoder":"random"' in schema.metadata[SAID.encode()]
    assert (embedded.out.parent / "table.RESULT.json").is_file()


def test_the_same_command_again_embeds_nothing_until_a_file_changes(tmp_path, music, caplog):
    asked = command(tmp_path, write_noise(tmp_path / "x.wav", 4.0))
    main(asked)
    first = asked.out.stat().st_mtime_ns
    with caplog.at_level(logging.INFO, "trainers.embed"):
        main(asked)
    assert asked.out.stat().st_mtime_ns == first and "complete since an earlier call" in caplog.text
    before = rows(asked.out)["x"]["embedding"]
    write_noise(tmp_path / "x.wav", 4.0, seed=1)
    main(asked)
    assert rows(asked.out)["x"]["embedding"] != before


def test_windows_have_rows_of_their_own_with_their_starts(tmp_path, music):
    asked = command(tmp_path, music["long"], per_window=True, hop_frames=48)
    main(asked)
    table = parquet.read_table(asked.out).to_pylist()
    mel = power_of(music["long"])
    assert [row["start_s"] for row in table] == pytest.approx([1.536 * n for n in range((mel.shape[1] - 96) // 48 + 1)])
    with torch.no_grad():
        expected = open_encoder(MODEL, size="debug").model(mel[None, :, 48:144])[0]
    np.testing.assert_allclose(table[1]["embedding"], expected, rtol=1e-4, atol=1e-5)


def test_when_no_file_could_be_embedded_the_command_fails_and_its_table_says_why(tmp_path, music):
    asked = command(tmp_path, music["words"], tmp_path / "nowhere.wav")
    with pytest.raises(DataProblem, match="None of 2 files"):
        main(asked)
    assert "No such file" in rows(asked.out.with_suffix(".rejected.parquet"))["nowhere"]["reason"]


def test_the_command_line_embeds_with_a_trained_run(tmp_path, music):
    data = write_bumps(tmp_path / "bumps", examples={"train": 24})
    run = write_run(tmp_path / "tiny", data)
    done = sonograph("embed", music["sound"], "--model", run, "--out", tmp_path / "t.parquet", "--json")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('"rows": 1') == 1


@given(
    lengths=st.lists(st.integers(0, 50), min_size=1, max_size=5),
    window_frames=st.integers(1, 40),
    hop_frames=st.integers(1, 40),
)
def test_windows_do_not_depend_on_the_pieces_in_which_a_stream_comes(lengths, window_frames, hop_frames):
    hop_frames = min(hop_frames, window_frames)
    mel = torch.arange(1.0, 2 * sum(lengths) + 1).reshape(2, -1)
    stream = Windows(window_frames, hop_frames)
    pieces = mel.split(lengths, dim=1)
    found = torch.cat([stream.of(piece, is_last=n == len(pieces) - 1) for n, piece in enumerate(pieces)])
    if mel.shape[1] < window_frames:
        expected = torch.nn.functional.pad(mel, (0, window_frames - mel.shape[1]))[None]
    else:
        expected = mel.unfold(1, window_frames, hop_frames).transpose(0, 1)
    assert torch.equal(found, expected) and stream.count == len(expected)


@pytest.mark.parametrize(
    ("suffix", "sample_rate_hz"), [("wav", 16_000), ("flac", 44_100), ("mp3", 44_100), ("ogg", 22_050)]
)
def test_blocks_of_a_long_file_are_its_mel(tmp_path, suffix, sample_rate_hz):
    path = write_noise(tmp_path / f"x.{suffix}", 21.0, sample_rate_hz=sample_rate_hz)
    blocks = [block_of(path, "mel", number, 4.0) for number in range(5)]
    assert [isinstance(block, Block) and block.is_last for block in blocks] == [False, False, False, False, True]
    feature, whole = load_feature("mel"), power_of(path)
    joined = feature.restore(torch.from_numpy(np.concatenate([block.stored for block in blocks], axis=1)))
    assert joined.shape == whole.shape and blocks[-1].seconds == pytest.approx(21.0, abs=0.1)
    torch.testing.assert_close(joined, whole, rtol=0.02, atol=1e-4 * float(whole.max()))


def test_a_file_that_kills_its_decoder_costs_itself_only(tmp_path, music):
    hangs = tmp_path / "hangs.wav"
    os.mkfifo(hangs)  # nobody will ever write into it

    def kill_the_decoder() -> None:
        while not (children := multiprocessing.active_children()):
            time.sleep(0.01)
        time.sleep(0.1)
        children[0].kill()

    with Listener("mel") as listener:
        killer = threading.Thread(target=kill_the_decoder)
        killer.start()
        found = list(listener.blocks([hangs, music["short"]]))
        killer.join()
    assert [isinstance(block, Block) for _, block in found] == [False, True]
    assert "killed or hung" in found[0][1]


def test_a_dataset_an_empty_list_and_a_hop_over_music_are_refused(tmp_path):
    write_bumps(tmp_path, examples={"train": 2})
    with pytest.raises(UsageProblem, match="is a dataset"):
        main(command(tmp_path, tmp_path / "train"))
    with pytest.raises(UsageProblem, match="no file to embed"):
        main(command(tmp_path))
    with pytest.raises(UsageProblem, match="1 to 96"):
        main(command(tmp_path, tmp_path / "x.wav", hop_frames=97))


@pytest.mark.parametrize(("file", "out"), [("s3://music/a.flac", "a.parquet"), ("a.flac", "memory://a.parquet")])
def test_places_in_a_store_are_refused_before_a_model_is_opened(file, out, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageProblem, match=r"(s3://music/a.flac|memory://a.parquet) lies in a store, .*Copy the files"):
        main(command_of("embed", [file, "--model", "nowhere", "--out", out]))
    assert not list(tmp_path.iterdir())


def test_a_model_that_heard_another_mel_by_the_same_name_is_refused():
    here = described(load_feature("mel"))
    other = {**here, "hop_samples": 160, "fingerprint": "f" * 64}
    with pytest.raises(ContractMismatch, match="hop_samples"):
        feature_of(replace(open_encoder(MODEL, size="debug"), contract=other))


def test_a_model_of_whole_clips_is_refused_as_it_hears_no_frames():
    with pytest.raises(UsageProblem, match="computed of a whole clip"):
        feature_of(open_encoder("random:multiview:best", size="debug"))
