"""Redact addresses in texts: remove signatures, user names and passwords. This module imports no
other of this package.

A token ends only at a space, since a secret may hold any other character. If a text can be read as
an address in two ways, the way that shows less is used; if in none, none of it is shown.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

DOTS = "…"
TOKEN = re.compile(r"[a-z][a-z0-9+.\-]*(?:://|%3a%2f%2f)[^ \t\r\n\f\v]*", re.IGNORECASE)
"""An address, with everything beside it up to the next space."""
MARK = re.compile(r"://|%3a%2f%2f", re.IGNORECASE)
VIRTUAL = re.compile(r"(/vsi\w+)\?[^ \t\r\n\f\v]*", re.IGNORECASE)
"""GDAL's name for a file with options, which may hold addresses and keys."""
SPACED = re.compile(
    r"""([a-z][a-z0-9+.\-]*://)[^\s/?#@:]*:(?!\d*(?:[/?#\s'"),;]|$))[^\s@]*[ \t][^\r\n]*@""",
    re.IGNORECASE,
)
"""A user name, and a password with spaces in it: what follows the colon cannot be a port."""
OWN = r"(?:[a-z0-9._\-]+|\[[0-9a-f:.]+\])"
UNOWNED = re.compile(rf"{OWN}(?::\d+(?=[/'\"]))?(?![a-z0-9._\-:])[^@?#]*(?=[?#]|$)", re.IGNORECASE)
"""A host and a path, at the start. After a port there must be a path."""
DOTTED = re.compile(
    r"[a-z0-9][a-z0-9\-]*(?:\.[a-z0-9][a-z0-9\-]*)+(?=/)[^?#]*(?=[?#]|$)", re.IGNORECASE
)
"""A host name with a dot, and a path that may contain an @."""
OWNED = re.compile(rf"@({OWN}(?::\d+)?(?![a-z0-9._\-])[^@?#]*)(?=[?#]|$)", re.IGNORECASE)
"""A host and a path after a user's name."""


def redacted(text: str) -> str:
    """A text with addresses redacted: without queries, signatures, user names and passwords. Every
    message, log and record passes through here.

    >>> redacted("https://me:se/cret@host/scene.tif?sig=a,'b' cannot be read")
    'https://…@host/scene.tif?… cannot be read'
    """
    if "://" not in text and "%" not in text and "/vsi" not in text:
        return text
    text = SPACED.sub(rf"\1{DOTS}@", VIRTUAL.sub(rf"\1?{DOTS}", text))
    return TOKEN.sub(lambda found: _shown(found[0]), text)


def shown(what: Any) -> Any:
    """A JSON value with its texts redacted; keys stay as they are.

    >>> shown({"seeds": ["s3://bucket/a.tif?sig=secret", 1]})
    {'seeds': ['s3://bucket/a.tif?…', 1]}
    """
    if isinstance(what, dict):
        return {key: shown(part) for key, part in what.items()}
    if isinstance(what, (list, tuple)):
        return type(what)(map(shown, what))
    return redacted(what) if isinstance(what, str) else what


def is_owned(address: str) -> bool:
    """Whether an address seems to hold a user's name or password."""
    return f"://{DOTS}" in redacted(address)


def _shown(token: str) -> str:
    """A token that begins like an address, without its user, query and fragment."""
    mark = MARK.search(token)
    assert mark is not None  # noqa: S101  it is what a token has
    scheme = token[: mark.end()]
    rest = token[mark.end() :]
    if mark[0] != "://":
        return scheme + _decoded(rest)
    if found := _place(rest):
        user, start, stop = found
        nested = TOKEN.sub(lambda inner: _shown(inner[0]), rest[start:stop])
        return f"{scheme}{user}{nested}{'' if stop == len(rest) else f'?{DOTS}'}"
    return f"{scheme}{DOTS}" if rest else scheme


def _place(rest: str) -> tuple[str, int, int] | None:
    """Split what follows the scheme: what stands for the user, and the start and end of host and
    path. None if this is ambiguous.
    """
    if "@" not in rest:
        return "", 0, len(re.split("[?#]", rest, maxsplit=1)[0])
    try:
        parts = urlsplit(f"//{rest}")
    except ValueError:  # brackets without an address
        parts = urlsplit("")
    alone = UNOWNED.match(rest) or DOTTED.match(rest)
    if alone and not (":" in parts.netloc and OWNED.search(rest)):
        return "", 0, alone.end()
    if "@" in parts.netloc and (clean := OWNED.match(rest, parts.netloc.rindex("@"))):
        return f"{DOTS}@", *clean.span(1)
    if alone:
        return None
    found = OWNED.search(rest)
    return (f"{DOTS}@", *found.span(1)) if found else None


def _decoded(rest: str) -> str:
    """Redact the rest of a percent-encoded address that stands inside another."""
    user, sign, kept = re.split("[?#]|%3f|%23", rest, maxsplit=1, flags=re.IGNORECASE)[
        0
    ].rpartition("%40")
    more = len(user) + len(sign) + len(kept) < len(rest)
    return f"{DOTS + sign if sign else ''}{kept}{f'?{DOTS}' if more else ''}"
