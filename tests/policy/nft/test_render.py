"""The table that grew by increments is the table from scratch, and every change is one that a kernel takes."""

import os
from collections.abc import Iterable, Iterator, Sequence
from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.policy.core import messages as m
from services.policy.core.graph import Graph
from services.policy.core.nft.model import Change, Table, difference, whole
from services.policy.core.nft.pod import PodTable
from services.policy.core.nft.render import Renderer
from services.policy.core.nft.settings import Attachment, Settings
from services.policy.core.profiles import FELIX_CURRENT, PROFILES, Compat
from services.policy.core.state import State
from tests.policy.nft.kernel import Kernel
from tests.policy.universes import HOST, Dice

SEQUENCES = int(os.environ.get("TERWAY_POLICY_SEQUENCES", "500")) // 2
pytestmark = pytest.mark.timeout(120 + SEQUENCES // 2)

WORKLOADS = [m.WorkloadEndpointID("k8s", f"n/{number}", "eth0") for number in range(4)]
SETTINGS = (
    Settings(),
    Settings(families=(4,), endpoint_to_host_action="DROP", drop_invalid=False),
    Settings(families=(6,), flow_log_group=1),
    Settings(shared_links=("ipvl_",)),
    Settings(families=(4,), endpoint_to_host_action="DROP", shared_links=("ipvl_", "ipv2_")),
    Settings(
        workload_prefixes=("cali", "other"), host_addresses=("10.0.0.9", "fd00::9"), service_nets=("10.96.0.0/12",)
    ),
)
LINKS = ("cali1", "cali2", "odd@:+=")


def same(one: Table, other: Table) -> None:
    """Equal but for order and for sets without elements being listed or not."""
    assert dict(one.chains) == dict(other.chains)
    assert dict(one.sets) == dict(other.sets)
    assert {n: set(e) for n, e in one.elements.items() if e} == {n: set(e) for n, e in other.elements.items() if e}


def copy(table: Table) -> Table:
    """A table that does not change with the next flush."""
    elements = {name: frozenset(held) for name, held in table.elements.items()}
    return Table(chains=dict(table.chains), sets=dict(table.sets), elements=elements)


def messages_of(state: State) -> Iterator[m.Message]:
    """A state as a calculation that starts now would say it."""
    for set_id, held in state.sets.items():
        yield m.IPSetUpdate(set_id, held.type, tuple(held.members))
    for policy_id, policy in state.policies.items():
        yield m.ActivePolicyUpdate(policy_id, policy)
    for name, profile in state.profiles.items():
        yield m.ActiveProfileUpdate(m.ProfileID(name), profile)
    for workload_id, workload in state.workloads.items():
        yield m.WorkloadEndpointUpdate(workload_id, workload)
    for host_id, host in state.hosts.items():
        yield m.HostEndpointUpdate(host_id, host)


class Run:
    """A renderer with a kernel behind it, and beside them what is true now."""

    def __init__(self, wanted: Settings) -> None:
        self.settings = wanted
        self.renderer = Renderer(wanted)
        self.kernel = Kernel()
        self.state = State()
        self.attached: dict[str, Attachment] = {}
        self.interfaces: dict[str, Sequence[str]] = {}
        self.pods = {one: (PodTable(one, wanted, open=one is WORKLOADS[0]), Kernel()) for one in WORKLOADS}

    def take(self, said: Iterable[m.Message], random: Random) -> None:
        for message in said:
            if isinstance(message, m.WorkloadEndpointUpdate) and random.random() < 0.2:
                nets = tuple(random.sample(("192.0.2.0/24", "198.51.100.7/32", "fd00::/8"), 2))
                spoofer = msgspec.structs.replace(message.endpoint, allow_spoofed_source_prefixes=nets)
                message = msgspec.structs.replace(message, endpoint=spoofer)
            elif isinstance(message, m.WorkloadEndpointUpdate) and random.random() < 0.1:
                down = msgspec.structs.replace(message.endpoint, state="inactive")
                message = msgspec.structs.replace(message, endpoint=down)
            self.renderer.take(message)
            self.state.apply([message])

    def local(self, random: Random) -> None:
        """Something happens on the host itself."""
        link = random.choice(LINKS)
        match random.randrange(4):
            case 0:
                addresses = tuple(random.sample(("10.0.0.1", "10.0.0.2", "fd00::1"), random.randint(0, 2)))
                whose, open, by_address = random.choice(WORKLOADS), random.random() < 0.3, random.random() < 0.4
                one = Attachment(link, addresses, whose, open, by_address)
                self.attached[link] = one
                self.renderer.attach(one)
            case 1:
                self.attached.pop(link, None)
                self.renderer.detach(link)
            case _:
                self.interfaces = {"eth0": ("10.0.0.1",), "eth1": random.sample(("10.0.0.2", "10.0.0.3"), 1)}
                self.renderer.interfaces(self.interfaces)

    def flush(self) -> Change:
        before = copy(self.renderer.table)
        change = self.renderer.flush()
        self.kernel.load(change.text())
        same(self.kernel.table, self.renderer.table)
        assert change.empty() == difference(before, self.renderer.table).empty()
        for pod, kernel in self.pods.values():
            kernel.load(pod.follow(self.renderer.table, change).text())
            same(kernel.table, pod.table)
        assert self.renderer.flush().empty(), "there was nothing left to say"
        return change

    def check_pods(self) -> None:
        """Each pod's own table is the one that it would get now."""
        for workload, (pod, _) in self.pods.items():
            fresh = PodTable(workload, self.settings, open=workload is WORKLOADS[0])
            fresh.follow(self.renderer.table, Change())
            same(pod.table, fresh.table)

    def from_scratch(self) -> Table:
        fresh = Renderer(self.settings)
        for message in messages_of(self.state):
            fresh.take(message)
        for one in self.attached.values():
            fresh.attach(one)
        fresh.interfaces(self.interfaces)
        fresh.flush()
        return fresh.table


@settings(max_examples=SEQUENCES, deadline=None)
@given(
    seed=st.integers(0, 2**64),
    steps=st.integers(1, 40),
    profile=st.sampled_from([*PROFILES.values()]),
    wanted=st.sampled_from(SETTINGS),
)
def test_increments_end_where_a_fresh_start_ends(seed: int, steps: int, profile: Compat, wanted: Settings) -> None:
    run, dice, graph = Run(wanted), Dice(seed), Graph(HOST, profile)
    graph.in_sync()
    for change in dice.changes(steps):
        graph.update(*change)
        if dice.random.random() < 0.2:
            run.local(dice.random)
        if dice.random.random() < 0.5:
            run.take(graph.flush(), dice.random)
        if dice.random.random() < 0.3:
            run.flush()
    run.take(graph.flush(), dice.random)
    run.flush()
    same(run.renderer.table, run.from_scratch())
    run.check_pods()


@settings(max_examples=SEQUENCES // 4, deadline=None)
@given(seed=st.integers(0, 2**64), before=st.integers(0, 30), after=st.integers(0, 30))
def test_the_difference_of_any_two_tables_leads_from_one_to_the_other(seed: int, before: int, after: int) -> None:
    dice = Dice(seed)
    tables = []
    for steps in (before, after):
        graph, renderer = Graph(HOST, FELIX_CURRENT), Renderer()
        graph.in_sync()
        for change in dice.changes(steps):
            graph.update(*change)
        for message in graph.flush():
            renderer.take(message)
        renderer.flush()
        tables.append(renderer.table)
    kernel = Kernel()
    kernel.load(whole(tables[0]).text())
    same(kernel.table, tables[0])
    kernel.load(difference(*tables).text())
    same(kernel.table, tables[1])
    kernel.load(whole(tables[0]).text())
    same(kernel.table, tables[0])


def test_a_policy_that_begins_to_pass_reaches_endpoints_that_are_not_told_again() -> None:
    """A policy without an order changes alone: what lists it is not said again, and asks it otherwise now."""
    policy = m.PolicyID("p", tier="default")
    tiers = (m.TierInfo("default", ("p",), ("p",)),)
    run = Run(Settings())
    run.take(
        [
            m.ActivePolicyUpdate(policy, m.Policy((m.Rule("allow"),))),
            m.WorkloadEndpointUpdate(WORKLOADS[0], m.WorkloadEndpoint("active", "cali1", tiers=tiers)),
            m.HostEndpointUpdate(m.HostEndpointID("h"), m.HostEndpoint("eth0", tiers=tiers, forward_tiers=tiers)),
        ],
        Random(1),
    )
    run.flush()
    for rules in ((m.Rule("next-tier"),), (m.Rule("deny"), m.Rule("next-tier")), ()):
        run.take([m.ActivePolicyUpdate(policy, m.Policy(rules))], Random(1))
        run.flush()
        same(run.renderer.table, run.from_scratch())
        splits = {"tw-n/0__1", "hi-h__1", "hfi-h__1"} & run.renderer.table.chains.keys()
        assert len(splits) == (3 if rules else 0)


def test_whose_each_chain_is() -> None:
    run, graph = Run(Settings()), Graph(HOST, FELIX_CURRENT)
    graph.in_sync()
    for change in Dice(7).changes(60):
        graph.update(*change)
    run.take(graph.flush(), Random(1))
    run.flush()
    owners = run.renderer.owners()
    spoof = {name for name in run.renderer.table.chains if name.startswith("spoof-")}
    assert run.renderer.table.chains.keys() - spoof <= owners.keys()
    assert {owners[name] for name in ("input", "forward-to-pod")} == {"host"}
    assert set(run.state.policies) <= set(owners.values())


def test_a_pod_is_called_like_the_second_part_of_anothers_chain() -> None:
    run = Run(Settings())
    first, second = (m.WorkloadEndpointID("k8s", name, "eth0") for name in ("n/a", "n/a.1"))
    tiers = (m.TierInfo("default", ("p",)),)
    run.take([m.ActivePolicyUpdate(m.PolicyID("p", tier="default"), m.Policy((m.Rule("next-tier"),)))], Random(1))
    for number, name in enumerate((first, second)):
        endpoint = m.WorkloadEndpoint("active", f"cali{number}", tiers=tiers)
        run.take([m.WorkloadEndpointUpdate(name, endpoint)], Random(1))
    run.flush()
    owners = run.renderer.owners()
    for name in (first, second):
        assert sum(owner == name for owner in owners.values()) == 3, "to it in two parts, and from it"


def test_an_endpoint_with_tiers_that_pass_reads_like_this() -> None:
    run = Run(Settings())
    passing, plain = m.Policy((m.Rule("next-tier"),)), m.Policy((m.Rule("allow"),))
    tiers = (
        m.TierInfo("security", ("a",), default_action="Deny"),
        m.TierInfo("outwards only", (), ("b",)),
        m.TierInfo("platform", ("b", "a"), default_action="Pass"),
        m.TierInfo("default", ("b",)),
        m.TierInfo("never asked", ("a",)),
    )
    endpoint = m.WorkloadEndpoint("active", "cali1", profile_ids=("kns.n",), tiers=tiers)
    named = [(m.ActivePolicyUpdate(m.PolicyID(n, tier="default"), p)) for n, p in (("a", passing), ("b", plain))]
    allow = m.ActiveProfileUpdate(m.ProfileID("kns.n"), m.Profile((m.Rule("allow"),)))
    run.take([*named, allow, m.WorkloadEndpointUpdate(WORKLOADS[0], endpoint)], Random(1))
    run.flush()
    chains = run.renderer.table.chains
    assert {name: chains[name].rules for name in chains if name.startswith("tw-")} == {
        "tw-n/0": (
            'ct state 0x1 counter drop comment "belongs to no connection"',
            "meta mark set meta mark & 0xfffdffff",
            "jump pi-default/a",
            "meta mark & 0x00020000 == 0x00020000 goto tw-n/0__1",
            'counter drop comment "security: no rule of the tier matches"',
        ),
        "tw-n/0__1": (
            "meta mark set meta mark & 0xfffdffff",
            "jump pi-default/b",
            "jump pi-default/a",
            "meta mark & 0x00020000 == 0x00020000 goto tw-n/0__2",
            "goto tw-n/0__2",
        ),
        "tw-n/0__2": (
            "meta mark set meta mark & 0xfffdffff",
            "jump pi-default/b",
            'counter drop comment "default: no rule of the tier matches"',
        ),
    }
