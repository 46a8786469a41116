"""Samples as arrays: what comes back and how near, what is refused, and views cut from a built column."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from shards.example import Clip
from shards.feature import Feature, load_feature
from shards.features.waveform import Waveform
from shards.problem import UsageProblem

WAVEFORM = load_feature("waveform")
HALF_A_STEP = 2.0**-16


@given(arrays.arrays(np.float32, (1, 50), elements=st.floats(-1.0, 1.0 - 2.0**-15, width=32)))
def test_amplitudes_come_back_within_the_contracts_bound(waveform: np.ndarray):
    (stored,) = WAVEFORM([Clip(waveform, 16_000)])
    assert (stored.dtype, stored.shape) == (np.int16, (1, 50))
    found = WAVEFORM.restore(torch.from_numpy(stored)).numpy()
    assert np.abs(found - waveform).max() <= WAVEFORM.contract["absolute_error"] == HALF_A_STEP


def test_full_scale_is_cut_off_and_a_tenth_of_it_refused():
    loud = Clip(np.float32([[1.5, -1.5] + [0.1] * 98]), 16_000)
    (stored,) = WAVEFORM([loud])
    assert stored[0, :2].tolist() == [32_767, -32_768]
    with pytest.raises(ValueError, match="too loud for 16 bits: 20%"):
        WAVEFORM([Clip(np.float32([[2.0] * 20 + [0.1] * 80]), 16_000)])
    with pytest.raises(ValueError, match="no sample"):
        WAVEFORM([Clip(np.zeros((1, 0), np.float32), 16_000)])


def test_what_is_stored_can_be_heard():
    clip = Clip(np.float32([[0.0, 0.25, -0.5]]), 16_000)
    heard = WAVEFORM.preview(WAVEFORM([clip])[0])
    assert heard.sample_rate_hz == 16_000
    np.testing.assert_array_equal(heard.waveform, clip.waveform)


def test_words_columns_and_lengths():
    other = load_feature("waveform:24000")
    assert isinstance(WAVEFORM, Feature) and isinstance(other, Feature)
    assert (WAVEFORM.column, WAVEFORM.word, WAVEFORM.sample_rate_hz) == ("waveform", "waveform", 16_000)
    assert (other.column, other.word) == ("waveform-24000", "waveform:24000")
    assert load_feature(other.word) == other == Waveform(24_000)
    assert WAVEFORM.frames(12_345) == 12_345


@pytest.mark.parametrize("word", ["waveform:fast", "waveform:0", "waveform:400000", "waveform@weights"])
def test_wrong_words_are_refused_with_a_remedy(word: str):
    with pytest.raises(UsageProblem, match="waveform"):
        load_feature(word)
