"""Some examples of a dataset as a person meets them: pictures of their arrays, players, labels."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from shards.decode import DecodeError, decode, flac_bytes
from shards.example import Clip
from shards.feature import Feature, Fitted, differences, load_feature
from shards.html.figures import data_uri, is_sparse, power_picture, value_picture
from shards.html.markup import Markup, element
from shards.manifest import WEIGHTS
from shards.problem import DataProblem, UsageProblem
from shards.reader import Reader
from shards.survey import Part, index_row, shown_labels

SOUND_BYTES = 7_000_000  # of all players of a page together, before base64 adds a third
_MOST_SOUND_BYTES, _LEAST_SOUND_BYTES = 512_000, 32_000  # of one player
_MOST_LABELS = 12


@dataclass(frozen=True)
class Column:
    """A column of a split, and the feature that can picture and play it, or why there is none."""

    reader: Reader
    opened: Mapping[str, Feature]
    """Features with weights, by their columns."""

    @property
    def name(self) -> str:
        return self.reader.column

    @property
    def contract(self) -> Mapping[str, object]:
        return self.reader.manifest.features[self.name]

    @property
    def is_power(self) -> bool:
        return self.contract.get("feature") == "mel"

    @property
    def suffix(self) -> str:
        return str(self.contract.get("member", "npy"))

    @property
    def is_sound(self) -> bool:
        return self.suffix != "npy"

    @cached_property
    def feature(self) -> Feature | None:
        """With its weights where they were given, or were fitted and lie with the dataset."""
        kept = self.reader.folder / self.name / WEIGHTS
        try:
            given = self.opened.get(self.name)
            if kept.is_file():
                closed = given or load_feature(str(self.contract["word"]))
                given = closed.with_fit(kept) if isinstance(closed, Fitted) else given
            return given if given and not differences(given, self.contract) else self.reader.feature
        except (DataProblem, UsageProblem):
            return None  # another version's, or a file of somebody's own: the stored values can still be seen

    def restored(self, row: int) -> np.ndarray:
        """The array of a row, (bands, frames), in the feature's own units where they are known."""
        stored = self.reader.read(row)
        values = self.feature.restore(torch.from_numpy(stored)).numpy() if self.feature else stored
        return values.reshape(len(values), -1)

    def sound(self, row: int) -> bytes | Clip | None:
        """What can be heard of a row: the bytes of an audio file as stored, or what the feature makes of its array."""
        if self.is_sound:
            return self.reader.payload(row)
        return self.feature.preview(self.reader.read(row)) if self.feature else None


def columns_of(part: Part, opened: Mapping[str, Feature]) -> list[Column]:
    """The columns of a split, stored audio first: one hears the original before what was made of it."""
    columns = [Column(Reader(part.folder, name), opened) for name in part.manifest.features]
    return sorted(columns, key=lambda column: (not column.is_sound, not column.is_power))


def rows_shown(sizes: Sequence[int], count: int, seed: int) -> list[list[int]]:
    """Up to `count` rows out of datasets of these sizes, each of which has its share, in ascending order."""
    rng = np.random.default_rng(seed)
    left, rows = min(count, sum(sizes)), []
    for place, size in enumerate(sizes):
        taken = min(size, max(left // (len(sizes) - place), left - sum(sizes[place + 1 :])))
        rows.append(sorted(rng.choice(size, taken, replace=False).tolist()))
        left -= taken
    return rows


def sounds_of(columns: Sequence[Column]) -> int:
    """How many players an example of these columns may have."""
    return sum(column.is_sound or column.feature is not None for column in columns)


def sound_bytes(players: int) -> int:
    """How much of a page one of its players may take."""
    return int(np.clip(SOUND_BYTES // max(players, 1), _LEAST_SOUND_BYTES, _MOST_SOUND_BYTES))


def example_card(part: Part, columns: Sequence[Column], row: int, *, most_bytes: int) -> Markup:
    """One example: its key and labels, then picture and player of each column."""
    about = identity(part, row)
    name = f"{part.name} example {about['index']}"
    heading = element("h3", element("span", part.name, class_="tag"), f" {about['key']}")
    seen = [view for column in columns for view in _views(column, row, name, about, most_bytes)]
    return element("article", heading, *seen, _facts(about), aria_label=name)


def identity(part: Part, row: int) -> dict[str, str]:
    """What the index says of a row: key, place and labels, classes by their names."""
    said = index_row(part, row)
    facts = {
        "key": str(said["key"]),
        "index": str(said["index"]),
        "file": str(said["source_path"]),
        "seconds": f"{said['seconds']:.2f}",
        "starts at": f"{said['start_seconds']:.2f} s",
    }
    for name in shown_labels(part.manifest.labels)[:_MOST_LABELS]:
        classes = part.manifest.labels[name].get("classes")
        facts[name] = spelled(said[f"label.{name}"], classes if isinstance(classes, Sequence) else ())
    for name in part.manifest.events:
        facts[name] = f"{len(said[f'events.{name}'] or ()):,} events"
    return facts


def spelled(value: object, classes: Sequence[str]) -> str:
    """A label's value for a person; by the names of its classes, where it has some."""
    if value is None:
        return "none"
    if isinstance(value, list):
        is_flags = len(value) == len(classes) and set(value) <= {0, 1}
        listed = [number for number, flag in enumerate(value) if flag] if is_flags else value
        return ", ".join(spelled(one, classes) for one in listed) or "none"
    if isinstance(value, int) and 0 <= value < len(classes):
        return str(classes[value])
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _facts(about: Mapping[str, str]) -> Markup:
    lines = [element("div", element("dt", name), element("dd", text)) for name, text in about.items() if name != "key"]
    return element("details", element("summary", "Labels and source"), element("dl", *lines))


def _views(column: Column, row: int, name: str, about: Mapping[str, str], most_bytes: int) -> Iterator[Markup]:
    if not column.is_sound:
        values = column.restored(row)
        if not values.size:  # a feature that was added later made nothing of it
            yield element("p", f"{column.name}: no frames", class_="soft")
            return
        yield _picture(column, values, name, about)
    if (sound := column.sound(row)) is not None:
        yield _player(column, sound, name, most_bytes)


def _picture(column: Column, values: np.ndarray, name: str, about: Mapping[str, str]) -> Markup:
    bands, frames = values.shape
    if column.is_power and column.feature:
        picture, kind = power_picture(values), "mel spectrogram, dB"
    elif is_sparse(values):
        picture, kind = power_picture(np.square(values)), "squares of its values, dB"
    else:
        picture, kind = value_picture(values), "its values"
    caption = f"{column.name}: {kind}, {bands:,} bands, {frames:,} frames"
    image = element("img", src=data_uri(picture, "image/png"), alt=f"{caption}, of {name}, {about['seconds']} s")
    return element("figure", image, element("figcaption", caption))


def _player(column: Column, sound: bytes | Clip, name: str, most_bytes: int) -> Markup:
    content, media_type, cut = _playable(sound, column.suffix, most_bytes)
    caption = f"{_heard(column)}{cut}"
    player = element(
        "audio", src=data_uri(content, media_type), controls="", preload="metadata", aria_label=f"{caption}, of {name}"
    )
    return element("figure", player, element("figcaption", caption))


def _heard(column: Column) -> str:
    if column.is_sound:
        return f"original, as stored in {column.name}"
    return f"not the original: decoded from {column.name}" + (", phases by Griffin-Lim" if column.is_power else "")


def _playable(sound: bytes | Clip, suffix: str, most_bytes: int) -> tuple[bytes, str, str]:
    """What an audio element plays in at most so many bytes, its type, and what to say where it had to be cut."""
    if isinstance(sound, bytes) and len(sound) <= most_bytes:
        return sound, f"audio/{suffix}", ""
    clip = decode(sound) if isinstance(sound, bytes) else sound
    scale = max(float(np.abs(clip.waveform).max(initial=0.0)), 1.0)
    part = Clip(clip.waveform / scale, clip.sample_rate_hz)
    while len(content := flac_bytes(part)) > most_bytes:
        samples = int(part.waveform.shape[1] * 0.95 * most_bytes / len(content))
        part = Clip(part.waveform[:, :samples], clip.sample_rate_hz)
    is_cut = part.seconds < clip.seconds
    return content, "audio/flac", f"; the first {part.seconds:.1f} of {clip.seconds:.1f} s" if is_cut else ""


def levels_db(columns: Sequence[Column], rows: Sequence[int]) -> np.ndarray:
    """How loud examples are: RMS of stored audio in dB of full scale, else mean power of the first mel in dB."""
    column = loudness_column(columns)
    return np.array([_level_db(column, row) for row in rows]) if column else np.empty(0)


def loudness_column(columns: Sequence[Column]) -> Column | None:
    """The first column that tells how loud its examples are."""
    return next((column for column in columns if column.is_sound or (column.is_power and column.feature)), None)


def _level_db(column: Column, row: int) -> float:
    if not column.is_sound:
        power = column.restored(row)
        return 10 * float(np.log10(max(power.mean(dtype=np.float64), 1e-12))) if power.size else float("nan")
    try:
        waveform = decode(column.reader.payload(row)).waveform
    except DecodeError:
        return float("nan")
    return 10 * float(np.log10(max(np.mean(np.square(waveform, dtype=np.float64)), 1e-12)))
