"""The reflector's patience and recovery in virtual time, against a source that follows a script."""

import asyncio
import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import msgspec
import pytest

from shared.kube.client import ListMeta, RawPage
from shared.kube.errors import ApiError, ApiExpired, ApiUnavailable
from shared.kube.mirror import Applied, Change, Deleted, Synced
from shared.kube.objects import Pod
from shared.kube.reflector import CALM_S, RELIST_AFTER, Reflector
from shared.kube.resources import PODS, Resource

pytestmark = pytest.mark.looptime

HOUR = 3600.0


def pod(name: str, version: int, **spec: object) -> dict[str, object]:
    metadata = {"name": name, "namespace": "ns", "uid": name, "resourceVersion": str(version)}
    return {"metadata": metadata, "spec": spec}


def line(kind: str, obj: object) -> bytes:
    return msgspec.json.encode({"type": kind, "object": obj}) + b"\n"


def page(version: int, *pods: dict[str, object], more: str = "") -> RawPage:
    items = [msgspec.Raw(msgspec.json.encode(item)) for item in pods]
    return RawPage(ListMeta(resource_version=str(version), continue_=more), items)


Step = bytes | float | ApiError
"""Of a watch: bytes that arrive, seconds that pass, or how it breaks off. A list that ends is a clean end."""


@dataclass
class Script:
    """A source whose answers are given; the last of each kind repeats for ever. Notes what it was asked, and when."""

    lists: list[RawPage | ApiError]
    watches: list[ApiError | list[Step]]
    listed: list[tuple[float, int | None, str]] = field(default_factory=list)
    watched: list[tuple[float, str]] = field(default_factory=list)

    async def page(
        self,
        resource: Resource,
        *,
        namespace: str | None,
        field_selector: str,
        label_selector: str,
        limit: int | None,
        continue_: str,
    ) -> RawPage:
        self.listed.append((asyncio.get_running_loop().time(), limit, continue_))
        answer = self.lists.pop(0) if len(self.lists) > 1 else self.lists[0]
        if isinstance(answer, ApiError):
            raise answer
        return answer

    @asynccontextmanager
    async def watch(
        self,
        resource: Resource,
        *,
        namespace: str | None,
        field_selector: str,
        label_selector: str,
        resource_version: str,
        window_s: int,
    ) -> AsyncGenerator[AsyncIterator[bytes], None]:
        self.watched.append((asyncio.get_running_loop().time(), resource_version))
        answer = self.watches.pop(0) if len(self.watches) > 1 else self.watches[0]
        if isinstance(answer, ApiError):
            raise answer
        yield _play(answer)


async def _play(steps: list[Step]) -> AsyncIterator[bytes]:
    for step in steps:
        if isinstance(step, ApiError):
            raise step
        if isinstance(step, bytes):
            yield step
        else:
            await asyncio.sleep(step)


async def follow(
    script: Script, seconds: float, *, chance: Callable[[], float] = lambda: 0.0
) -> tuple[Reflector[Pod], list[Change[Pod]]]:
    changes: list[Change[Pod]] = []
    reflector = Reflector(script, PODS, Pod, on_change=changes.append, chance=chance)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reflector.run(), seconds)
    return reflector, changes


def words(changes: list[Change[Pod]]) -> Iterator[str]:
    for change in changes:
        match change:
            case Applied(obj):
                yield f"+{obj.metadata.name}"
            case Deleted(obj):
                yield f"-{obj.metadata.name}"
            case Synced():
                yield "synced"


UNREACHABLE = ApiUnavailable("connection refused")
EXPIRED = ApiExpired("too old resource version: 1 (5)")
QUIET: list[Step] = [HOUR * 9]


async def test_pages_make_one_list() -> None:
    script = Script([page(7, pod("a", 1), more="next"), page(7, pod("b", 2))], [QUIET])
    reflector, changes = await follow(script, 10)
    assert [*words(changes)] == ["+a", "+b", "synced"]
    assert [(limit, token) for _, limit, token in script.listed] == [(500, ""), (500, "next")]
    assert [version for _, version in script.watched] == ["7"]
    assert reflector.synced.is_set()
    assert not reflector.trouble


async def test_a_continue_token_that_expires_makes_it_ask_for_all_at_once() -> None:
    whole = page(9, pod("b", 2), pod("c", 8))
    script = Script([page(7, pod("a", 1), more="next"), EXPIRED, whole], [QUIET])
    _, changes = await follow(script, 10)
    assert [limit for _, limit, _ in script.listed] == [500, 500, None]
    assert [*words(changes)] == ["+a", "+b", "+c", "-a", "synced"], "a was there, and is not any more"


async def test_a_window_that_ends_is_followed_by_the_next_at_once() -> None:
    bookmark = line("BOOKMARK", {"metadata": {"resourceVersion": "40"}})
    script = Script([page(7)], [[bookmark, 300.0], QUIET])
    await follow(script, HOUR)
    assert script.watched == [(0.0, "7"), (300.0, "40")]
    assert len(script.listed) == 1


async def test_a_cut_watch_resumes_behind_the_last_whole_event() -> None:
    whole, half = line("ADDED", pod("a", 8)), line("ADDED", pod("b", 9))
    script = Script([page(7)], [[whole + half[:20], ApiUnavailable("cut")], [half, 9 * HOUR]])
    _, changes = await follow(script, 60)
    assert [version for _, version in script.watched] == ["7", "8"]
    assert [*words(changes)] == ["synced", "+a", "+b"]


async def test_410_leads_to_a_fresh_list_and_what_is_missing_is_deleted() -> None:
    gone = line("ERROR", {"code": 410, "reason": "Expired", "message": "too old"})
    script = Script([page(7, pod("a", 1), pod("b", 2)), page(20, pod("b", 2))], [[gone], QUIET])
    reflector, changes = await follow(script, 60)
    assert [*words(changes)] == ["+a", "+b", "synced", "-a", "synced"]
    assert [version for _, version in script.watched] == ["7", "20"]
    assert not reflector.trouble


@pytest.mark.parametrize(
    "trouble", [EXPIRED, UNREACHABLE, [], [line("BOOKMARK", {"metadata": {"resourceVersion": "7"}})]]
)
async def test_a_watch_that_never_works_costs_little(trouble: ApiError | list[Step]) -> None:
    """Lists and watches of a whole hour; other clients make 300 of them in two seconds."""
    script = Script([page(7)], [trouble])
    await follow(script, HOUR)
    assert len(script.listed) + len(script.watched) < 2 * HOUR / 15
    assert len(script.watched) > HOUR / 45, "and it never gives up"


async def test_pauses_grow_and_differ_by_chance() -> None:
    def pauses(script: Script) -> list[float]:
        times = [time for time, _, _ in script.listed]
        return [round(after - before, 3) for before, after in itertools.pairwise(times)]

    least, most = Script([UNREACHABLE], [QUIET]), Script([UNREACHABLE], [QUIET])
    await follow(least, 100)
    assert pauses(least) == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 20.0, 20.0, 20.0]
    await follow(most, 100, chance=lambda: 0.999999)
    assert pauses(most) == [0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 40.0]


async def test_a_watch_that_worked_makes_it_patient_again() -> None:
    event = line("ADDED", pod("a", 8))
    script = Script([page(7)], [UNREACHABLE, UNREACHABLE, UNREACHABLE, [event, UNREACHABLE], UNREACHABLE, QUIET])
    await follow(script, 60)
    times = [time for time, _ in script.watched]
    gaps = [round(after - before, 3) for before, after in itertools.pairwise(times)]
    assert gaps == [0.2, 0.4, 0.8, 0.2, 0.4]


async def test_a_version_that_the_server_never_knew_is_given_up() -> None:
    """A cluster restored from a backup: watches from the future bring nothing."""
    ends: list[list[Step]] = [[] for _ in range(RELIST_AFTER)]
    script = Script([page(700), page(7)], [*ends, QUIET])
    await follow(script, 120)
    assert [version for _, version in script.watched] == ["700"] * RELIST_AFTER + ["7"]


async def test_a_long_watch_that_breaks_is_not_resumed_by_everybody_at_once() -> None:
    script = Script([page(7)], [[CALM_S + 1, UNREACHABLE], QUIET])
    await follow(script, HOUR, chance=lambda: 0.5)
    assert [round(time, 3) for time, _ in script.watched] == [0.0, CALM_S + 1 + 0.3]


@pytest.mark.parametrize(
    "garbage", [b"<html>\n", line("RENAMED", {}), b'{"type":"ADDED","object":{}}\n', b"\xff\xfe\n"]
)
async def test_garbage_is_trouble_and_not_the_end(garbage: bytes) -> None:
    script = Script([page(7)], [[garbage], [line("ADDED", pod("a", 8)), 9 * HOUR]])
    reflector, changes = await follow(script, 60)
    assert [*words(changes)] == ["synced", "+a"]
    assert not reflector.trouble


async def test_trouble_is_said_while_it_lasts() -> None:
    reflector, _ = await follow(Script([UNREACHABLE], [QUIET]), 5)
    assert reflector.trouble == "connection refused"
    assert not reflector.synced.is_set()
    reflector, _ = await follow(Script([page(7, pod("a", 1))], [UNREACHABLE]), 5)
    assert reflector.synced.is_set()
    assert reflector.state().trouble == "connection refused"
    assert reflector.state().objects == 1


async def test_a_consumer_that_fails_ends_the_run() -> None:
    def fail(change: Change[Pod]) -> None:
        raise LookupError(change)

    reflector = Reflector(Script([page(7)], [QUIET]), PODS, Pod, on_change=fail)
    with pytest.raises(LookupError):
        await reflector.run()
