"""ENIs as devices that a pod can ask for (`limits: {aliyun/eni: 1}`): kubelet's device-plugin API, as bytes.

The API (k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1) is a handful of messages of strings, so they are written and read
here, without protobuf's runtime. Field numbers are the interface.
"""

from collections.abc import Iterable, Iterator

VERSION = "v1beta1"
REGISTER = "/v1beta1.Registration/Register"
SERVICE = "v1beta1.DevicePlugin"
ENI = "aliyun/eni"
"""How many ENIs for pods of their own the node can have (terway.md §3.3)."""
NOTHING = b""
"""An empty message: no options, no preferred allocation, nothing to do before a start."""

_LENGTH_DELIMITED = 2


def registration(endpoint: str, resource: str) -> bytes:
    """RegisterRequest. `endpoint`: the socket's name in kubelet's folder."""
    return _text(1, VERSION) + _text(2, endpoint) + _text(3, resource)


def device_list(kind: str, count: int) -> bytes:
    """ListAndWatchResponse with `count` healthy devices, `eni-0` and so on."""
    return b"".join(_bytes(1, _text(1, f"{kind}-{number}") + _text(2, "Healthy")) for number in range(count))


def allocation(request: bytes) -> bytes:
    """AllocateResponse: for each container of the AllocateRequest, nothing to set. ValueError: it is none."""
    return b"".join(_bytes(1, b"") for number, _ in _fields(request) if number == 1)


def _text(number: int, value: str) -> bytes:
    return _bytes(number, value.encode())


def _bytes(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | _LENGTH_DELIMITED) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*found, value))


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """The length-delimited fields; the API has no others where we read."""
    rest = iter(message)
    while (key := _read_varint(rest)) is not None:
        size = _read_varint(rest)
        if key & 7 != _LENGTH_DELIMITED or size is None or size > len(message):
            raise ValueError("this is no message of the device-plugin API")
        value = bytes(byte for _, byte in zip(range(size), rest, strict=False))
        if len(value) != size:
            raise ValueError("a message of the device-plugin API is cut short")
        yield key >> 3, value


def _read_varint(rest: Iterable[int]) -> int | None:
    """The next number; None: there is none."""
    value = shift = 0
    for byte in rest:
        value |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return value
        if shift > 63:
            raise ValueError("a number in a message of the device-plugin API is too long")
    if shift:
        raise ValueError("a message of the device-plugin API is cut short")
    return None
