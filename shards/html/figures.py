"""Pictures of a dataset's page, drawn without any plotting library: PNG for arrays, SVG for counts and curves."""

import base64
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Shaped, UInt8

from shards.html.markup import Markup, element

_MAGMA = (  # every 32nd colour of matplotlib's `magma` (CC0): even steps of lightness, also without colour vision
    *((0, 0, 4), (28, 16, 68), (79, 18, 123), (129, 37, 129), (181, 54, 122)),
    *((229, 80, 100), (251, 135, 97), (254, 194, 135), (252, 253, 191)),
)
_MOST_COLUMNS, _MOST_ROWS = 640, 256
_DYNAMIC_RANGE_DB = 80.0
_LEAST_POWER = 1e-12
_CURVE_HEIGHT = 100
_LINES = {"0.5": "median", "mean": "mean"}
_MOST_LINEAR_RATIO, _MOST_LOGARITHMIC_RATIO = 30.0, 1e5


def power_picture(power: Shaped[np.ndarray, "bands frames"]) -> bytes:
    """PNG of a power spectrogram, low bands at the bottom, from 80 dB below its loudest cell."""
    level_db = 10 * np.log10(_thinned(power).clip(_LEAST_POWER))
    return _picture(level_db, level_db.max() - _DYNAMIC_RANGE_DB, level_db.max())


def value_picture(values: Shaped[np.ndarray, "bands frames"]) -> bytes:
    """PNG of any array; colours go from its 1st to its 99th percentile."""
    thinned = _thinned(values)
    low, high = np.quantile(thinned, [0.01, 0.99])
    return _picture(thinned, low, high)


def is_sparse(values: Shaped[np.ndarray, "bands frames"]) -> bool:
    """Whether few numbers of both signs are so much larger than most that a linear scale would show these alone."""
    sizes = np.abs(values.astype(np.float64))
    return bool((values < 0).any() and np.quantile(sizes, 0.99) > _MOST_LINEAR_RATIO * np.median(sizes))


def _thinned(values: Shaped[np.ndarray, "bands frames"]) -> np.ndarray:
    """Means of neighbours, so that a picture never has more cells than a screen can show."""
    values = np.nan_to_num(values.astype(np.float64))
    for axis, most in enumerate((_MOST_ROWS, _MOST_COLUMNS)):
        size = values.shape[axis]
        if size > most:
            begins = np.arange(most) * size // most
            values = np.add.reduceat(values, begins, axis) / np.expand_dims(np.diff([*begins, size]), 1 - axis)
    return values


def _picture(values: np.ndarray, low: float, high: float) -> bytes:
    share = ((values - low) / max(high - low, np.finfo(np.float64).tiny)).clip(0, 1)
    return _png(np.rint(share[::-1] * 255).astype(np.uint8))


def _png(cells: UInt8[np.ndarray, "rows columns"]) -> bytes:
    """A picture with the palette above (PNG specification, colour type 3)."""
    rows, columns = cells.shape
    header = struct.pack(">IIBBBBB", columns, rows, 8, 3, 0, 0, 0)
    lines = np.pad(cells, ((0, 0), (1, 0))).tobytes()  # each line begins with its filter, none
    blocks = [(b"IHDR", header), (b"PLTE", _palette()), (b"IDAT", zlib.compress(lines, 9)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_block(name, content) for name, content in blocks)


def _block(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def _palette() -> bytes:
    places = np.linspace(0, len(_MAGMA) - 1, 256)
    channels = [np.interp(places, range(len(_MAGMA)), channel) for channel in zip(*_MAGMA, strict=True)]
    return np.rint(np.stack(channels, axis=1)).astype(np.uint8).tobytes()


def data_uri(content: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def histogram(values: Mapping[str, np.ndarray], *, unit: str, about: str, bins: int = 40) -> Markup:
    """Stacked counts of the values of each split over common bins, with the ends of the axis in words."""
    together = np.concatenate([np.empty(0), *values.values()])
    if not len(together):
        return element("p", "None.")
    low, high = float(together.min()), float(together.max())
    if low == high:
        return element("p", f"All {len(together):,} are {_spelled(low, unit)}.")
    edges = np.histogram_bin_edges(together, bins=bins)
    heights = np.stack([np.histogram(part, edges)[0] for part in values.values()])
    ends = [_spelled(low, unit), f"median {_spelled(float(np.median(together)), unit)}", _spelled(high, unit)]
    said = f"{about}: {len(together):,} values from {ends[0]} to {ends[2]}, {ends[1]}"
    bars = element("svg", *_stacks(heights), **_chart(heights.shape[1], int(heights.sum(axis=0).max()), said))
    labels = element("div", *(element("span", text) for text in ends), class_="axis")
    return element("div", bars, labels, class_="chart")


def _spelled(value: float, unit: str) -> str:
    """Four digits, and all of whole numbers."""
    number = f"{value:,.0f}" if value.is_integer() and abs(value) < 1e15 else f"{value:,.4g}"
    return f"{number} {unit}".strip()


def _stacks(heights: np.ndarray) -> list[Markup]:
    top, bars = heights.sum(axis=0).max(), []
    for series, row in enumerate(heights):
        below = heights[:series].sum(axis=0)
        for place, (count, base) in enumerate(zip(row.tolist(), below.tolist(), strict=True)):
            if count:
                at = {"x": place + 0.05, "y": top - base - count, "width": 0.9, "height": count}
                bars.append(element("rect", class_=f"split{series % 6}", **at))
    return bars


def bar(counts: Sequence[int], most: int) -> Markup:
    """One line of a bar chart: the counts of the splits side by side; `most` fills the line."""
    begins = np.cumsum([0, *counts])
    parts = [
        element("rect", class_=f"split{series % 6}", x=int(begin), y=0, width=count, height=1)
        for series, (begin, count) in enumerate(zip(begins.tolist(), counts, strict=False))
        if count
    ]
    return element("svg", *parts, **{**_chart(most, 1, None), "class": "bar"})


def curves(statistics: Mapping[str, Any], *, about: str) -> Markup:
    """Mean and quantiles of every band, in stored units; logarithmic where values are above 0 and differ a lot."""
    rows = {share: np.asarray(row, np.float64) for share, row in statistics["quantiles"].items()}
    rows["mean"] = np.asarray(statistics["mean"], np.float64)
    shown = [rows[name] for name in ("0.01", "0.99", "mean")]
    low, high = min(float(row.min()) for row in shown), max(float(row.max()) for row in shown)
    ends, axis = f"{low:.3g} to {high:.3g}", "values"
    if low > 0 and high > _MOST_LINEAR_RATIO * float(np.median(rows["0.5"])):
        low = max(low, high / _MOST_LOGARITHMIC_RATIO)
        ends, axis = f"{low:.3g} to {high:.3g}", "values on a logarithmic scale"
        rows, low, high = {name: np.log(row.clip(low)) for name, row in rows.items()}, np.log(low), np.log(high)
    heights = {name: (high - row) / max(high - low, 1e-30) * _CURVE_HEIGHT for name, row in rows.items()}
    drawn = [
        _area(heights["0.01"], heights["0.99"], "outer"),
        _area(heights["0.25"], heights["0.75"], "inner"),
        *(element("polyline", points=_points(heights[name]), class_=kind) for name, kind in _LINES.items()),
    ]
    last = len(rows["mean"]) - 1
    figure = element("svg", *drawn, **_chart(max(last, 1), _CURVE_HEIGHT, f"{about}: {axis} from {ends}"))
    words = [element("span", text) for text in (f"band 0; {axis}, {ends}", f"band {last}")]
    return element("div", figure, element("div", *words, class_="axis"), class_="chart")


def _area(below: np.ndarray, above: np.ndarray, kind: str) -> Markup:
    back = " ".join(reversed(_points(above).split(" ")))
    return element("polygon", points=f"{_points(below)} {back}", class_=kind)


def _points(heights: np.ndarray) -> str:
    return " ".join(f"{band},{height:.2f}" for band, height in enumerate(heights.tolist()))


def _chart(width: int, height: int, said: str | None) -> dict[str, object]:
    role = {"role": "img", "aria_label": said} if said else {"aria_hidden": "true"}
    return {"viewBox": f"0 0 {width} {height}", "preserveAspectRatio": "none", **role}
