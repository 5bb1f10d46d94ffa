"""Durations as Go writes them: `120s`, `1h30m`, `1.5s`; Terway's configuration and Kubernetes use them."""

import re
from typing import Final

_UNITS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART: Final = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")
_WHOLE: Final = re.compile(rf"[-+]?(?:{_PART.pattern})+")


class Duration(float):
    """Seconds, as a float like any other; configuration says them as Go does."""

    __slots__ = ()


def parse_duration(text: str) -> Duration:
    """Go's time.ParseDuration. ValueError: it is none."""
    if text in ("0", "+0", "-0"):
        return Duration(0.0)
    if not _WHOLE.fullmatch(text):
        raise ValueError(f"Expected a duration such as 120s or 1h30m, got {text!r}")
    seconds = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    return Duration(-seconds if text.startswith("-") else seconds)
