"""Hides secrets before anything is written: the tracker, its log and its pages are plain text to whoever may read."""

import re
from collections.abc import Mapping

HIDDEN = "[hidden]"
_SECRET_NAME = re.compile(
    r"secret|passw|passphrase|credential|amz-signature|token(?![a-z])|(?<![a-z])(?:(?:api|access|auth|private)_?)?key(?![a-z])",
    re.IGNORECASE,
)
_CREDENTIALS_IN_URL = re.compile(r"(?<=://)[^/\s@]+(?=@)")
_OPTION = re.compile(r"(--[\w.\-]+)([= ])(\S+)")
_ASSIGNMENT = re.compile(r"([\w.\-]+)(=)([^\s&]+)")
_BEARER = re.compile(r"(Bearer|Basic)( )(\S+)")


def redacted(values: Mapping[str, str]) -> dict[str, str]:
    """The same settings with secrets hidden: by the name of a setting (`api_key`, `hf.token`) or inside its text."""
    return {name: HIDDEN if value and is_secret(name) else redacted_text(value) for name, value in values.items()}


def redacted_text(text: str) -> str:
    """A text without credentials in URLs, and without the values of options and assignments that name a secret."""
    text = _CREDENTIALS_IN_URL.sub(HIDDEN, text)
    for pattern in (_OPTION, _ASSIGNMENT):
        text = pattern.sub(lambda found: _hide_if_secret(*found.groups()), text)
    return _BEARER.sub(rf"\1\2{HIDDEN}", text)


def is_secret(name: str) -> bool:
    """Whether a setting of this name holds a secret; `mask_tokens`, `keep` and `keyboard` do not."""
    return _SECRET_NAME.search(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)) is not None


def _hide_if_secret(name: str, separator: str, value: str) -> str:
    return f"{name}{separator}{HIDDEN if is_secret(name) else value}"
