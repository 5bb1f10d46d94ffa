"""Anything as JSON for people and logs: never fails on an odd value, never shows a Secret.

Not for the wire: contracts are encoded strictly, without these leniencies.
"""

from collections.abc import Mapping
from pathlib import PurePath

import msgspec

from shared.secret import Secret


def _presentable(value: object) -> object:
    match value:
        case Secret() | PurePath():
            return str(value)
        case float():  # a subclass, such as a Duration
            return float(value)
        case int():
            return int(value)
        case str():
            return str.__str__(value)
        case BaseException():
            return f"{type(value).__name__}: {value}"
        case Mapping():
            return dict(value)
        case _:  # keys that are no text come here too
            return str(value)


def _harmless(value: object) -> object:
    """Whatever msgspec refused, piece by piece: odd keys become text, lone surrogates are escaped."""
    match value:
        case str():
            return _text(value)
        case Mapping():
            return {_text(key): _harmless(item) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_harmless(item) for item in value]
        case msgspec.Struct():
            return {name: _harmless(getattr(value, name)) for name in value.__struct_fields__}
        case None | bool() | float():
            return value
        case int():
            return value if -(2**63) <= value < 2**64 else str(value)
        case _:
            return _text(value)


def _text(value: object) -> str:
    try:
        return str(_presentable(value)).encode("utf-8", "backslashreplace").decode()
    except Exception:
        return ascii(type(value))


_encoder = msgspec.json.Encoder(enc_hook=_presentable)


def dump(value: object) -> bytes:
    """One line of JSON. What JSON cannot say is said as text (`str`), Secrets as `***`."""
    try:
        return _encoder.encode(value)
    except Exception:  # whatever an odd object does when it is looked at: a log line must not raise
        try:
            return _encoder.encode(_harmless(value))
        except RecursionError:
            return _encoder.encode(_text(type(value)))


def dump_pretty(value: object) -> bytes:
    """The same, indented for people."""
    return msgspec.json.format(dump(value), indent=2)
