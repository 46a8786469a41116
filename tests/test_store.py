"""Files are whole or absent, and their digests are the field's own."""

import hashlib
import json
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.problem import EnvironmentProblem
from shards.store import canonical_json, digest_of, remove_partials, sha256_of, whole_file

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def test_a_file_whose_writer_fails_does_not_exist(tmp_path: Path):
    with pytest.raises(ValueError), whole_file(tmp_path / "a") as file:
        file.write(b"half")
        raise ValueError
    assert list(tmp_path.iterdir()) == []


def test_an_old_file_survives_a_failed_replacement(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(ValueError), whole_file(tmp_path / "a") as file:
        file.write(b"half of the new")
        raise ValueError
    assert (tmp_path / "a").read_bytes() == b"old"


def test_a_writer_killed_between_two_writes_leaves_nothing_under_the_name(tmp_path: Path):
    program = f"""
import os, pathlib, signal
from shards.store import whole_file
with whole_file(pathlib.Path({str(tmp_path)!r}) / "a") as file:
    file.write(bytes(1 << 20)); file.flush(); os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", program]).returncode == -signal.SIGKILL
    assert not (tmp_path / "a").exists()
    assert remove_partials(tmp_path) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_an_error_with_path_and_free_space_and_leaves_nothing(tmp_path: Path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        message = r"a could not be written.*MiB are free.*repeat the same command"
        with pytest.raises(EnvironmentProblem, match=message), whole_file(tmp_path / "a") as file:
            file.write(bytes(20_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)
    assert list(tmp_path.iterdir()) == []


@given(st.dictionaries(st.text(), _JSON))
def test_a_digest_ignores_the_order_of_keys_and_nothing_else(content: dict):
    turned = dict(reversed(content.items()))
    assert digest_of(content) == digest_of(turned)
    assert json.loads(canonical_json(content)) == content
    assert digest_of(content) != digest_of({**content, "one more": 1})


def test_a_files_digest_is_sha256_of_its_bytes(tmp_path: Path):
    payload = bytes(range(256)) * 8193
    (tmp_path / "a").write_bytes(payload)
    assert sha256_of(tmp_path / "a") == hashlib.sha256(payload).hexdigest()
