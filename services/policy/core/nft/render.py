"""The renderer: messages in, the wanted table and what changed of it out.

    take ----> store: policies, profiles, endpoints, sets --+
    attach --> links ---------------------------------------+--> what is touched --> flush: chains, maps --> Draft
                                                                  (sets' members go to the Draft at once)

What a change touches: a policy its own two chains, and the endpoints that list it only when it begins or ceases to
pass; a set its elements, and the policies that name it only when it becomes another kind of set; an endpoint its own
chains and links; a host endpoint all host endpoints, of which a host has a handful.
"""

from collections.abc import Iterable, Mapping

from services.policy.core import messages as m
from services.policy.core.nft import endpoints, hosts, policies, static
from services.policy.core.nft.draft import Draft
from services.policy.core.nft.hosts import Stage
from services.policy.core.nft.ipset import Delta, IPSet
from services.policy.core.nft.links import Links
from services.policy.core.nft.model import Chain, Change, Set, Table
from services.policy.core.nft.names import Direction
from services.policy.core.nft.settings import Attachment, Settings

Owner = m.PolicyID | m.ProfileID


class Renderer:
    """The host's table. A flush costs what the messages since the last one name, never what there is."""

    def __init__(self, settings: Settings = Settings()) -> None:  # noqa: B008  frozen
        self.settings = settings
        self._draft = Draft()
        self._sets: dict[str, dict[int, IPSet]] = {}
        self._users: dict[str, set[Owner]] = {}
        self._rules: dict[Owner, m.Policy | m.Profile] = {}
        self._workloads: dict[m.WorkloadEndpointID, m.WorkloadEndpoint] = {}
        self._hosts: dict[str, m.HostEndpoint] = {}
        self._interfaces: dict[str, frozenset[str]] = {}
        self._links = Links(settings, self._draft, self._workloads)
        self._asked_by: dict[m.PolicyID, set[m.WorkloadEndpointID]] = {}
        self._objects: dict[Owner | m.WorkloadEndpointID | str, dict[tuple[type[Chain | Set], str], None]] = {}
        """The chains and sets that each owner has in the draft; the host endpoints are one."""
        self._host_stages: dict[Stage, dict[str, str]] = {}
        self._touched: dict[Owner | m.WorkloadEndpointID, None] = {}
        self._host_touched = True
        for one in static.maps(settings):
            self._draft.set(one)

    # ---- what it is told

    def take(self, message: m.Message) -> None:
        """One message of the calculation, in its order. Cheap; kinds that no rule depends on are ignored."""
        match message:
            case m.IPSetUpdate():
                self._set(message)
            case m.IPSetDeltaUpdate():
                for one in self._sets[message.id].values():
                    self._members(one.change(message.added_members, message.removed_members), message.id)
            case m.IPSetRemove():
                for one in self._sets.pop(message.id).values():
                    self._draft.no_set(one.definition.name)
            case m.ActivePolicyUpdate():
                self._ruled(message.id, message.policy)
            case m.ActiveProfileUpdate():
                self._ruled(message.id, message.profile)
            case m.ActivePolicyRemove() | m.ActiveProfileRemove():
                self._ruled(message.id, None)
            case m.WorkloadEndpointUpdate():
                self._workload(message.id, message.endpoint)
            case m.WorkloadEndpointRemove():
                self._workload(message.id, None)
            case m.HostEndpointUpdate():
                self._hosts[message.id.endpoint_id] = message.endpoint
                self._host_touched = True
            case m.HostEndpointRemove():
                del self._hosts[message.id.endpoint_id]
                self._host_touched = True

    def attach(self, attachment: Attachment) -> None:
        """A sandbox is wired. Told again under the same link, the later holds."""
        self._links.attach(attachment)

    def detach(self, link: str) -> None:
        """The sandbox of this link is gone; unknown links are ignored."""
        self._links.detach(link)

    def interfaces(self, addresses: Mapping[str, Iterable[str]]) -> None:
        """The host's own interfaces with their addresses: which host endpoint without a name is which."""
        told = {link: frozenset(held) for link, held in addresses.items()}
        if told != self._interfaces:
            self._interfaces = told
            self._host_touched = True

    # ---- what it says

    def flush(self) -> Change:
        """What changed of the wanted table since the last flush; the first is from nothing."""
        for owner in self._touched:
            if isinstance(owner, m.WorkloadEndpointID):
                self._render_workload(owner)
            else:
                self._render_rules(owner)
        self._touched.clear()
        if self._links.settle() or self._host_touched:
            self._render_host()
        return self._draft.flush()

    @property
    def table(self) -> Table:
        """What is wanted as of the last flush: a view, not a copy. It changes with the next flush."""
        return self._draft.table

    def owners(self) -> dict[str, m.PolicyID | m.ProfileID | m.WorkloadEndpointID | str]:
        """Whose each chain and set of rules is, by name; "host" for host endpoints' and the base chains.

        In a policy's or profile's chain a rule's comment begins with `rule NUMBER`, followed by the rule's id.
        """
        return {name: owner for owner, objects in self._objects.items() for _, name in objects}

    # ---- sets

    def _set(self, message: m.IPSetUpdate) -> None:
        known = self._sets.get(message.id)
        if known is None:
            known = self._sets[message.id] = {
                family: IPSet(message.id, message.type, family) for family in self.settings.families
            }
            for one in known.values():
                self._draft.set(one.definition)
        for one in known.values():
            self._members(one.replace(message.members), message.id)

    def _members(self, delta: Delta, set_id: str) -> None:
        if delta.replaces is None:
            self._draft.change(delta.set.name, delta.added, delta.removed)
            return
        self._draft.no_set(delta.replaces.name)
        self._draft.set(delta.set, delta.added)
        self._touched.update(dict.fromkeys(self._users.get(set_id, ())))

    def _set_name(self, set_id: str, family: int) -> str:
        return self._sets[set_id][family].definition.name

    # ---- policies and profiles

    def _ruled(self, owner: Owner, rules: m.Policy | m.Profile | None) -> None:
        before = self._rules.pop(owner, None)
        if rules is not None:
            self._rules[owner] = rules
        for set_id in set(policies.sets_of(before)) if before is not None else ():
            self._users[set_id].discard(owner)
            if not self._users[set_id]:
                del self._users[set_id]
        for set_id in set(policies.sets_of(rules)) if rules is not None else ():
            self._users.setdefault(set_id, set()).add(owner)
        self._touched[owner] = None
        if isinstance(owner, m.PolicyID) and _passing(before) != _passing(rules):
            self._touched.update(dict.fromkeys(self._asked_by.get(owner, ())))
            self._host_touched = True

    def _passes(self, policy_id: m.PolicyID, direction: Direction) -> bool:
        policy = self._rules[policy_id]
        assert isinstance(policy, m.Policy)
        return policies.passes(policy, direction)

    def _render_rules(self, owner: Owner) -> None:
        rules = self._rules.get(owner)
        objects: Iterable[Chain | Set] = ()
        if isinstance(owner, m.PolicyID) and isinstance(rules, m.Policy):
            objects = policies.policy_objects(owner, rules, self.settings, self._set_name)
        elif isinstance(owner, m.ProfileID) and isinstance(rules, m.Profile):
            objects = policies.profile_objects(owner.name, rules, self.settings, self._set_name)
        self._put(owner, objects)

    # ---- endpoints

    def _workload(self, workload_id: m.WorkloadEndpointID, endpoint: m.WorkloadEndpoint | None) -> None:
        before = self._workloads.pop(workload_id, None)
        if endpoint is not None:
            self._workloads[workload_id] = endpoint
        for policy_id in _asked(before):
            self._asked_by[policy_id].discard(workload_id)
            if not self._asked_by[policy_id]:
                del self._asked_by[policy_id]
        for policy_id in _asked(endpoint):
            self._asked_by.setdefault(policy_id, set()).add(workload_id)
        self._touched[workload_id] = None
        self._links.workload(workload_id)

    def _render_workload(self, workload_id: m.WorkloadEndpointID) -> None:
        endpoint = self._workloads.get(workload_id)
        chains: list[Chain] = []
        if endpoint is not None:
            for one in endpoints.workload_ladders(workload_id, endpoint, self.settings):
                chains += endpoints.chains(one, self._passes, self.settings)
        self._put(workload_id, chains)

    def _render_host(self) -> None:
        """All that host endpoints are: their chains, the maps to them, and the base chains."""
        resolved = hosts.resolve(self._hosts, self._interfaces, self.settings.workload_prefixes)
        chains: dict[str, Chain] = {}
        entries: dict[Stage, dict[str, str]] = {}
        for link, endpoint_id in resolved.items():
            for stage in hosts.STAGES:
                one = hosts.ladder(stage, endpoint_id, self._hosts[endpoint_id], self.settings)
                if one is not None:
                    entries.setdefault(stage, {})[link] = one.chain
                    chains |= {chain.name: chain for chain in endpoints.chains(one, self._passes, self.settings)}
        every = {stage: found.pop(hosts.EVERY, None) for stage, found in entries.items()}
        for stage, found in entries.items():
            verdicts = {link: f"goto {chain}" for link, chain in found.items()}
            if every[stage] is not None:
                # An interface with an endpoint of its own is not one of all the others, also where that asks nothing.
                verdicts = dict.fromkeys(resolved.keys() - {hosts.EVERY}, "accept") | verdicts
            self._host_map(stage, verdicts)
        for stage in self._host_stages.keys() - entries.keys():
            del self._host_stages[stage]
            self._draft.no_set(stage.map)
        base = static.base_chains(self.settings, every, spoofers=self._links.spoofers)
        self._put("host", (*chains.values(), *base))
        self._host_touched = False

    def _host_map(self, stage: Stage, verdicts: dict[str, str]) -> None:
        before = self._host_stages.get(stage)
        if before is None:
            self._draft.set(Set(stage.map, "ifname", data="verdict"))
            before = {}
        for link in before.keys() - verdicts.keys():
            self._draft.map(stage.map, f'"{link}"', None)
        for link, verdict in verdicts.items():
            self._draft.map(stage.map, f'"{link}"', verdict)
        self._host_stages[stage] = verdicts

    def _put(self, owner: Owner | m.WorkloadEndpointID | str, objects: Iterable[Chain | Set]) -> None:
        """These chains and sets are all that the owner has."""
        before = self._objects.pop(owner, {})
        now = {(type(one), one.name): one for one in objects}
        for kind, name in before.keys() - now.keys():
            (self._draft.no_chain if kind is Chain else self._draft.no_set)(name)
        for key, one in now.items():
            if isinstance(one, Chain):
                self._draft.chain(one)
            elif key not in before:
                self._draft.set(one)
        if now:
            self._objects[owner] = dict.fromkeys(now)


def _asked(endpoint: m.WorkloadEndpoint | None) -> set[m.PolicyID]:
    if endpoint is None:
        return set()
    return {one for direction in policies.DIRECTIONS for one in endpoints.policies_of(endpoint.tiers, direction)}


def _passing(rules: m.Policy | m.Profile | None) -> tuple[bool, ...]:
    return tuple(isinstance(rules, m.Policy) and policies.passes(rules, one) for one in policies.DIRECTIONS)
