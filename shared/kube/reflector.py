"""Reflector: keeps a mirror of one kind of object in step with the API server, for as long as it runs.

    list, page by page ──► watch from the list's version ──► cut, timed out ──► watch from the last version heard
          ▲                                                        │
          └──── 410, or the watch cannot get going ◄───────────────┘        (each turn after a jittered back-off)

The consumer is told by `on_change`, a plain function called on the event loop in order (promises: mirror.py). What a
list finds missing is told as deleted, so a consumer never needs to know that a connection was lost. An error that
`on_change` raises is a bug of the consumer: it ends `run()`.
"""

import asyncio
import math
import random
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Generic, Protocol, TypeVar

import msgspec

from shared.backoff import Backoff
from shared.kube.client import PAGE, RawPage
from shared.kube.errors import ApiError, ApiExpired, ApiInternal
from shared.kube.lines import Lines
from shared.kube.mirror import Change, Key, Mirror, Mirrored, Synced, WatchEvent
from shared.kube.resources import Resource
from shared.log import get

T = TypeVar("T", bound=Mirrored)

WINDOW_S = (300, 600)
"""How long one watch is asked to last; spread, so that the nodes of a cluster do not come back together."""

PAUSES = Backoff(initial_s=0.2, factor=2.0, jitter=1.0, cap_s=20.0)
"""Between turns that went wrong; up to twice as long by chance."""

CALM_S = 10.0
"""A watch that lasted this long was a healthy one: the next starts at once and the back-off starts over."""

RELIST_AFTER = 5
"""Watches in a row that bring nothing before a fresh list: the version may be one the server has never known."""


log = get("kube.reflector")


class Source(Protocol):
    """What a reflector needs of an API server; KubeClient has it."""

    async def page(
        self,
        resource: Resource,
        *,
        namespace: str | None,
        field_selector: str,
        label_selector: str,
        limit: int | None,
        continue_: str,
    ) -> RawPage: ...

    def watch(
        self,
        resource: Resource,
        *,
        namespace: str | None,
        field_selector: str,
        label_selector: str,
        resource_version: str,
        window_s: int,
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]: ...


class ReflectorState(msgspec.Struct, frozen=True):
    """A reflector for people: `/state` shows it. `trouble` is empty while all is well."""

    resource: str
    synced: bool
    trouble: str
    objects: int
    unreadable: Mapping[str, str]
    resource_version: str
    lists: int
    watches: int


class Reflector(Generic[T]):
    """Mirrors `resource`, decoded as `kind`, restricted by namespace and selectors.

    `synced` is set at the first complete list and stays set: the mirror is then at worst old. `objects` is for reading.
    `decode` reads an object from its JSON where a `kind` cannot, and raises MsgspecError if it has to.
    """

    def __init__(
        self,
        source: Source,
        resource: Resource,
        kind: type[T],
        *,
        on_change: Callable[[Change[T]], None],
        namespace: str | None = None,
        field_selector: str = "",
        label_selector: str = "",
        decode: Callable[[msgspec.Raw], T] | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._source = source
        self._resource = resource
        self._namespace = namespace
        self._field_selector = field_selector
        self._label_selector = label_selector
        self._on_change = on_change
        self._chance = chance
        self._mirror = Mirror(kind, decode=decode)
        self._trouble = "the first list has not come yet"
        self._lists = 0
        self._watches = 0
        self._heard = 0
        self.synced = asyncio.Event()

    @property
    def objects(self) -> Mapping[Key, T]:
        """Everything known to exist, by (namespace, name)."""
        return self._mirror.objects

    @property
    def trouble(self) -> str:
        """Why the mirror may be old; empty while it is in step. For `/readyz` and logs."""
        return self._trouble

    def state(self) -> ReflectorState:
        """All of this for `/state`."""
        return ReflectorState(
            resource=str(self._resource),
            synced=self.synced.is_set(),
            trouble=self._trouble,
            objects=len(self._mirror.objects),
            unreadable={f"{ns}/{name}": why for (ns, name), why in self._mirror.unreadable.items()},
            resource_version=self._mirror.resource_version,
            lists=self._lists,
            watches=self._watches,
        )

    async def run(self) -> None:
        """Until cancelled."""
        clock = asyncio.get_running_loop().time
        delays = PAUSES.delays(self._chance)
        fruitless = 0
        while True:
            heard, watching_since, failed = self._heard, math.inf, True
            try:
                if not self._mirror.resource_version:
                    await self._list()
                watching_since = clock()
                await self._watch()
                failed = False
            except ApiError as error:
                self._fail(error)
                if isinstance(error, ApiExpired):
                    self._mirror.forget_version()
            calm = clock() - watching_since >= CALM_S
            if calm or self._heard > heard:
                delays, fruitless = PAUSES.delays(self._chance), 0
            else:
                fruitless += 1
            if calm and not failed:
                continue
            if fruitless >= RELIST_AFTER:
                self._mirror.forget_version()
                fruitless = 0
            await asyncio.sleep(next(delays))

    async def _list(self) -> None:
        """A complete list. Pages are applied as they come; what is missing is deleted after the last."""
        limit: int | None = PAGE
        while True:
            try:
                await self._list_pages(limit)
                return
            except ApiExpired:
                # More changes than the server remembers came between two pages: one answer cannot expire.
                if limit is None:
                    raise
                limit = None

    async def _list_pages(self, limit: int | None) -> None:
        self._lists += 1
        self._mirror.begin_list()
        continue_ = ""
        while True:
            page = await self._source.page(
                self._resource,
                namespace=self._namespace,
                field_selector=self._field_selector,
                label_selector=self._label_selector,
                limit=limit,
                continue_=continue_,
            )
            self._tell(self._mirror.take_page(page.items or ()))
            continue_ = page.metadata.continue_
            if not continue_:
                break
        self._tell(self._mirror.end_list(page.metadata.resource_version))

    async def _watch(self) -> None:
        """One watch, until the server or the network ends it."""
        self._watches += 1
        low, high = WINDOW_S
        lines = Lines()
        async with self._source.watch(
            self._resource,
            resource_version=self._mirror.resource_version,
            window_s=int(low + (high - low) * self._chance()),
            namespace=self._namespace,
            field_selector=self._field_selector,
            label_selector=self._label_selector,
        ) as chunks:
            self._trouble = ""
            async for chunk in chunks:
                for line in lines.feed(chunk):
                    event = _event(line)
                    self._tell(self._mirror.take_event(event))
                    self._heard += event.type != "BOOKMARK"

    def _fail(self, error: ApiError) -> None:
        """Remembered for people, and logged when it is news: an API server may be away for hours."""
        if error.message != self._trouble:
            log.warning("reflector_interrupted", resource=str(self._resource), error=error.message)
        self._trouble = error.message

    def _tell(self, changes: Iterable[Change[T]]) -> None:
        for change in changes:
            self._on_change(change)
            if isinstance(change, Synced):
                self.synced.set()


def _event(line: bytes) -> WatchEvent:
    try:
        return msgspec.json.decode(line, type=WatchEvent)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ApiInternal(f"watch: a line that is no event: {error}") from error
