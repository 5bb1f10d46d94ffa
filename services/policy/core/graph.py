"""The calculation, drawn. v1 updates go in at the top, messages for the dataplane come out at the bottom.

    update(key, value)
        |
        v
    filter ............. validate.check: a value with a bad field counts as deleted, and is reported
        |
        +-- endpoints of this host --> ActiveRules --- matches -----------------> Resolver
        |                                |  ^                                        ^  |
        +-- policies, profiles' rules ---|--+---- order, types, tiers ---------------+  |
        |                                v                                              |
        |                            RuleScanner -- policies, profiles, sets --+        |
        |                                | needs these IP sets                 |        |
        |                                v                                     v        v
        +-- every endpoint, sets ----> Members, Services -- members ------> Sequencer.flush() --> messages
        +-- profiles' labels --------> ActiveRules, Members, Identities -------^

Each node is told in the order drawn; none asks back. What a node makes of its inputs depends on what they are now and
never on how they came to be so: any order of the same updates ends in the same state, which the tests hold it to.
"""

from collections.abc import Container, Mapping

from services.policy.core import messages, v1
from services.policy.core.active import ActiveRules
from services.policy.core.identities import Identities
from services.policy.core.members import Item, Members
from services.policy.core.messages import Message
from services.policy.core.problems import Invalid
from services.policy.core.profiles import FELIX_3_24_5, Compat
from services.policy.core.resolver import LocalKey, Resolver
from services.policy.core.scanner import RuleScanner
from services.policy.core.sequencer import Sequencer
from services.policy.core.services import Services
from services.policy.core.validate import check


class Graph:
    """One host's calculation. `update` is cheap and says nothing; `flush` says what changed since the last.

    Without a host every endpoint counts as local, so that a whole cluster is judged at once; `only` narrows it to some.
    """

    def __init__(
        self, host: str | None, compat: Compat = FELIX_3_24_5, *, only: Container[v1.Key] | None = None
    ) -> None:
        self.host = host
        self._only = only
        self.compat = compat
        self.invalid: dict[v1.Key, Invalid] = {}
        """What the filter holds back, with the reason."""
        self._sequencer = Sequencer()
        self._members = Members(self._sequencer)
        self._services = Services(self._sequencer)
        self._scanner = RuleScanner(self._members, self._services, self._sequencer, compat)
        self._resolver = Resolver(self._sequencer, compat)
        self._active = ActiveRules(self._scanner, self._resolver, compat)
        self._identities = Identities(self._sequencer)
        self._in_sync = False
        self._said_in_sync = False

    def update(self, key: v1.Key, value: v1.Value | None, rest: bytes = b"") -> None:
        """The thing has this content now; None: it does not exist. `rest` is remembered with an endpoint's item."""
        self.invalid.pop(key, None)
        if value is not None:
            try:
                check(value, self.compat)
            except Invalid as error:
                self.invalid[key] = error
                value = None
        self._pass_on(key, value, rest)

    @property
    def items(self) -> Mapping[v1.Key, Item]:
        """What the graph remembers of the endpoints and network sets of all hosts."""
        return self._members.items

    def in_sync(self) -> None:
        """Everything that existed at the start has been given."""
        self._in_sync = True

    def flush(self) -> list[Message]:
        """What the dataplane must be told, in order."""
        if self._in_sync:
            self._resolver.flush()
        said = list(self._sequencer.flush())
        if self._in_sync and not self._said_in_sync:
            self._said_in_sync = True
            if self.compat.encapsulation:
                said.append(messages.Encapsulation())
            said.append(messages.InSync())
        return said

    def _pass_on(self, key: v1.Key, value: v1.Value | None, rest: bytes) -> None:
        match key, value:
            case v1.WorkloadKey(), v1.WorkloadEndpoint() | None:
                if self._is_local(key):
                    self._active.on_endpoint(key, value)
                self._members.on_workload(key, value, rest)
            case v1.HostEndpointKey(), v1.HostEndpoint() | None:
                if self._is_local(key):
                    self._active.on_endpoint(key, value)
                self._members.on_host_endpoint(key, value)
            case v1.PolicyKey(), v1.Policy() | None:
                self._active.on_policy(key, value)
                self._resolver.on_policy(key, value)
            case v1.TierKey(), v1.Tier() | None:
                self._resolver.on_tier(key, value)
            case v1.ProfileRulesKey(), v1.ProfileRules() | None:
                self._active.on_rules(key.name, value)
            case v1.ProfileLabelsKey(), v1.ProfileLabels() | None:
                if not self.compat.profile_resources:
                    self._on_labels(key.name, value)
            case v1.ProfileKey(), v1.ProfileResource() | None:
                self._on_labels(key.name, value)
            case v1.NetworkSetKey(), v1.NetworkSet() | None:
                self._members.on_network_set(key, value)
            case v1.SliceKey(), v1.ServiceEndpoints() | None:
                self._services.on_slice(key, value)
            case _:
                raise TypeError(f"{key!r} names no {type(value).__name__}")

    def _is_local(self, key: LocalKey) -> bool:
        return (self.host is None or key.host == self.host) and (self._only is None or key in self._only)

    def _on_labels(self, profile: str, value: v1.ProfileLabels | v1.ProfileResource | None) -> None:
        labels = None if value is None else value.labels
        self._active.on_labels(profile, labels)
        self._members.on_labels(profile, labels)
        self._identities.on_labels(profile, labels)
