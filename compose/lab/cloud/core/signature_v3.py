"""Who calls, by the API's second scheme: ACS3-HMAC-SHA256, which signs headers, query and a hash of the body.

The action and its version are headers, too. What is signed follows the public page "Request syntax and signature
method V3": a canonical request, its SHA-256, and an HMAC of that by the key's secret itself.
"""

import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from urllib.parse import quote

import msgspec

from compose.lab.cloud.core.errors import CloudError, missing
from compose.lab.cloud.core.model import AccessKey
from compose.lab.cloud.core.signature import Nonces, check_time, known_key, mismatch

ALGORITHM = "ACS3-HMAC-SHA256"

MANDATORY = ("x-acs-date", "x-acs-signature-nonce", "x-acs-content-sha256")

_AUTHORIZATION = re.compile(rf"{ALGORITHM} +Credential=([^,]*), *SignedHeaders=([^,]*), *Signature=([0-9a-f]*)")


class Signed(msgspec.Struct, frozen=True):
    """A request as its caller signed it. Header names are in lower case."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes = b""

    @property
    def here(self) -> bool:
        """Whether the request uses this scheme at all."""
        return self.headers.get("authorization", "").startswith("ACS3-")


def canonical(request: Signed, names: Sequence[str], body_hash: str) -> str:
    """The request in the one form that both sides hash."""
    query = "&".join(f"{_escape(k)}={_escape(v)}" for k, v in sorted(request.query.items()))
    headers = "".join(f"{name}:{request.headers.get(name, '').strip()}\n" for name in names)
    return "\n".join((request.method, request.path, query, headers, ";".join(names), body_hash))


def sign(secret: str, text: str) -> str:
    """The signature of a canonical request by a key's secret."""
    return hmac.new(secret.encode(), string_to_sign(text).encode(), hashlib.sha256).hexdigest()


def string_to_sign(text: str) -> str:
    """What the HMAC is of."""
    return f"{ALGORITHM}\n{hashlib.sha256(text.encode()).hexdigest()}"


def verify(request: Signed, *, keys: Mapping[str, AccessKey], nonces: Nonces, now: float) -> AccessKey:
    """The key that signed the call. Raises what the cloud answers when none did."""
    if (found := _AUTHORIZATION.fullmatch(request.headers["authorization"].strip())) is None:
        raise CloudError("IncompleteSignature", f"The Authorization header is not one of {ALGORITHM}.")
    key_id, names, signature = found[1], found[2].split(";"), found[3]
    for name in MANDATORY:
        if not request.headers.get(name):
            raise missing(name)
    if unsigned := _must_be_signed(request) - set(names):
        raise CloudError("IncompleteSignature", f"These headers must be signed: {', '.join(sorted(unsigned))}.")
    key = known_key(keys, key_id, request.headers.get("x-acs-security-token"), now)
    check_time(request.headers["x-acs-date"], now)
    body_hash = hashlib.sha256(request.body).hexdigest()
    if request.headers["x-acs-content-sha256"] != body_hash:
        raise CloudError("InvalidContentSHA256", "x-acs-content-sha256 is not the hash of the body.")
    text = canonical(request, names, body_hash)
    if not hmac.compare_digest(sign(key.secret, text), signature):
        raise mismatch(string_to_sign(text))
    nonces.check(key.id, request.headers["x-acs-signature-nonce"], now)
    return key


def _must_be_signed(request: Signed) -> set[str]:
    """Whatever changes the meaning of the call."""
    return {name for name in request.headers if name in ("host", "content-type") or name.startswith("x-acs-")}


def _escape(text: str) -> str:
    return quote(text, safe="-_.~")
