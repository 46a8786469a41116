"""One recording in a child process of its own: ffmpeg behind limits, for what no library here reads or survives.

The child gets the bytes on its standard input and may use no other protocol; it is told the container, so it guesses
none; memory, processor time, temporary space and wall-clock time are limited; it has no network where the system lets
us take it away, and is killed with all it started. It costs about 70 ms before the first sample.
"""

import os
import shutil
import signal
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from io import BufferedIOBase
from threading import Timer

import ffmpeg
import numpy as np

from shards.containers.container import DEMUXERS, AudioHeader, Block, DecodeError

_WITHOUT_NETWORK = ("unshare", "--user", "--map-root-user", "--net")
_READ_BYTES = 1 << 20
_FLOAT_SUN_AUDIO = 6  # the coding of 32-bit floats in a .au header


@dataclass(frozen=True)
class Limits:
    """What the child may use; more kills it. Its temporary file may be a little larger than its source."""

    memory_bytes: int = 1 << 30
    cpu_seconds: int = 60
    wall_seconds: float = 120.0
    output_bytes: int = 1 << 31


def is_installed() -> bool:
    """Whether there is an ffmpeg to start, and the program that limits it."""
    return bool(shutil.which("ffmpeg") and shutil.which("prlimit"))


@cache
def takes_network_away() -> bool:
    """Whether a child can be started in an empty network; else its white list of protocols alone keeps it off ours."""
    if not shutil.which(_WITHOUT_NETWORK[0]):
        return False
    return not subprocess.run([*_WITHOUT_NETWORK, "true"], capture_output=True, check=False).returncode


def read(
    source: bytes, header: AudioHeader, start_seconds: float, seconds: float | None, *, limits: Limits = Limits()
) -> Iterator[tuple[Block, int]]:
    """One block from `start_seconds` on, and its rate in Hz.

    Decodes from the beginning, so that the start is exact in every format. Raises DecodeError with ffmpeg's last line,
    or with the limit that it met.
    """
    if not is_installed():
        raise DecodeError("there is no ffmpeg (or no prlimit) to read it in a process of its own")
    words = _words(header, limits, temporary_bytes=len(source) + (1 << 20))
    with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as complaints:
        stdin.write(source)
        stdin.seek(0)
        child = _started(words, stdin.fileno(), complaints.fileno())
        watch = Timer(limits.wall_seconds, _kill, [child])
        watch.start()
        try:
            samples, rate_hz = _samples(child, start_seconds, seconds, limits.output_bytes)
        except EOFError:
            raise DecodeError(_last_words(child.wait(), _end_of(complaints), limits)) from None
        finally:
            watch.cancel()
            _kill(child)
            child.wait()
            if child.stdout:
                child.stdout.close()
    yield samples, rate_hz


def _started(words: list[str], stdin: int, complaints: int) -> subprocess.Popen:
    """In a process group of its own, with nothing of our environment but the path of programs."""
    return subprocess.Popen(
        words,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=complaints,
        cwd="/",
        env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
        start_new_session=True,
    )


def _words(header: AudioHeader, limits: Limits, *, temporary_bytes: int) -> list[str]:
    """The command line: limits, then ffmpeg from a cached pipe (an m4a has its index at the end) to a .au of floats."""
    prlimit = (
        "prlimit",
        f"--as={limits.memory_bytes}",
        f"--cpu={limits.cpu_seconds}:{limits.cpu_seconds + 1}",
        f"--fsize={temporary_bytes}",
        "--core=0",
    )
    bounds = (*_WITHOUT_NETWORK, *prlimit) if takes_network_away() else prlimit
    closed = {"enable_drefs": 0} if header.container == "mov" else {}
    is_declared = header.seconds is not None and header.slack_seconds is not None
    strict = () if is_declared else ("-xerror",)  # whoever knows the length sees what was left out
    stream = ffmpeg.input(
        "cache:pipe:0",
        read_ahead_limit=-1,  # by default it gives up where an index is further away than 64 kB
        format=DEMUXERS[header.container],
        format_whitelist=",".join(sorted(set(DEMUXERS.values()))),
        protocol_whitelist="cache,pipe",
        threads=1,
        **closed,
    )
    output = ffmpeg.output(stream["a:0"], "pipe:1", format="au", acodec="pcm_f32be", threads=1)
    return output.global_args("-hide_banner", "-nostdin", "-loglevel", "error", *strict).compile(
        cmd=[*bounds, "ffmpeg"]
    )


def _samples(
    child: subprocess.Popen, start_seconds: float, seconds: float | None, most_bytes: int
) -> tuple[Block, int]:
    """What was asked for, and the rate. Raises EOFError where the child failed instead of coming to its end."""
    assert child.stdout
    head = child.stdout.read(24)
    if len(head) < 24:
        raise EOFError
    magic, offset, _, coding, rate_hz, channels = struct.unpack(">4s5I", head)
    if magic != b".snd" or offset < 24 or coding != _FLOAT_SUN_AUDIO or not 0 < channels <= 1024:
        raise DecodeError("the ffmpeg child wrote something else than samples")
    for _ in _pieces(child, offset - 24 + 4 * channels * round(start_seconds * rate_hz)):
        pass
    wanted_bytes = most_bytes + 1 if seconds is None else 4 * channels * round(seconds * rate_hz)
    samples = b"".join(_pieces(child, min(wanted_bytes, most_bytes + 1)))
    if len(samples) > most_bytes:
        raise DecodeError(f"it decodes to more than {most_bytes:,} bytes: ask for a part of it")
    if len(samples) < wanted_bytes and child.wait():
        raise EOFError
    whole_bytes = len(samples) // (4 * channels) * (4 * channels)
    return list(np.frombuffer(samples[:whole_bytes], ">f4").astype(np.float32).reshape(-1, channels).T), rate_hz


def _pieces(child: subprocess.Popen, count: int) -> Iterator[bytes]:
    """The next `count` bytes of its output, or those up to the end."""
    assert child.stdout
    while count and (piece := child.stdout.read(min(count, _READ_BYTES))):
        count -= len(piece)
        yield piece


def _kill(child: subprocess.Popen) -> None:
    """The child and all that it started; nothing when it has ended and been waited for."""
    if child.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)


def _end_of(file: BufferedIOBase) -> str:
    file.seek(max(file.seek(0, os.SEEK_END) - 4096, 0))
    return file.read().decode(errors="replace").strip()


def _last_words(status: int, complaints: str, limits: Limits) -> str:
    if status == -signal.SIGKILL:
        return f"ffmpeg was killed: it took more than {limits.wall_seconds:g} s, or was out of memory"
    if status == -signal.SIGXCPU:
        return f"ffmpeg was killed: it used more than {limits.cpu_seconds} s of processor time"
    if status == -signal.SIGXFSZ:
        return "ffmpeg was killed: it needed more temporary space than its source has bytes"
    if status < 0:
        return f"ffmpeg crashed with signal {-status}"
    return f"ffmpeg cannot read it: {complaints.splitlines()[-1][-200:] if complaints else f'status {status}'}"
