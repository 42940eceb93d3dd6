"""Paths for people and for JSON: any bytes in, one printable line out."""

from __future__ import annotations

from base64 import b64encode

_LETTERS = {7: "\\a", 8: "\\b", 9: "\\t", 10: "\\n", 11: "\\v", 12: "\\f", 13: "\\r", 92: "\\\\"}


def escape(path: bytes) -> str:
    """As `ls -b` shows control and undecodable bytes (`\\n`, `\\033`, `\\377`) and the backslash; spaces stay."""
    text = path.decode("utf-8", "surrogateescape")
    if text.isprintable() and "\\" not in text:
        return text
    return "".join(char if char.isprintable() and char != "\\" else _escape_char(char) for char in text)


def show(path: bytes) -> str:
    """A path as a message shows it: `/` for the root."""
    return escape(path) or "/"


def _escape_char(char: str) -> str:
    raw = char.encode("utf-8", "surrogateescape")
    return "".join(_LETTERS.get(byte, f"\\{byte:03o}") for byte in raw)


def path_fields(path: bytes) -> dict[str, str]:
    """`{"path": text}`; for bytes that are not UTF-8 the text is escaped and `path_b64` holds them exactly."""
    try:
        return {"path": path.decode()}
    except UnicodeDecodeError:
        return {"path": escape(path), "path_b64": b64encode(path).decode()}
