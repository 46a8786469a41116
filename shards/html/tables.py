"""Tables of a dataset's page: any rows, the counts of a label's values, events."""

from collections.abc import Collection, Mapping, Sequence

from shards.html.figures import bar, histogram
from shards.html.markup import Markup, element, joined
from shards.survey import Part, Tally, event_counts, flags, numbers, tally

_SHOWN_VALUES = 24
_SPELLED_LETTERS = 80


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, numeric: Collection[int] = ()) -> Markup:
    """Rows under a header; columns in `numeric` are aligned as numbers. Wide ones scroll, also by keyboard."""

    def cell(kind: str, place: int, content: str, **scope: object) -> Markup:
        return element(kind, content, class_="number" if place in numeric else None, **scope)

    head = element("tr", *(cell("th", place, name, scope="col") for place, name in enumerate(header)))
    body = [element("tr", *(cell("td", place, value) for place, value in enumerate(row))) for row in rows]
    whole = element("table", element("thead", head), element("tbody", *body))
    return element("div", whole, class_="scroll", tabindex="0", role="region", aria_label=", ".join(header))


def legend(parts: Sequence[Part]) -> Markup | None:
    """Which colour stands for which split, where there are several."""
    if len(parts) == 1:
        return None
    lines = [
        element("li", element("svg", _square(series), viewBox="0 0 1 1", aria_hidden="true"), part.name)
        for series, part in enumerate(parts)
    ]
    return element("ul", *lines, class_="legend", aria_label="Colours")


def _square(series: int) -> Markup:
    return element("rect", width=1, height=1, class_=f"split{series % 6}")


def label_section(parts: Sequence[Part], name: str, kind: Mapping[str, object]) -> Markup:
    """A label's distribution: counts of its classes or most frequent values, or a histogram of its numbers."""
    column, classes = f"label.{name}", _names(kind)
    heading = element("h3", f"{name} ", element("span", str(kind["type"]), class_="tag"))
    if "float" in str(kind["type"]):
        return element("div", heading, histogram(numbers(parts, column), unit="", about=f"Label {name}"))
    counted = (flags(parts, column, len(classes)) if classes and "list" in str(kind["type"]) else None) or tally(
        parts, column
    )
    if "int" in str(kind["type"]) and not classes and len(counted.total) > _SHOWN_VALUES:
        return element("div", heading, histogram(numbers(parts, column), unit="", about=f"Label {name}"))
    return element("div", heading, _counts(counted, classes, name))


def _names(kind: Mapping[str, object]) -> Sequence[str]:
    """Of a label's classes; none where it has no classes."""
    names = kind.get("classes")
    return names if isinstance(names, Sequence) else ()


def _counts(counted: Tally, classes: Sequence[str], name: str) -> Markup:
    total = counted.total
    most = max(total.values(), default=0)
    if most <= 1 and len(total) > _SHOWN_VALUES:
        return element("p", f"{'Over ' * counted.is_cut}{len(total):,} different values, each once.")
    ranked = sorted(total, key=lambda value: (-total[value], value))
    rows = [
        (
            _spelled(value, classes),
            element("div", bar([counts[value] for counts in counted.counts.values()], most)),
            f"{total[value]:,}",
        )
        for value in ranked[:_SHOWN_VALUES]
    ]
    return joined(table((name, "", "examples"), rows, numeric=[2]), _further(counted, ranked[_SHOWN_VALUES:], classes))


def _further(counted: Tally, others: Sequence, classes: Sequence[str]) -> Markup | None:
    """What the table leaves out, in words."""
    total = counted.total
    absent = len(set(range(len(classes))) - total.keys())
    said = (
        f"{'over ' * counted.is_cut}{len(others):,} further values, {sum(total[value] for value in others):,} times"
        if others
        else "",
        f"{absent:,} classes that never occur" if absent else "",
        f"{counted.unlabelled:,} examples without this label" if counted.unlabelled else "",
    )
    text = "; ".join(filter(None, said))
    return element("p", f"And {text}.", class_="soft") if text else None


def _spelled(value: object, classes: Sequence[str]) -> str:
    if classes and isinstance(value, int) and 0 <= value < len(classes):
        return str(classes[value])
    text = str(value)
    return text if len(text) <= _SPELLED_LETTERS else f"{text[:_SPELLED_LETTERS]}…"


def events_table(parts: Sequence[Part]) -> Markup:
    """How many events of each kind there are, and in how many examples."""
    rows = []
    for name, kind in parts[0].manifest.events.items():
        events, examples = event_counts(parts, name)
        values = f"{len(_names(kind))} classes" if _names(kind) else str(kind["type"])
        rows.append((name, values, f"{events:,}", f"{examples:,}"))
    return joined(element("h3", "Events"), table(("kind", "values", "events", "in examples"), rows, numeric=[2, 3]))
