"""How the API server is reached: address, TLS, and a token that is read again as it rotates."""

import asyncio
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import aiohttp

TOKEN_MAX_AGE_S = 60.0
"""A projected token is replaced at 80 % of its life, so a minute's delay never shows an expired one."""

_KEEPALIVE = {socket.TCP_KEEPIDLE: 15, socket.TCP_KEEPINTVL: 5, socket.TCP_KEEPCNT: 3, socket.TCP_USER_TIMEOUT: 30_000}


class Access(Protocol):
    """What a client needs to know. `shared.config.KubeConfig` is one.

    `server` is `https://host:port`, `http://host:port`, or `unix:///path/to/socket` for local tools.
    """

    @property
    def server(self) -> str: ...
    @property
    def token_file(self) -> str | Path | None: ...
    @property
    def ca_file(self) -> str | Path | None: ...
    @property
    def cert_file(self) -> str | Path | None: ...
    @property
    def key_file(self) -> str | Path | None: ...
    @property
    def insecure(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class KubeAddress:
    """An Access that is no more than an address, for tools and tests."""

    server: str
    token_file: str | Path | None = None
    ca_file: str | Path | None = None
    cert_file: str | Path | None = None
    key_file: str | Path | None = None
    insecure: bool = False


def host_of(access: Access) -> str:
    """The URL's beginning; a Unix socket has no host, and HTTP still wants one."""
    return "http://localhost" if access.server.startswith("unix://") else access.server


async def open_session(access: Access) -> aiohttp.ClientSession:
    """A session that can reach the API server. OSError or ssl.SSLError when a certificate file is unusable."""
    if access.server.startswith("unix://"):
        connector: aiohttp.BaseConnector = aiohttp.UnixConnector(access.server.removeprefix("unix://"), limit=0)
    else:
        tls: ssl.SSLContext | bool = True
        if access.server.startswith("https://"):
            tls = await asyncio.to_thread(_tls_context, access)
        connector = aiohttp.TCPConnector(ssl=tls, limit=0, socket_factory=socket_with_keepalive)
    # Proxy variables, .netrc and cookies of the node have no say in how its own API server is reached.
    return aiohttp.ClientSession(connector=connector, trust_env=False, cookie_jar=aiohttp.DummyCookieJar())


def _tls_context(access: Access) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(access.ca_file) if access.ca_file else None)
    if access.cert_file:
        context.load_cert_chain(str(access.cert_file), str(access.key_file) if access.key_file else None)
    if access.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def socket_with_keepalive(address: aiohttp.AddrInfoType) -> socket.socket:
    """A watch is silent for minutes: only the kernel can tell a quiet server from one that is gone (within 30 s)."""
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE.items():
        made.setsockopt(socket.IPPROTO_TCP, option, value)
    return made


class Token:
    """The bearer token in a file, read at most once a minute, and again whenever the server did not like it."""

    def __init__(self, file: str | Path | None) -> None:
        self._file = Path(file) if file else None
        self._text = ""
        self._read_at = float("-inf")

    def text(self) -> str:
        """The last one read; empty when there is no token file."""
        return self._text

    async def refresh(self, *, now: float, force: bool = False) -> bool:
        """Read the file when its content is old by `now` (the loop's clock); says whether the token changed.

        An unreadable file keeps the last token: kubelet swaps the file by rename, and the server has the last word.
        """
        if self._file is None or (not force and now - self._read_at < TOKEN_MAX_AGE_S):
            return False
        self._read_at = now
        try:
            text = (await asyncio.to_thread(self._file.read_text)).strip()
        except (OSError, UnicodeDecodeError):
            return False
        changed, self._text = text != self._text, text
        return changed
