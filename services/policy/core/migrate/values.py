"""Felix's parameters as people write them: in a FelixConfiguration, or as text in calico-node's environment."""

import re
from typing import Any, Final

_SPAN: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(h|ms|us|µs|ns|m|s)")
_NUMBER: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?", re.ASCII)
_SECONDS: Final = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}


def truth(value: Any) -> bool:
    """A boolean, or its text. Raises ValueError."""
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text in ("true", "1", "yes", "y", "t"):
        return True
    if text in ("false", "0", "no", "n", "f"):
        return False
    raise ValueError(f"{value!r} is neither true nor false")


def seconds(value: Any) -> float:
    """`90s`, `1m30s`, or a number of seconds. Raises ValueError."""
    text = str(value).strip()
    spans = _SPAN.findall(text)
    if spans and "".join(number + unit for number, unit in spans) == text:
        return sum(float(number) * _SECONDS[unit] for number, unit in spans)
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"{value!r} is no duration")
    return float(text)


def ports(value: Any) -> tuple[str, ...]:
    """Failsafe ports as `tcp:22` and `tcp:10.0.0.0/8:22`, from objects or from text. Raises ValueError."""
    if isinstance(value, str):
        text = value.strip()
        entries: list[Any] = [] if text.lower() in ("", "none") else [part.strip() for part in text.split(",")]
    elif isinstance(value, list):
        entries = value
    else:
        raise ValueError(f"{value!r} is no list of ports")
    return tuple(_port(entry) for entry in entries)


def _port(entry: Any) -> str:
    if isinstance(entry, dict):
        protocol, number, net = str(entry.get("protocol") or "tcp").lower(), entry.get("port"), entry.get("net") or ""
    else:
        head, _, number = str(entry).rpartition(":")
        protocol, _, net = head.partition(":")
        protocol, net = protocol.lower() or "tcp", net.strip("[]")
    if not str(number).isdecimal() or not 0 < int(str(number)) < 65536 or protocol not in ("tcp", "udp", "sctp"):
        raise ValueError(f"{entry!r} is no port")
    if not net:
        return f"{protocol}:{number}"
    return f"{protocol}:[{net}]:{number}" if ":" in str(net) else f"{protocol}:{net}:{number}"
