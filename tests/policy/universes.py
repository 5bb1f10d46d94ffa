"""Small random datastores in the v1 model, dense on purpose: labels meet, addresses are shared, names collide.

One seed is one sequence, and a shorter sequence of the same seed is a prefix of the longer: so that a failure shrinks
to its first wrong step.
"""

import random
from collections.abc import Iterator, Sequence
from typing import TypeVar

from services.policy.core import v1

HOST = "here"

Change = tuple[v1.Key, v1.Value | None]
"""A key and its new content; None: it goes."""

T = TypeVar("T")

_TERMS = (
    "all()",
    "has(a)",
    "has(a)",
    "!has(b)",
    "a == 'x'",
    "a == 'x'",
    "a != 'x'",
    "!(a != 'y')",
    "a in {'x', 'y'}",
    "a in {}",
    "!(a not in {'y'})",
    "b not in {'x'}",
    "b == ''",
    "pcns.t == 'x'",
    "pcns.t == 'x'",
    "has(pcns.t)",
    "pcns.t starts with 'y'",
    "a contains 'x'",
    "b ends with 'y'",
)
_NETS = ("10.0.0.1/32", "10.0.0.0/24", "0.0.0.0/0", "0.0.0.0/1", "::/0", "fd00::/8")
_ADDRESSES = ("10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4")
_PROFILES = ("kns.one", "kns.two", "free")
_PORTS: tuple[v1.Port, ...] = (80, "80:90", "web", "dns")


class Dice:
    """Values, chance by chance."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def changes(self, count: int) -> Iterator[Change]:
        """One key after another, often one that was there before."""
        for _ in range(count):
            yield self.change()

    def change(self) -> Change:
        """One key and what becomes of it."""
        gone = self.random.random() < 0.2
        kind = self.random.choices(range(7), (8, 2, 6, 2, 3, 2, 1))[0]
        key: v1.Key
        value: v1.Value
        match kind:
            case 0:
                host = self.one((HOST, HOST, "there"))
                key = v1.WorkloadKey(host, "k8s", f"n/{self.random.randrange(3)}", "eth0")
                value = self._workload()
            case 1:
                key = v1.HostEndpointKey(self.one((HOST, "there")), f"h{self.random.randrange(2)}")
                value = self._host_endpoint()
            case 2:
                key, value = v1.PolicyKey(self.one(("n/p", "n/q", "g", "all"))), self._policy()
            case 3:
                key, value = v1.ProfileRulesKey(self.one(_PROFILES)), v1.ProfileRules(self._rules(), self._rules())
            case 4:
                key, value = v1.ProfileKey(self.one(_PROFILES)), self._profile()
            case 5:
                key, value = v1.NetworkSetKey(self.one(("n/s", "g"))), self._network_set()
            case _:
                key, value = v1.SliceKey("n", self.one(("s-1", "s-2"))), self._slice()
        return key, None if gone else value

    def one(self, choices: Sequence[T]) -> T:
        return self.random.choice(choices)

    def some(self, choices: Sequence[T], most: int) -> tuple[T, ...]:
        return tuple(self.random.sample(choices, self.random.randint(0, most)))

    def _labels(self, names: Sequence[str] = ("a", "b", "pcns.t")) -> dict[str, str]:
        return {name: self.one(("x", "x", "y", "")) for name in self.some(names, len(names))}

    def _endpoint_ports(self) -> tuple[v1.EndpointPort, ...]:
        return tuple(
            v1.EndpointPort(self.one(("web", "dns")), self.one(("tcp", "udp")), self.one((80, 81)))
            for _ in range(self.random.randint(0, 2))
        )

    def _workload(self) -> v1.WorkloadEndpoint:
        return v1.WorkloadEndpoint(
            state="active",
            name="cali1",
            profile_ids=self.some(_PROFILES, 2),
            ipv4_nets=tuple(f"{address}/32" for address in self.some(_ADDRESSES, 2)),
            labels=self._labels(),
            ports=self._endpoint_ports(),
        )

    def _host_endpoint(self) -> v1.HostEndpoint:
        return v1.HostEndpoint(
            name=self.one(("eth0", "*", "", "eth0", "this-name-is-too-long-for-linux")),
            expected_ipv4_addrs=self.some(_ADDRESSES, 2),
            labels=self._labels(),
            profile_ids=self.some(_PROFILES, 2),
            ports=self._endpoint_ports(),
        )

    def _network_set(self) -> v1.NetworkSet:
        return v1.NetworkSet(self.some(_NETS, 3), self._labels(), self.one(((), ("kns.one",))))

    def _profile(self) -> v1.ProfileResource:
        return v1.ProfileResource(self._labels(("a", "pcns.t", "pcns.u")), "spec", self.one(("", "", "", "flawed")))

    def _slice(self) -> v1.ServiceEndpoints:
        ports = (v1.SlicePort(self.one((80, 81, None)), self.one(("TCP", "UDP", None))) for _ in range(2))
        return v1.ServiceEndpoints(self.one(("n/s", "n/other")), self.some(_ADDRESSES, 2), tuple(ports))

    def _selector(self) -> str:
        if self.random.random() < 0.03:
            return "a = b"  # no selector at all: the filter's business
        terms = [self.one(_TERMS) for _ in range(self.one((1, 1, 1, 2, 3)))]
        return self.one((" && ", " || ")).join(terms)

    def _policy(self) -> v1.Policy:
        early = self.random.random()
        return v1.Policy(
            order=self.one((None, 1.0, 2.0)),
            inbound_rules=self._rules(),
            outbound_rules=self._rules(),
            selector=self._selector(),
            untracked=early < 0.15,
            pre_dnat=0.1 < early < 0.25,
            apply_on_forward=self.random.random() < 0.5,
            types=self.one(((), ("ingress",), ("egress",), ("ingress", "egress"), ("bogus",))),
        )

    def _rules(self) -> tuple[v1.Rule, ...]:
        return tuple(self._rule() for _ in range(self.one((0, 1, 1, 2))))

    def _rule(self) -> v1.Rule:
        protocol: v1.Protocol | None = self.one((None, "tcp", "udp", 6))
        service = self.random.random() < 0.2
        return v1.Rule(
            action=self.one(("allow", "deny", "log", "next-tier")),
            protocol=protocol,
            src_selector=self.one(("", self._selector())),
            not_src_selector=self.one(("", "", self._selector())),
            src_ports=self._rule_ports(protocol),
            dst_selector=self.one(("", self._selector())),
            dst_ports=self._rule_ports(protocol),
            not_dst_ports=self._rule_ports(protocol),
            src_service="s" if service else "",
            src_service_ns="n" if service else "",
            dst_service="s" if service else "",
            dst_service_ns="n" if service else "",
        )

    def _rule_ports(self, protocol: v1.Protocol | None) -> tuple[v1.Port, ...]:
        return () if protocol is None else self.some(_PORTS, 2)
