"""EnCodec and DAC from a folder: published sizes, codes and latents, frames and padding, what is refused."""

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from shards.codecs.codec import CodecUnavailable, LatentCodec
from shards.codecs.linear import LinearCodec
from shards.codecs.logpower import LogPowerCodec
from shards.codecs.neural import NeuralCodec, open_neural, read_shape
from shards.problem import DataProblem
from tests.tiny_codecs import tiny_dac, tiny_encodec, write


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@contextmanager
def heard_of_sockets() -> Iterator[list[str]]:
    """What this process asks of the network, by the names of Python's audit events."""
    heard: list[str] = []
    is_open = [True]
    asking = {"socket.connect", "socket.getaddrinfo", "socket.sendto"}
    sys.addaudithook(lambda event, _: heard.append(event) if is_open[0] and event in asking else None)
    try:
        yield heard
    finally:
        is_open[0] = False  # a hook stays for ever


@pytest.fixture(scope="module")
def encodec_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tiny_encodec(), tmp_path_factory.mktemp("encodec"))


@pytest.fixture(scope="module")
def dac_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tiny_dac(), tmp_path_factory.mktemp("dac"))


@pytest.fixture(scope="module")
def encodec(encodec_folder: Path) -> NeuralCodec:
    return open_neural(encodec_folder)


@pytest.fixture(scope="module")
def dac(dac_folder: Path) -> NeuralCodec:
    return open_neural(dac_folder)


def test_every_codec_is_a_latent_codec(encodec: NeuralCodec, dac: NeuralCodec):
    for codec in (LinearCodec(), LogPowerCodec(), encodec, dac):
        assert isinstance(codec, LatentCodec)
        latents = codec.encode(torch.ones(2, 3_201) / 8)
        assert latents.shape == (2, codec.dim, codec.frames(3_201)) and latents.dtype == torch.float32
        assert codec.decode(latents).shape == (2, 11 * 320)
        assert codec.to("cpu").decode(latents, 3_201).shape == (2, 3_201)


def test_tiny_encodec_has_the_published_sizes(encodec: NeuralCodec):
    assert sum(parameter.numel() for parameter in encodec.model.parameters()) == 168_382
    assert encodec.name == "encodec_24khz"
    assert encodec.shape.codebooks == encodec.model.config.num_quantizers == 6
    assert encodec.model.encoder(torch.zeros(2, 1, 3_200)).shape == (2, 16, 10)
    assert encodec.encode(torch.zeros(1, 3_201)).shape[-1] == 11


@torch.no_grad()
def test_latents_from_stored_codes_are_those_of_the_model(encodec: NeuralCodec):
    waveform, model = noise(2, 3_200) / 8, encodec.model
    theirs = model.encode(waveform[:, None], bandwidth=3.0)
    codes = encodec.codes(waveform)
    assert torch.equal(codes, theirs.audio_codes[0])
    latents = encodec.encode(waveform)
    assert torch.equal(latents, encodec.dequantised(codes)) and latents.abs().max() > 0
    decoded = model.decode(theirs.audio_codes, theirs.audio_scales).audio_values[:, 0]
    assert torch.equal(encodec.decode(latents), decoded)


def test_codes_decode_to_the_same_sound_as_the_latents_they_stand_for(encodec_folder: Path, dac_folder: Path):
    waveform = noise(1, 3_200) / 8
    for folder in (encodec_folder, dac_folder):
        as_codes, plain = open_neural(folder, latent="codes"), open_neural(folder)
        codes = as_codes.encode(waveform)
        assert codes.shape == (1, as_codes.dim, 10) and torch.equal(codes, codes.round())
        assert torch.equal(as_codes.decode(codes), plain.decode(plain.encode(waveform)))
        assert as_codes.fingerprint() != plain.fingerprint()


@torch.no_grad()
def test_a_reloaded_network_encodes_to_the_same_bits(encodec: NeuralCodec, encodec_folder: Path, tmp_path: Path):
    waveform = noise(1, 3_200)
    encodec.model.save_pretrained(tmp_path)
    again = open_neural(tmp_path, latent="continuous")
    assert torch.equal(again.encode(waveform), encodec.model.encoder(waveform[:, None]))
    assert open_neural(encodec_folder).fingerprint() == encodec.fingerprint()


def test_a_network_whose_codebooks_nobody_trained_is_refused(tmp_path: Path):
    write(tiny_encodec(is_trained=False), tmp_path)
    with pytest.raises(DataProblem, match="All codebooks in .* are zero"):
        open_neural(tmp_path)


def test_the_full_encodec_has_the_published_sizes():
    from transformers import EncodecConfig, EncodecModel

    with torch.device("meta"):
        model = EncodecModel(EncodecConfig())
    counts = [
        sum(parameter.numel() for parameter in part.parameters()) for part in (model, model.encoder, model.decoder)
    ]
    assert counts == [14_851_810, 7_425_792, 7_426_018]
    assert model.quantizer.get_num_quantizers_for_bandwidth(24.0) == 32


@torch.no_grad()
def test_tiny_dac_has_the_published_sizes_and_its_missing_samples_are_filled(dac: NeuralCodec):
    assert sum(parameter.numel() for parameter in dac.model.parameters()) == 390_731
    latents = dac.encode(noise(1, 3_200) / 8)
    assert latents.shape == (1, 128, 10)
    assert dac.model.decoder(latents).shape == (1, 1, 3_192)
    assert dac.decode(latents).shape == (1, 3_200)


@torch.no_grad()
def test_dac_latents_are_the_models_quantised_representation(dac: NeuralCodec):
    waveform = noise(2, 3_200) / 8
    theirs = dac.model.encode(waveform[:, None])
    torch.testing.assert_close(dac.encode(waveform), theirs.quantized_representation)
    assert torch.equal(dac.codes(waveform), theirs.audio_codes)


@torch.no_grad()
def test_dac_projected_latents_are_the_models_and_decode_to_the_sound_of_the_quantised_ones(
    dac: NeuralCodec, dac_folder: Path
):
    waveform, projected = noise(2, 3_200) / 8, open_neural(dac_folder, latent="projected")
    latents = projected.encode(waveform)
    theirs = dac.model.encode(waveform[:, None])
    assert latents.shape == (2, projected.dim, 10) == (2, 4 * 4, 10)
    assert torch.equal(latents, theirs.projected_latents)
    sound = torch.nn.functional.pad(dac.model.decode(theirs.quantized_representation).audio_values, (0, 8))
    torch.testing.assert_close(projected.decode(latents), sound)
    assert not torch.allclose(projected.decode(latents.flip(-1)), sound)
    assert projected.fingerprint() not in (
        dac.fingerprint(),
        open_neural(dac_folder, latent="continuous").fingerprint(),
    )


@torch.no_grad()
def test_continuous_latents_are_the_encoders_own_output_for_both(encodec_folder: Path, dac_folder: Path):
    for folder in (encodec_folder, dac_folder):
        codec, waveform = open_neural(folder, latent="continuous"), noise(1, 3_200) / 8
        latents = codec.encode(waveform)
        assert torch.equal(latents, codec.model.encoder(waveform[:, None]))
        sound = codec.model.decoder(latents)[:, 0]
        torch.testing.assert_close(codec.decode(latents)[:, : sound.shape[-1]], sound)


@given(st.integers(1, 2_000))
def test_networks_know_their_frame_count_without_running(encodec: NeuralCodec, dac: NeuralCodec, samples: int):
    for codec in (encodec, dac):
        latents = codec.encode(torch.ones(1, samples) / 8)
        assert latents.shape[-1] == codec.frames(samples)
        assert codec.decode(latents, samples).shape == (1, samples)


def test_the_hop_is_the_product_of_the_ratios_whatever_the_configuration_says(dac_folder: Path, tmp_path: Path):
    text = (dac_folder / "config.json").read_text()
    (tmp_path / "config.json").write_text(text.replace('"hop_length": 320', '"hop_length": 512'))
    assert '"hop_length": 512' in (tmp_path / "config.json").read_text()
    assert read_shape(tmp_path).hop_samples == 320


@pytest.mark.parametrize("change", ['"audio_channels": 2', '"normalize": true', '"chunk_length_s": 1.0'])
def test_the_stereo_encodec_is_refused(change: str, encodec_folder: Path, tmp_path: Path):
    name = change.split(":")[0]
    lines = (encodec_folder / "config.json").read_text().splitlines()
    changed = [f"  {change}," if line.strip().startswith(name) else line for line in lines]
    (tmp_path / "config.json").write_text("\n".join(changed))
    with pytest.raises(DataProblem, match="describes no mono EnCodec or DAC"):
        read_shape(tmp_path)


def test_weights_with_a_tensor_missing_are_refused_and_not_filled_with_noise(encodec_folder: Path, tmp_path: Path):
    from safetensors.torch import load_file, save_file

    tensors = load_file(encodec_folder / "model.safetensors")
    lost = next(name for name in tensors if name.startswith("decoder"))
    save_file({name: tensor for name, tensor in tensors.items() if name != lost}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((encodec_folder / "config.json").read_bytes())
    with pytest.raises(DataProblem, match="1 tensors are missing"):
        open_neural(tmp_path)


def test_a_folder_that_does_not_exist_names_the_setting_and_the_fall_back(tmp_path: Path):
    with pytest.raises(CodecUnavailable, match=r"codec:encodec_24khz@FOLDER.*codec:linear"):
        open_neural(tmp_path / "absent")


def test_opening_a_folder_asks_no_network(encodec_folder: Path, tmp_path: Path):
    with heard_of_sockets() as heard:
        open_neural(encodec_folder)
        with pytest.raises(CodecUnavailable):
            open_neural(tmp_path / "absent")
    assert heard == []
    with heard_of_sockets() as heard, socket.socket() as here, pytest.raises(OSError):
        here.connect(("127.0.0.1", 9))
    assert heard == ["socket.connect"]
