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
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Generic, TypeVar

import msgspec

from shared.kube.client import PAGE, KubeClient
from shared.kube.errors import ApiError, ApiExpired, ApiInternal
from shared.kube.lines import Lines
from shared.kube.mirror import Change, Key, Mirror, Synced, WatchEvent
from shared.kube.objects import Object
from shared.kube.resources import Resource

T = TypeVar("T", bound=Object)

WINDOW_S = (300, 600)
"""How long one watch is asked to last; spread, so that the nodes of a cluster do not come back together."""

CALM_S = 10.0
"""A watch that lasted this long was a healthy one: the next starts at once and the back-off starts over."""

RELIST_AFTER = 5
"""Watches in a row that bring nothing before a fresh list: the version may be one the server has never known."""


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
    """

    def __init__(
        self,
        client: KubeClient,
        resource: Resource,
        kind: type[T],
        *,
        on_change: Callable[[Change[T]], None],
        namespace: str | None = None,
        field_selector: str = "",
        label_selector: str = "",
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._client = client
        self._resource = resource
        self._namespace = namespace
        self._field_selector = field_selector
        self._label_selector = label_selector
        self._on_change = on_change
        self._chance = chance
        self._mirror = Mirror(kind)
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
        delays = _delays(self._chance)
        fruitless = 0
        while True:
            heard, watching_since, failed = self._heard, math.inf, True
            try:
                if not self._mirror.resource_version:
                    await self._list()
                watching_since = clock()
                await self._watch()
                failed = False
            except ApiExpired as error:
                self._trouble = error.message
                self._mirror.forget_version()
            except ApiError as error:
                self._trouble = error.message
            calm = clock() - watching_since >= CALM_S
            if calm or self._heard > heard:
                delays, fruitless = _delays(self._chance), 0
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
            page = await self._client.page(
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
        async with self._client.watch(
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

    def _tell(self, changes: Iterable[Change[T]]) -> None:
        for change in changes:
            if isinstance(change, Synced):
                self.synced.set()
            self._on_change(change)


def _event(line: bytes) -> WatchEvent:
    try:
        return msgspec.json.decode(line, type=WatchEvent)
    except msgspec.MsgspecError as error:
        raise ApiInternal(f"watch: a line that is no event: {error}") from error


def _delays(chance: Callable[[], float]) -> Iterator[float]:
    """0.1–0.3 s, then doubling to at most 15–45 s."""
    middle = 0.2
    while True:
        yield middle * (0.5 + chance())
        middle = min(middle * 2, 30.0)
