"""Who calls: the RPC style signature (HMAC-SHA1), its timestamp and nonce, and STS tokens.

The API's other scheme is in `signature_v3.py`; it has the same keys, clock and nonces.
"""

import base64
import hashlib
import hmac
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import quote

from compose.lab.cloud.core.errors import CloudError, missing
from compose.lab.cloud.core.model import AccessKey

MAX_SKEW_S = 900.0
"""How far a caller's clock may be from ours; a nonce is remembered for as long."""

MANDATORY = ("AccessKeyId", "Signature", "SignatureMethod", "SignatureVersion", "SignatureNonce", "Timestamp")

COMMON = frozenset({*MANDATORY, "Action", "Version", "Format", "SecurityToken", "SignatureType", "RegionId"})
"""Parameters that belong to the call and not to the action."""


def _escape(text: str) -> str:
    return quote(text, safe="-_.~")


def string_to_sign(method: str, parameters: Mapping[str, str]) -> str:
    """What both sides sign: every parameter but the signature itself, sorted by name."""
    query = "&".join(f"{_escape(k)}={_escape(v)}" for k, v in sorted(parameters.items()) if k != "Signature")
    return f"{method}&%2F&{_escape(query)}"


def sign(secret: str, text: str) -> str:
    """The signature of `text` by a key's secret."""
    digest = hmac.new(f"{secret}&".encode(), text.encode(), hashlib.sha1).digest()
    return base64.b64encode(digest).decode()


class Nonces:
    """Nonces that were used within the time in which a timestamp is accepted."""

    def __init__(self) -> None:
        self._seen: set[tuple[str, str]] = set()
        self._order: deque[tuple[float, tuple[str, str]]] = deque()

    def use(self, key: str, nonce: str, now: float) -> bool:
        """Remember it. False: it was used before."""
        while self._order and self._order[0][0] < now - 2 * MAX_SKEW_S:
            self._seen.discard(self._order.popleft()[1])
        if (key, nonce) in self._seen:
            return False
        self._seen.add((key, nonce))
        self._order.append((now, (key, nonce)))
        return True

    def check(self, key: str, nonce: str, now: float) -> None:
        """Remember it. Raises when it was used before."""
        if not self.use(key, nonce, now):
            raise CloudError("SignatureNonceUsed", "Specified signature nonce was used already.")


def verify(
    method: str, parameters: Mapping[str, str], *, keys: Mapping[str, AccessKey], nonces: Nonces, now: float
) -> AccessKey:
    """The key that signed the call. Raises what the cloud answers when none did."""
    for name in MANDATORY:
        if not parameters.get(name):
            raise missing(name)
    if parameters["SignatureMethod"] != "HMAC-SHA1" or parameters["SignatureVersion"] != "1.0":
        raise CloudError("InvalidParameter.SignatureMethod", "Only HMAC-SHA1, version 1.0, is supported.")
    key = known_key(keys, parameters["AccessKeyId"], parameters.get("SecurityToken"), now)
    check_time(parameters["Timestamp"], now)
    text = string_to_sign(method, parameters)
    if not hmac.compare_digest(sign(key.secret, text), parameters["Signature"]):
        raise mismatch(text)
    nonces.check(key.id, parameters["SignatureNonce"], now)
    return key


def mismatch(text: str) -> CloudError:
    """Signed by somebody else, or something else. `text` is what should have been signed."""
    # The official client compares what follows the first colon with its own string (stack.md).
    return CloudError(
        "SignatureDoesNotMatch",
        f"Specified signature is not matched with our calculation. server string to sign is:{text}",
    )


def known_key(keys: Mapping[str, AccessKey], key_id: str, token: str | None, now: float) -> AccessKey:
    """The key of this id, if it may be used now and with this STS token. Raises what the cloud answers when not."""
    key = keys.get(key_id)
    if key is None:
        raise CloudError("InvalidAccessKeyId.NotFound", "Specified access key is not found.", 404)
    if not key.active:
        raise CloudError("InvalidAccessKeyId.Inactive", "Specified access key is disabled.")
    if key.token is not None and not token:
        raise CloudError("MissingSecurityToken", "SecurityToken is mandatory for this action.")
    if token and token != key.token:
        raise CloudError("InvalidSecurityToken.MismatchWithAccessKey", "Specified SecurityToken mismatch AccessKey.")
    if key.expires_at is not None and now >= key.expires_at:
        raise CloudError("InvalidSecurityToken.Expired", "Specified SecurityToken is expired.")
    return key


def check_time(text: str, now: float) -> None:
    """Is the caller's clock near ours? Raises."""
    try:
        stamp = datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()
    except ValueError as e:
        raise CloudError("InvalidTimeStamp.Format", "Specified time stamp or date value is not well formatted.") from e
    if abs(stamp - now) > MAX_SKEW_S:
        raise CloudError("InvalidTimeStamp.Expired", "Specified time stamp or date value is expired.")
