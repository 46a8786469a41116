"""The child decodes what we decode, within its limits, and nothing that it is given opens anything else."""

import io
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from shards import ffmpeg, libav
from shards.containers.container import DEMUXERS, AudioHeader, DecodeError
from shards.containers.header import read_header
from shards.decode import decode
from shards.ffmpeg import Limits
from tests.media import FORMATS, NEEDS_FFMPEG, decibels, encoded

pytestmark = NEEDS_FFMPEG


class Canary:
    """A file that notices being opened, and a port that notices being called."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "canary.wav"
        os.mkfifo(self.path)
        self.was_opened = threading.Event()
        self.port = socket.create_server(("127.0.0.1", 0))
        self.port.setblocking(False)
        self._watch = threading.Thread(target=self._wait_for_a_reader, daemon=True)
        self._watch.start()

    def _wait_for_a_reader(self) -> None:
        with self.path.open("wb"):  # returns when somebody opens the other end
            self.was_opened.set()

    def was_called(self) -> bool:
        try:
            self.port.accept()[0].close()
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        reader = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)
        self._watch.join(timeout=10)
        os.close(reader)
        self.port.close()


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Canary]:
    canary = Canary(tmp_path)
    yield canary
    canary.close()


def scripts(canary: Canary) -> dict[str, bytes]:
    """What hostile files look like: each asks its reader to open the canary."""
    file, port = canary.path.as_uri(), f"http://127.0.0.1:{canary.port.getsockname()[1]}/canary.wav"
    hls = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2.0,\n{}\n#EXT-X-ENDLIST\n"
    return {
        "concat": f"ffconcat version 1.0\nfile '{canary.path}'\n".encode(),
        "concat of a url": f"ffconcat version 1.0\nfile 'file:{canary.path}'\n".encode(),
        "concat of a port": f"ffconcat version 1.0\nfile '{port}'\n".encode(),
        "hls": hls.format(file).encode(),
        "hls of a port": hls.format(port).encode(),
        "hls of a concat protocol": hls.format(f"concat:{canary.path}|{canary.path}").encode(),
        "sdp": f"v=0\nc=IN IP4 127.0.0.1\nm=audio {canary.port.getsockname()[1]} RTP/AVP 0\n".encode(),
    }


def test_the_canary_notices_an_ffmpeg_without_our_limits(canary: Canary):
    """Otherwise the tests below could not fail."""
    for name, words in (("concat of a url", ("-f", "concat", "-safe", "0")), ("hls of a port", ("-f", "hls"))):
        opened = ("-protocol_whitelist", "file,pipe,http,tcp", *words, "-i", "-", "-f", "null", "-")
        child = subprocess.Popen(["ffmpeg", "-v", "error", *opened], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
        with suppress(subprocess.TimeoutExpired):
            child.communicate(scripts(canary)[name], timeout=2)
        child.kill()
        child.wait()
    assert canary.was_opened.wait(timeout=5) and canary.was_called()


@pytest.mark.parametrize("isolated", [False, True])
def test_a_script_with_an_audio_name_opens_nothing(canary: Canary, isolated: bool):
    for script in scripts(canary).values():
        with pytest.raises(DecodeError, match="begin like no audio container"):
            decode(script, isolated=isolated)
    assert not canary.was_opened.is_set() and not canary.was_called()


@pytest.mark.parametrize("read", [libav.read, ffmpeg.read], ids=["in process", "in a child"])
def test_a_script_that_got_past_our_recognition_opens_nothing_either(canary: Canary, read):
    for script in scripts(canary).values():
        for container in ("wav", "mp3", "ogg", "mov", "matroska") if read is libav.read else ("mp3", "mov"):
            with pytest.raises(DecodeError):
                list(read(script, AudioHeader(None, 44_100, 2, container), 0.0, None))
    assert not canary.was_opened.is_set() and not canary.was_called()


@pytest.mark.parametrize("name", FORMATS)
def test_the_child_gives_what_this_process_gives(name: str):
    ours, isolated = (decode(encoded(name), channels="keep", isolated=isolated) for isolated in (False, True))
    assert isolated.waveform.shape == ours.waveform.shape and isolated.sample_rate_hz == ours.sample_rate_hz
    assert decibels(isolated.waveform - ours.waveform, ours.waveform) < -100


def test_a_part_from_the_child_is_the_same_part_of_the_whole():
    source = encoded("alac")
    part = decode(source, start_seconds=1.25, seconds=0.5, isolated=True)
    np.testing.assert_array_equal(part.waveform, decode(source).waveform[:, 55_125 : 55_125 + 22_050])


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Puts another program in ffmpeg's place: one that does what a decoder gone wrong may do."""

    def put(script: str) -> None:
        program = tmp_path / "ffmpeg"
        program.write_text(f"#!/bin/bash\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    return put


def read_all(source: bytes, limits: Limits) -> list:
    return list(ffmpeg.read(source, read_header(io.BytesIO(source)), 0.0, None, limits=limits))


SUN_AUDIO = r"printf '.snd\0\0\0\x18\xff\xff\xff\xff\0\0\0\6\0\0\xac\x44\0\0\0\1'"


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("sleep 60", "more than 1 s"),
        (f"{SUN_AUDIO}; sleep 60", "more than 1 s"),
        ("while :; do :; done", "1 s of processor time"),
        ("kill -SEGV $$", "crashed with signal 11"),
        ("head -c 9000000 /dev/zero > $(mktemp)", "File size limit exceeded|temporary space|status"),
        ("tail /dev/zero", "memory exhausted|allocate"),
        (f"{SUN_AUDIO}; cat /dev/zero", "more than 5,000,000 bytes"),
        (f"{SUN_AUDIO}; head -c 400 /dev/zero; echo broken packet >&2; exit 1", "broken packet"),
        ("yes | head -c 100", "something else than samples"),
        ("exit 0", "status 0"),
    ],
)
def test_a_decoder_gone_wrong_costs_one_recording_and_a_second(stand_in, script: str, reason: str):
    stand_in(script)
    begin = time.monotonic()
    limits = Limits(
        memory_bytes=300_000_000,
        cpu_seconds=1 if "while" in script else 10,
        wall_seconds=1.0 if "sleep" in script else 10.0,
        output_bytes=5_000_000,
    )
    with pytest.raises(DecodeError, match=reason):
        read_all(encoded("wav-16"), limits)
    assert time.monotonic() - begin < 8


def test_what_the_child_started_dies_with_it(stand_in, tmp_path: Path):
    stand_in(f"sleep 61.25 & echo $! > {tmp_path}/started; wait")
    with pytest.raises(DecodeError, match="more than 1 s"):
        read_all(encoded("wav-16"), Limits(wall_seconds=1.0))
    status = Path("/proc") / (tmp_path / "started").read_text().strip() / "stat"
    for _ in range(50):
        if not status.exists() or status.read_text().split()[2] == "Z":
            return
        time.sleep(0.1)
    pytest.fail("it lives on")


@pytest.mark.skipif(not ffmpeg.takes_network_away(), reason="this system lends no empty network")
def test_the_child_has_no_network(stand_in):
    stand_in("echo interfaces: $(tail -n +3 /proc/net/dev | grep -vc ' lo:') >&2; exit 1")
    with pytest.raises(DecodeError, match="interfaces: 0"):
        read_all(encoded("wav-16"), Limits())


def test_the_child_gets_no_secret_of_our_environment(stand_in, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("A_SECRET", "1")
    stand_in("echo found: $(env | grep -c SECRET) >&2; exit 1")
    with pytest.raises(DecodeError, match="found: 0"):
        read_all(encoded("wav-16"), Limits())


def test_every_container_has_a_name_that_both_ffmpegs_know():
    known = subprocess.run(["ffmpeg", "-v", "quiet", "-demuxers"], capture_output=True, text=True, check=True).stdout
    names = {name for line in known.splitlines() for name in [*line.split(), "", ""][1].split(",")}
    assert set(DEMUXERS.values()) <= names
