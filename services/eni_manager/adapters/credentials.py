"""Keys for the OpenAPI, from wherever this node has them (terway.md §2.5), in this order:

1. the files `access-key-id` and `access-key-secret` of the add-on's directory,
2. the key pair of eni_conf,
3. the encrypted token file at eni_conf's `credential_path`,
4. the instance's RAM role, through the metadata service.

Temporary keys are fetched again before they expire, by one task however many ask; when that fails and the old ones
are still valid, the old ones serve on. Keys are Secrets: they have no text form.
"""

import asyncio
import base64
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from services.eni_manager.adapters.imds import Metadata
from shared import log as logs
from shared.eni_conf import EniConf
from shared.errors import Invalid, SuiteError, Unavailable
from shared.secret import Secret

ADDON_DIRECTORY: Final = Path("/var/alibaba-addon-secret")
REFRESH_BEFORE_S: Final = 300.0
"""Temporary keys are fetched again this long before they expire."""
RETRY_AFTER_S: Final = 10.0
"""After a failed refresh the still valid keys serve for at least this long before the next try."""

log = logs.get(__name__)


class Credentials(msgspec.Struct, frozen=True):
    """A key pair; `token` and `expires` (Unix time) only with temporary ones. `source` is for people."""

    key_id: str
    key_secret: Secret
    token: Secret = Secret()
    expires: float | None = None
    source: str = ""


class FixedKeys:
    """A key pair that does not change."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self.source = credentials.source

    async def get(self) -> Credentials:
        """The key pair."""
        return self._credentials

    def refused(self, credentials: Credentials) -> None:
        """Nothing can be done about it here."""


class TemporaryKeys:
    """Keys that expire; `fetch` gives new ones."""

    def __init__(
        self, fetch: Callable[[], Awaitable[Credentials]], *, source: str, clock: Callable[[], float] = time.time
    ) -> None:
        self.source = source
        self._fetch, self._clock = fetch, clock
        self._current: Credentials | None = None
        self._lock = asyncio.Lock()
        self._not_before = 0.0

    async def get(self) -> Credentials:
        """Valid keys. Raises what `fetch` raises only when there are none that are still valid."""
        if self._fresh() is None:
            async with self._lock:
                if self._fresh() is None:
                    await self._renew()
        assert self._current is not None
        return self._current

    def refused(self, credentials: Credentials) -> None:
        """The cloud does not take these: fetch others next time."""
        if self._current is credentials:
            self._current = None

    def _fresh(self) -> Credentials | None:
        keys, now = self._current, self._clock()
        if keys is None or (keys.expires is not None and keys.expires <= now):
            return None
        due = keys.expires is not None and keys.expires - REFRESH_BEFORE_S <= now
        return None if due and now >= self._not_before else keys

    async def _renew(self) -> None:
        try:
            self._current = await self._fetch()
            log.info("credentials_fetched", source=self.source, expires=self._current.expires)
        except SuiteError as error:
            keys, now = self._current, self._clock()
            if keys is None or (keys.expires is not None and keys.expires <= now):
                raise
            self._not_before = now + RETRY_AFTER_S
            log.warning("credentials_kept", source=self.source, expires=keys.expires, because=error.message)


CredentialSource = FixedKeys | TemporaryKeys


def choose(conf: EniConf, metadata: Metadata, *, directory: Path = ADDON_DIRECTORY) -> CredentialSource:
    """The first of the four that this node has. Reads two small files if they exist."""
    if (pair := _addon_pair(directory)) is not None:
        return FixedKeys(pair)
    if conf.access_key and conf.access_secret:
        return FixedKeys(Credentials(conf.access_key.reveal(), conf.access_secret, source="eni_conf"))
    if conf.credential_path:
        path = Path(conf.credential_path)
        return TemporaryKeys(lambda: asyncio.to_thread(read_token_file, path), source=f"token file {path}")
    return TemporaryKeys(lambda: _role(metadata), source="RAM role")


def _addon_pair(directory: Path) -> Credentials | None:
    try:
        key_id = (directory / "access-key-id").read_text().strip()
        secret = (directory / "access-key-secret").read_text().strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Invalid(f"{directory}: {error.strerror}") from error
    return Credentials(key_id, Secret(secret), source=f"files in {directory}") if key_id and secret else None


async def _role(metadata: Metadata) -> Credentials:
    role = await metadata.role_name()
    found = await metadata.role_credentials(role)
    return Credentials(
        found.access_key_id,
        Secret(found.access_key_secret),
        token=Secret(found.security_token),
        expires=_moment(found.expiration, f"credentials of {role}"),
        source=f"RAM role {role}",
    )


class _TokenFile(msgspec.Struct):
    key_id: str = msgspec.field(name="access.key.id")
    key_secret: str = msgspec.field(name="access.key.secret")
    token: str = msgspec.field(name="security.token")
    expiration: str
    keyring: str


def read_token_file(path: Path) -> Credentials:
    """The encrypted STS token of managed clusters. Unavailable: it cannot be read or decrypted now."""
    try:
        sealed = msgspec.json.decode(path.read_bytes(), type=_TokenFile)
    except OSError as error:
        raise Unavailable(f"{path}: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise Unavailable(f"{path}: not a token file: {error}") from None
    try:
        key_id, secret, token = (
            decrypt(sealed.keyring, part) for part in (sealed.key_id, sealed.key_secret, sealed.token)
        )
    except ValueError:
        # from None: the cause may hold half of a secret
        raise Unavailable(f"{path}: its keyring does not open it") from None
    return Credentials(
        key_id,
        Secret(secret),
        token=Secret(token),
        expires=_moment(sealed.expiration, str(path)),
        source=f"token file {path}",
    )


def decrypt(keyring: str, sealed: str) -> str:
    """Base64 of AES-CBC: the first block is the IV, padding is PKCS#7. ValueError: it does not open."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes  # only managed clusters need it
    from cryptography.hazmat.primitives.padding import PKCS7

    raw = base64.b64decode(sealed, validate=True)
    cipher = Cipher(algorithms.AES(keyring.encode()), modes.CBC(raw[:16])).decryptor()
    padded = cipher.update(raw[16:]) + cipher.finalize()
    padding = PKCS7(128).unpadder()
    return (padding.update(padded) + padding.finalize()).decode()


def _moment(text: str, of: str) -> float:
    """`2006-01-02T15:04:05Z` as Unix time."""
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()
    except ValueError:
        raise Unavailable(f"{of}: expiration {text!r} is not of the form 2006-01-02T15:04:05Z") from None
