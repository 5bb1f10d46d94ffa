"""Gathers what changed and tells it in an order that a dataplane can rely on (felix.md §3.6).

    sets, differences of sets, policies, profiles, endpoints   first what is referred to, then what refers
    endpoints, profiles, policies, sets                        the same backwards for what goes
    service accounts, namespaces, the rest, InSync

Between two flushes only the latest content of each thing counts: added and removed again is not mentioned, removed and
added again is an update. So nothing ever refers to what was not sent, and nothing is removed while it is referred to.
"""

from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

from services.policy.core import messages
from services.policy.core.ipsets import IPSet
from services.policy.core.messages import Message

K = TypeVar("K", bound=Hashable)


class Lane(Generic[K]):
    """The pending news of one kind of thing."""

    def __init__(self) -> None:
        self._updates: dict[K, Message] = {}
        self._removes: dict[K, Message] = {}
        self._sent: set[K] = set()

    def update(self, key: K, message: Message) -> None:
        """The thing is there, with this content."""
        self._updates[key] = message
        self._removes.pop(key, None)

    def remove(self, key: K, message: Message) -> None:
        """The thing is gone; worth a word only if it was ever mentioned."""
        self._updates.pop(key, None)
        if key in self._sent:
            self._removes[key] = message

    def updates(self) -> Iterator[Message]:
        """Say what is new or changed."""
        self._sent.update(self._updates)
        yield from self._updates.values()
        self._updates.clear()

    def removes(self) -> Iterator[Message]:
        """Say what is gone."""
        self._sent.difference_update(self._removes)
        yield from self._removes.values()
        self._removes.clear()


class Sequencer:
    """One lane per kind of thing; IP sets have their own rules, as their members come and go one by one."""

    def __init__(self) -> None:
        self.policies: Lane[Hashable] = Lane()
        self.profiles: Lane[str] = Lane()
        self.endpoints: Lane[Hashable] = Lane()
        self.accounts: Lane[Hashable] = Lane()
        self.namespaces: Lane[str] = Lane()
        self._new_sets: dict[str, IPSet] = {}
        self._changed_sets: dict[str, IPSet] = {}
        self._gone_sets: dict[str, None] = {}
        self._known_sets: set[str] = set()

    def on_set(self, ipset: IPSet) -> None:
        """A set is needed; it will be told with all its members, whatever the dataplane had under its id."""
        self._new_sets[ipset.spec.id] = ipset
        self._gone_sets.pop(ipset.spec.id, None)

    def on_set_gone(self, set_id: str) -> None:
        """A set is needed no more."""
        self._new_sets.pop(set_id, None)
        self._changed_sets.pop(set_id, None)
        if set_id in self._known_sets:
            self._gone_sets[set_id] = None

    def on_members(self, ipset: IPSet) -> None:
        """A set that the dataplane knows has other members now."""
        self._changed_sets[ipset.spec.id] = ipset

    def flush(self) -> Iterator[Message]:
        """Everything pending, in order; afterwards nothing is."""
        yield from self._set_updates()
        yield from self._set_deltas()
        yield from self.policies.updates()
        yield from self.profiles.updates()
        yield from self.endpoints.updates()
        yield from self.endpoints.removes()
        yield from self.profiles.removes()
        yield from self.policies.removes()
        for set_id in self._gone_sets:
            yield messages.IPSetRemove(set_id)
        self._known_sets.difference_update(self._gone_sets)
        self._gone_sets.clear()
        yield from self.accounts.removes()
        yield from self.accounts.updates()
        yield from self.namespaces.removes()
        yield from self.namespaces.updates()

    def _set_updates(self) -> Iterator[Message]:
        for ipset in self._new_sets.values():
            ipset.sent = True
            self._known_sets.add(ipset.spec.id)
            yield messages.IPSetUpdate(ipset.spec.id, ipset.spec.type, tuple(ipset.counts))
        self._new_sets.clear()

    def _set_deltas(self) -> Iterator[Message]:
        for ipset in self._changed_sets.values():
            if ipset.added or ipset.removed:
                yield messages.IPSetDeltaUpdate(ipset.spec.id, tuple(ipset.added), tuple(ipset.removed))
            ipset.added.clear()
            ipset.removed.clear()
        self._changed_sets.clear()
