"""The mirror's promises, whatever is heard and whatever is missed."""

from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from shared.kube.errors import ApiError, ApiExpired, ApiInternal
from shared.kube.mirror import Applied, Change, Deleted, Key, Mirror, Synced, WatchEvent
from shared.kube.objects import Pod


def raw(obj: object) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(obj))


def pod(name: str, version: int, uid: str = "u", phase: str = "Running") -> msgspec.Raw:
    metadata = {"name": name, "namespace": "ns", "uid": uid, "resourceVersion": str(version)}
    return raw({"metadata": metadata, "status": {"phase": phase}})


def event(kind: str, item: msgspec.Raw) -> WatchEvent:
    return WatchEvent(kind, item)


def listed(mirror: Mirror[Pod], version: int, *pages: list[msgspec.Raw]) -> list[Change[Pod]]:
    mirror.begin_list()
    changes = [change for page in pages for change in mirror.take_page(page)]
    return [*changes, *mirror.end_list(str(version))]


def test_a_list_says_what_is_new_then_what_is_gone_then_synced() -> None:
    mirror = Mirror(Pod)
    first = listed(mirror, 5, [pod("a", 1)], [pod("b", 2)])
    assert [type(change) for change in first] == [Applied, Applied, Synced]
    again = listed(mirror, 9, [pod("b", 2), pod("c", 8)])
    assert [type(change) for change in again] == [Applied, Deleted, Synced]
    assert mirror.resource_version == "9"
    assert sorted(mirror.objects) == [("ns", "b"), ("ns", "c")]


def test_a_list_begun_again_forgets_the_first_attempt() -> None:
    mirror = Mirror(Pod)
    mirror.begin_list()
    [*mirror.take_page([pod("a", 1)])]
    assert [type(change) for change in listed(mirror, 3, [])] == [Deleted, Synced]


def test_a_namesake_is_another_object() -> None:
    mirror = Mirror(Pod)
    listed(mirror, 1, [pod("a", 1, uid="old")])
    changes = [*mirror.take_event(event("MODIFIED", pod("a", 2, uid="new")))]
    assert [(type(c), c.obj.metadata.uid) for c in changes if not isinstance(c, Synced)] == [
        (Deleted, "old"),
        (Applied, "new"),
    ]


def test_deleted_carries_the_last_state() -> None:
    mirror = Mirror(Pod)
    listed(mirror, 1, [pod("a", 1)])
    [change] = mirror.take_event(event("DELETED", pod("a", 2, phase="Failed")))
    assert isinstance(change, Deleted)
    assert change.obj.status.phase == "Failed"
    assert not [*mirror.take_event(event("DELETED", pod("a", 3)))], "said once"


def test_bookmarks_only_move_the_version() -> None:
    mirror = Mirror(Pod)
    listed(mirror, 1, [])
    bookmark = raw({"kind": "Pod", "metadata": {"resourceVersion": "77", "creationTimestamp": None}})
    assert not [*mirror.take_event(event("BOOKMARK", bookmark))]
    assert mirror.resource_version == "77"


def test_an_unreadable_object_spoils_only_itself() -> None:
    mirror = Mirror(Pod)
    broken = {"metadata": {"name": "a", "namespace": "ns", "resourceVersion": "2", "labels": {"x": 1}}}
    changes = listed(mirror, 2, [pod("b", 1), raw(broken), pod("c", 1)])
    assert [type(change) for change in changes] == [Applied, Applied, Synced]
    assert "labels" in mirror.unreadable["ns", "a"]
    [change] = mirror.take_event(event("MODIFIED", pod("a", 3)))
    assert isinstance(change, Applied)
    assert not mirror.unreadable


def test_an_object_that_becomes_unreadable_keeps_its_last_state_until_it_goes() -> None:
    mirror = Mirror(Pod)
    listed(mirror, 1, [pod("a", 1)])
    broken = raw({"metadata": {"name": "a", "namespace": "ns", "resourceVersion": "2"}, "spec": 7})
    assert not [*mirror.take_event(event("MODIFIED", broken))]
    assert mirror.objects["ns", "a"].metadata.resource_version == "1"
    assert mirror.resource_version == "2", "the watch goes on behind it"
    [change] = mirror.take_event(event("DELETED", broken))
    assert isinstance(change, Deleted)
    assert not mirror.unreadable


def test_an_unreadable_object_that_is_gone_from_a_list_is_forgotten() -> None:
    mirror = Mirror(Pod)
    listed(mirror, 1, [raw({"metadata": {"name": "a"}, "spec": 7})])
    assert mirror.unreadable
    listed(mirror, 2, [])
    assert not mirror.unreadable


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"code": 410, "reason": "Expired", "message": "too old resource version: 1 (5)"}, ApiExpired),
        ({"code": 500, "message": "etcd is sad"}, ApiError),
        ([], ApiInternal),
    ],
)
def test_an_error_event_is_raised(said: object, expected: type[ApiError]) -> None:
    with pytest.raises(expected):
        [*Mirror(Pod).take_event(event("ERROR", raw(said)))]


DEEP = msgspec.Raw(b'{"metadata":{"name":"a"},"spec":' + b"[" * 5000 + b"]" * 5000 + b"}")


@pytest.mark.parametrize(
    "bad",
    [
        event("RENAMED", raw({})),
        event("ADDED", raw({"kind": "Pod"})),
        event("ADDED", raw(3)),
        event("ADDED", DEEP),
    ],
)
def test_what_is_no_event_is_refused(bad: WatchEvent) -> None:
    with pytest.raises(ApiInternal):
        [*Mirror(Pod).take_event(bad)]


class Following(RuleBasedStateMachine):
    """A server that changes, and a mirror that sees lists, some of the events, and gaps.

    Invariant: what the consumer was told, replayed, is what the mirror holds; after a complete list, or a watch
    without a gap, that is what the server holds.
    """

    names = st.sampled_from(["a", "b", "c"])

    def __init__(self) -> None:
        super().__init__()
        self.version = 1
        self.server: dict[str, tuple[int, int]] = {}  # name -> uid, version
        self.missed = True
        self.mirror = Mirror(Pod)
        self.told: dict[Key, tuple[str, str]] = {}

    @rule(name=names, heard=st.booleans())
    def write(self, name: str, heard: bool) -> None:
        self.version += 1
        known = self.server.get(name)
        self.server[name] = (known[0] if known else self.version, self.version)
        self._happened("MODIFIED" if known else "ADDED", self._pod(name), heard)

    @rule(name=names, heard=st.booleans())
    def remove(self, name: str, heard: bool) -> None:
        if name in self.server:
            self.version += 1
            self.server[name] = (self.server[name][0], self.version)
            item = self._pod(name)
            del self.server[name]
            self._happened("DELETED", item, heard)

    @rule(page=st.integers(min_value=1, max_value=3), broken_off=st.booleans())
    def list(self, page: int, broken_off: bool) -> None:
        items = [self._pod(name) for name in sorted(self.server)]
        self.mirror.begin_list()
        for at in range(0, len(items), page):
            self._told(self.mirror.take_page(items[at : at + page]))
            if broken_off:
                self.missed = True
                return
        self._told(self.mirror.end_list(str(self.version)))
        self.missed = False

    @precondition(lambda self: not self.missed)
    @rule()
    def bookmark(self) -> None:
        self._told(self.mirror.take_event(event("BOOKMARK", raw({"metadata": {"resourceVersion": str(self.version)}}))))

    @invariant()
    def what_was_told_is_what_is_held(self) -> None:
        held = {key: (obj.metadata.uid, obj.metadata.resource_version) for key, obj in self.mirror.objects.items()}
        assert held == self.told
        if not self.missed:
            assert held == {("ns", name): (str(uid), str(at)) for name, (uid, at) in self.server.items()}
            assert self.mirror.resource_version == str(self.version)

    def _pod(self, name: str) -> msgspec.Raw:
        uid, version = self.server[name]
        return pod(name, version, uid=str(uid))

    def _happened(self, kind: str, item: msgspec.Raw, heard: bool) -> None:
        if heard and not self.missed:
            self._told(self.mirror.take_event(event(kind, item)))
        else:
            self.missed = True  # a watch never skips one event and shows the next

    def _told(self, changes: Iterator[Change[Pod]]) -> None:
        for change in changes:
            match change:
                case Applied(obj):
                    key, state = _key(obj), (obj.metadata.uid, obj.metadata.resource_version)
                    assert self.told.get(key) != state, "said only when it differs"
                    assert key not in self.told or self.told[key][0] == state[0], (
                        "a namesake comes after the old one's end"
                    )
                    self.told[key] = state
                case Deleted(obj):
                    assert self.told.pop(_key(obj))[0] == obj.metadata.uid


def _key(obj: Pod) -> Key:
    return (obj.metadata.namespace, obj.metadata.name)


Following.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
test_following = Following.TestCase
