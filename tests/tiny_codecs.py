"""EnCodec and DAC in their true formats, some hundred kilobytes each, with random weights that nobody trained."""

from pathlib import Path
from typing import Any

import torch


def tiny_encodec(*, is_trained: bool = True) -> Any:
    """168,382 parameters, 16 numbers a frame, 6 codebooks of 64; those are zero unless `is_trained`."""
    from transformers import EncodecConfig, EncodecModel

    config = EncodecConfig(
        num_filters=4,
        hidden_size=16,
        codebook_dim=16,
        codebook_size=64,
        num_lstm_layers=1,
        target_bandwidths=[1.5, 3.0],
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = EncodecModel(config).eval()
        for layer in model.quantizer.layers:
            layer.codebook.embed.normal_(std=0.3 if is_trained else 0.0)
    return model


def tiny_dac() -> Any:
    """390,731 parameters, 128 numbers a frame, 4 codebooks of 64, at 16 kHz."""
    from transformers import DacConfig, DacModel

    config = DacConfig(
        encoder_hidden_size=8,
        decoder_hidden_size=32,
        downsampling_ratios=[2, 4, 5, 8],
        n_codebooks=4,
        codebook_size=64,
        codebook_dim=4,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return DacModel(config).eval()


def write(model: Any, folder: Path) -> Path:
    """The model as a folder with config.json and model.safetensors."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    model.save_pretrained(folder)
    return folder
