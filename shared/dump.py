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
        case _:
            return repr(value)


def _harmless(value: object) -> object:
    """Whatever msgspec refused, piece by piece: odd keys become text, lone surrogates are escaped."""
    match value:
        case str():
            return value.encode("utf-8", "backslashreplace").decode()
        case Mapping():
            return {str(_harmless(str(key))): _harmless(item) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_harmless(item) for item in value]
        case msgspec.Struct():
            return {name: _harmless(getattr(value, name)) for name in value.__struct_fields__}
        case None | bool() | int() | float():
            return value
        case _:
            return _harmless(str(_presentable(value)))


_encoder = msgspec.json.Encoder(enc_hook=_presentable)


def dump(value: object) -> bytes:
    """One line of JSON. What JSON cannot say is said as text (`repr`), Secrets as `***`."""
    try:
        return _encoder.encode(value)
    except Exception:  # whatever an odd object does when it is looked at: a log line must not raise
        try:
            return _encoder.encode(_harmless(value))
        except Exception:
            return msgspec.json.encode(ascii(type(value)))


def dump_pretty(value: object) -> bytes:
    """The same, indented for people."""
    return msgspec.json.format(dump(value), indent=2)
