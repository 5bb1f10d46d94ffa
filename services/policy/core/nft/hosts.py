"""Host endpoints: which interface is whose, and what is asked at which hook (felix.md §4.3, §5.3, §5.4).

    raw, before connection tracking   untracked: failsafes; Allow is not tracked; the end decides nothing
    before DNAT                       pre-DNAT, inwards: failsafes; the end decides nothing
    input, output                     policies, then profiles, then drop: traffic of the host's own processes; failsafes
    forward                           policies with applyOnForward; without any, everything passes

An interface has the endpoint with the lowest id of those that name it, or that name none and expect an address that is
on it. `*` is for all that have none; pods' interfaces and the loopback never have one.
"""

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from services.policy.core import messages as m
from services.policy.core.nft import names
from services.policy.core.nft.endpoints import Ladder, invalid, policies_of, profiles
from services.policy.core.nft.model import Chain
from services.policy.core.nft.names import Direction
from services.policy.core.nft.settings import FailsafePort, Settings

EVERY = "*"

NEIGHBOURS = 'icmpv6 type { 130, 131, 132, 133, 134, 135, 136 } accept comment "neighbour discovery"'
"""Without these an IPv6 link is dead: listener queries and reports, routers, neighbours (felix.md §4.2)."""


class Stage(msgspec.Struct, frozen=True):
    """One of the places where host endpoints are asked."""

    name: str
    """Of its map; the chains' prefix is its abbreviation."""
    prefix: str
    inward: bool

    @property
    def map(self) -> str:
        """The map from interface to chain."""
        return f"host-{self.name}"


RAW_IN = Stage("untracked-in", "hui", True)
RAW_OUT = Stage("untracked-out", "huo", False)
PRE_DNAT = Stage("pre-dnat", "hpi", True)
INPUT = Stage("in", "hi", True)
OUTPUT = Stage("out", "ho", False)
FORWARD_IN = Stage("forward-in", "hfi", True)
FORWARD_OUT = Stage("forward-out", "hfo", False)
STAGES = (RAW_IN, RAW_OUT, PRE_DNAT, INPUT, OUTPUT, FORWARD_IN, FORWARD_OUT)


def resolve(
    hosts: Mapping[str, m.HostEndpoint], addresses: Mapping[str, frozenset[str]], prefixes: tuple[str, ...]
) -> dict[str, str]:
    """Interface (or `*`) -> id of its endpoint."""
    found: dict[str, str] = {}
    for endpoint_id in sorted(hosts):
        endpoint = hosts[endpoint_id]
        if endpoint.name == EVERY:
            found.setdefault(EVERY, endpoint_id)
            continue
        if endpoint.name:
            mine: Iterable[str] = (endpoint.name,) if names.is_link(endpoint.name) else ()
        else:
            expected = {*endpoint.expected_ipv4_addrs, *endpoint.expected_ipv6_addrs}
            mine = (link for link, held in sorted(addresses.items()) if expected & held)
        for link in mine:
            if not link.startswith(prefixes) and names.is_link(link):
                found.setdefault(link, endpoint_id)
    return found


def ladder(stage: Stage, endpoint_id: str, endpoint: m.HostEndpoint, settings: Settings) -> Ladder | None:
    """What the endpoint asks at a stage; None: nothing, so that the packet goes on."""
    chain = names.named(stage.prefix, endpoint_id)
    direction: Direction = "ingress" if stage.inward else "egress"
    failsafe = f"jump {failsafe_chain(stage)}"
    tiers, opening = endpoint.tiers, (*invalid(settings), NEIGHBOURS, failsafe)
    match stage:
        case Stage(name="untracked-in" | "untracked-out"):
            tiers, opening = endpoint.untracked_tiers, (NEIGHBOURS, failsafe)
        case Stage(name="pre-dnat"):
            tiers = endpoint.pre_dnat_tiers
        case Stage(name="in" | "out"):
            return Ladder(
                chain=chain,
                direction=direction,
                tiers=tiers,
                opening=opening,
                closing=profiles(chain, endpoint.profile_ids, direction, settings),
            )
        case _:
            tiers, opening = endpoint.forward_tiers, invalid(settings)
    if not any(True for _ in policies_of(tiers, direction)):
        return None
    if stage in (RAW_IN, RAW_OUT, PRE_DNAT):
        # What falls through these is judged later, whatever a tier says of its end.
        tiers = tuple(msgspec.structs.replace(tier, default_action="Pass") for tier in tiers)
    return Ladder(chain=chain, direction=direction, tiers=tiers, opening=opening)


def failsafe_chain(stage: Stage) -> str:
    """The failsafe ports as that stage asks for them."""
    return f"failsafe-{'raw-' if stage in (RAW_IN, RAW_OUT) else ''}{'in' if stage.inward else 'out'}"


def failsafes(stage: Stage, settings: Settings) -> Chain:
    """Ports that stay open whatever a policy says. Untracked, the answers of the other direction's ports too."""
    own, other = settings.failsafe_inbound, settings.failsafe_outbound
    if not stage.inward:
        own, other = other, own
    peer = "saddr" if stage.inward else "daddr"
    rules = list(_open(own, "dport", peer))
    if stage in (RAW_IN, RAW_OUT):
        rules += _open(other, "sport", peer)
    return Chain(failsafe_chain(stage), tuple(rules))


def _open(ports: Iterable[FailsafePort], field: str, peer: str) -> Iterator[str]:
    grouped: dict[tuple[str, str], set[int]] = {}
    for one in ports:
        grouped.setdefault((one.protocol, one.net), set()).add(one.port)
    for (protocol, net), numbers in sorted(grouped.items()):
        family = "ip6" if ":" in net else "ip"
        only = f"{family} {peer} {net} " if net else ""
        wanted = [str(number) for number in sorted(numbers)]
        text = wanted[0] if len(wanted) == 1 else f"{{ {', '.join(wanted)} }}"
        yield f'{only}{protocol} {field} {text} counter accept comment "failsafe"'
