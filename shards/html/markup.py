"""HTML elements as text in which nothing but what this module wrote is markup; it is well-formed XML too."""

import html
import re
from collections.abc import Iterator

_EMPTY = {"img", "link", "meta"}
_UNWRITABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


class Markup(str):
    """Text that is HTML already; any other text is escaped when it becomes part of an element."""

    __slots__ = ()


def element(name: str, *children: str | None, **attributes: object) -> Markup:
    """`element("p", "a < b", class_="x")` -> `<p class="x">a &lt; b</p>`.

    Children and attributes that are None are left out; a name's last `_` is dropped and the others become `-`.
    """
    opened = "".join([name, *_attributes(attributes)])
    if name in _EMPTY:
        return Markup(f"<{opened} />")
    return Markup(f"<{opened}>{joined(*children)}</{name}>")


def joined(*children: str | None) -> Markup:
    """Texts and elements one after the other."""
    return Markup("".join(child if isinstance(child, Markup) else escaped(child) for child in children if child))


def escaped(text: str) -> str:
    """Text for use inside elements and quoted attributes; characters that no page may hold are replaced."""
    return html.escape(_UNWRITABLE.sub("\ufffd", text))


def _attributes(attributes: dict[str, object]) -> Iterator[str]:
    for name, value in attributes.items():
        if value is not None:
            yield f' {name.removesuffix("_").replace("_", "-")}="{escaped(str(value))}"'
