"""Streams of packets that say their own size: MP3, AAC in ADTS, AC-3. Where each begins, how long all are together."""

import re
import struct
from collections.abc import Callable
from functools import lru_cache
from io import BufferedIOBase
from typing import NamedTuple

from shards.containers.container import AudioHeader, DecodeError, bytes_at, refuse_missing, size_of, tags_end

_SEARCHED_BYTES = 1 << 16  # some writers leave zeros or a tag that nobody knows before the first packet
_CONSECUTIVE = 3  # as many headers must follow each other to believe that a file is a stream of packets
_SLACK_PACKETS = 2  # a first and a last packet that some decoders keep for themselves
_HEAD_BYTES = 7
_SYNC = re.compile(rb"\xff(?=[\xe0-\xff])|\x0b(?=\x77)")
_STALE_BYTES = 8192  # a Xing header is believed when the file is longer than it says by less than this


class Packet(NamedTuple):
    """What four to seven bytes at the beginning of a packet say."""

    size_bytes: int
    samples: int
    sample_rate_hz: int
    channels: int


_MP3_RATES_HZ = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
_MP3_KILOBITS = {
    (True, 3): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 1): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 3): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 1): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_ADTS_RATES_HZ = (96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000, 7_350)
_AC3_RATES_HZ = (48_000, 44_100, 32_000)
_AC3_KILOBITS = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 576, 640)
_AC3_CHANNELS = (2, 1, 2, 3, 3, 4, 4, 5)


def mp3_packet(head: bytes) -> Packet | None:
    """MPEG 1, 2 and 2.5, layers I to III (ISO 11172-3, 2.4.2.3); None where no packet begins. No free format."""
    return _mpeg_packet(int.from_bytes(head[:4], "big") & 0xFFFFFEC0)  # without the bits that no length depends on


@lru_cache
def _mpeg_packet(word: int) -> Packet | None:
    version, layer = word >> 19 & 3, word >> 17 & 3
    kilobits_index, rate_index, padding = word >> 12 & 15, word >> 10 & 3, word >> 9 & 1
    if word >> 21 != 0x7FF or version == 1 or not layer or kilobits_index in (0, 15) or rate_index == 3:
        return None
    rate_hz = _MP3_RATES_HZ[version][rate_index]
    bits_per_second = 1000 * _MP3_KILOBITS[version == 3, layer][kilobits_index]
    samples = 384 if layer == 3 else 576 if layer == 1 and version != 3 else 1152
    slot_bytes = 4 if layer == 3 else 1
    size_bytes = (samples // 8 * bits_per_second // (rate_hz * slot_bytes) + padding) * slot_bytes
    return Packet(size_bytes, samples, rate_hz, 1 if word >> 6 & 3 == 3 else 2)


def adts_packet(head: bytes) -> Packet | None:
    """AAC with ADTS headers (ISO 13818-7, 6.2); the core's rate, which spectral band replication doubles."""
    word = int.from_bytes(head[:7].ljust(7, b"\0"), "big")
    layer, rate_index, size_bytes = word >> 41 & 3, word >> 34 & 15, word >> 13 & 0x1FFF
    if word >> 44 != 0xFFF or layer or rate_index >= len(_ADTS_RATES_HZ) or size_bytes < 7:
        return None
    return Packet(size_bytes, 1024 * ((word & 3) + 1), _ADTS_RATES_HZ[rate_index], (word >> 30 & 7) or 2)


def ac3_packet(head: bytes) -> Packet | None:
    """AC-3 (ATSC A/52, 5.3 and 5.4.2); None for E-AC-3."""
    if len(head) < 7 or head[:2] != b"\x0b\x77" or head[5] >> 3 > 8:
        return None
    rate_index, size_index, mode = head[4] >> 6, head[4] & 63, head[6] >> 5
    if rate_index == 3 or size_index >= 2 * len(_AC3_KILOBITS):
        return None
    rate_hz = _AC3_RATES_HZ[rate_index]
    words = _AC3_KILOBITS[size_index // 2] * 96_000 // rate_hz + (rate_index == 1 and size_index % 2)
    mix_level_bits = 2 * (mode in (3, 5, 7)) + 2 * (mode >= 4) + 2 * (mode == 2)
    has_bass = head[6] >> 4 - mix_level_bits & 1
    return Packet(2 * words, 1536, rate_hz, _AC3_CHANNELS[mode] + has_bass)


PACKETS: dict[str, Callable[[bytes], Packet | None]] = {
    "mp3-stream": mp3_packet,
    "aac-stream": adts_packet,
    "ac3-stream": ac3_packet,
}


def first_packet(file: BufferedIOBase) -> tuple[str, int] | None:
    """Which kind of stream a file is and where it begins, after tags and unknown bytes; None when it is none."""
    start = tags_end(file)
    file.seek(start)
    found = _stream_in(file.read(_SEARCHED_BYTES))
    return (found[0], start + found[1]) if found else None


def mp3_header(file: BufferedIOBase, start: int) -> AudioHeader:
    """Length as a Xing or Info header counts it, less the encoder's delay and padding; else by counting packets."""
    packet = mp3_packet(bytes_at(file, start, _HEAD_BYTES))
    assert packet, "an MP3 begins with a packet"
    count = _xing_count(bytes_at(file, start, packet.size_bytes))
    if count is None:
        return stream_header(file, "mp3-stream", start)
    present_bytes = size_of(file) - start
    slack_packets = 0 if count.trimmed_samples else 1  # who counts samples counts right; others add their own packet
    refuse_missing("MP3", count.size_bytes - slack_packets * packet.size_bytes, present_bytes)
    if count.size_bytes and present_bytes - count.size_bytes > _STALE_BYTES and _goes_on(file, start, count.size_bytes):
        return stream_header(file, "mp3-stream", start)
    samples = max(count.packets * packet.samples - count.trimmed_samples, 0)
    return _header(samples, packet, "mp3", slack_packets)


def stream_header(file: BufferedIOBase, kind: str, start: int) -> AudioHeader:
    """Length by counting packets, which reads the whole file; the last packet must be whole."""
    starts, packet = packet_starts(file, kind, start)
    return _header(len(starts) * packet.samples, packet, kind, _SLACK_PACKETS)


def packet_starts(file: BufferedIOBase, kind: str, first: int) -> tuple[list[int], Packet]:
    """Where each packet with audio begins, and the first one; what follows the last may be a tag, but no audio."""
    file.seek(first)
    stream, packet_at = file.read(), PACKETS[kind]
    packets, position = [], 0
    while packet := packet_at(stream[position : position + _HEAD_BYTES]):
        packets.append((first + position, packet))
        position += packet.size_bytes
    refuse_missing("last packet", position, len(stream))
    if _stream_in(stream[position : position + _SEARCHED_BYTES]):
        raise DecodeError(
            f"it is damaged: what stands at byte {first + position:,} is no audio packet, yet some follow"
        )
    is_index = any(word in stream[: packets[0][1].size_bytes] for word in (b"Xing", b"Info", b"VBRI"))
    return [start for start, _ in packets[is_index:]], packets[0][1]


class _Count(NamedTuple):
    """What a Xing or Info header says of the stream behind it; `size_bytes` is 0 where it does not."""

    packets: int
    size_bytes: int
    trimmed_samples: int


def _xing_count(packet: bytes) -> _Count | None:
    """The header that LAME and most others hide in a first packet of silence; None without one that counts packets."""
    position = max(packet[:64].find(b"Xing"), packet[:64].find(b"Info"))
    if position < 0 or len(packet) < position + 16 or not packet[position + 7] & 1:
        return None
    flags, packets = struct.unpack_from(">II", packet, position + 4)
    size_bytes = struct.unpack_from(">I", packet, position + 12)[0] if flags & 2 else 0
    encoder = position + 8 + 4 + 4 * (flags >> 1 & 1) + 100 * (flags >> 2 & 1) + 4 * (flags >> 3 & 1)
    gaps = int.from_bytes(packet[encoder + 21 : encoder + 24], "big")  # 12 bits of delay, 12 bits of padding
    return _Count(packets, size_bytes, (gaps >> 12) + (gaps & 0xFFF))


def _goes_on(file: BufferedIOBase, start: int, size_bytes: int) -> bool:
    """Whether audio follows where the count ends: files were joined, or cut and the old count left in."""
    file.seek(start + size_bytes)
    return _stream_in(file.read(_SEARCHED_BYTES)) is not None


def _header(samples: int, packet: Packet, container: str, slack_packets: int) -> AudioHeader:
    slack_seconds = slack_packets * packet.samples / packet.sample_rate_hz
    return AudioHeader(
        samples / packet.sample_rate_hz, packet.sample_rate_hz, packet.channels, container, slack_seconds
    )


def _stream_in(searched: bytes) -> tuple[str, int] | None:
    """The first position at which a stream of any kind begins."""
    for match in _SYNC.finditer(searched):
        for kind, packet_at in PACKETS.items():
            if _is_stream(searched, match.start(), packet_at):
                return kind, match.start()
    return None


def _is_stream(searched: bytes, position: int, packet_at: Callable[[bytes], Packet | None]) -> bool:
    """A few headers of one rate in a row, or fewer up to the very end."""
    rates = set()
    for _ in range(_CONSECUTIVE):
        packet = packet_at(searched[position : position + _HEAD_BYTES])
        if packet is None:
            return False
        rates.add(packet.sample_rate_hz)
        position += packet.size_bytes
        if position == len(searched):
            break
    return len(rates) == 1
