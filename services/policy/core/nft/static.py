"""The base chains: a packet's way through the host's table, and through a pod's.

    prerouting-raw   -300  from a pod: its source address is the pod's own, or its destination, or it goes no further
                           untracked policy of host endpoints
    prerouting-dnat  -150  pre-DNAT policy of host endpoints
    (DNAT, routing: from here on a Service's packet has its pod's address)
    input               0  from a pod: the pod's egress;  else: the host endpoint's ingress
    forward-from-host   0  host endpoint's forward policy, inwards
    forward-from-pod    1  the pod's egress
    forward-to-pod      2  the pod's ingress
    forward-to-host     3  host endpoint's forward policy, outwards
    output-raw       -300  untracked policy of host endpoints
    output              0  host endpoint's egress. What the host sends to its own pods is nobody's business.

`accept` ends one base chain, and the next one has its say: so a packet between two pods needs the word of both. What
belongs to a connection is accepted at once in each. Stages of host endpoints exist only while an endpoint needs them.

Where pods share a link (`shared_links`) the same stages find the pod by its address; that it sends from no other is for
its own table to see to (`pod.py`).

A pod's interface is found by a verdict map, so that a packet costs the same with one pod and with a hundred. One that
is in no map drops everything: a pod that the calculation has not spoken of yet.
"""

from collections.abc import Collection, Iterator, Mapping

from services.policy.core.nft import hosts
from services.policy.core.nft.hosts import Stage
from services.policy.core.nft.model import Chain, Hook, Set
from services.policy.core.nft.policies import clear_mark, has_mark
from services.policy.core.nft.settings import Settings

FROM_POD, TO_POD = "from-pod", "to-pod"
SPOOFERS = "may-spoof"
SOURCES = {4: "sources4", 6: "sources6"}
FROM_ADDRESS, TO_ADDRESS = {4: "from-address4", 6: "from-address6"}, {4: "to-address4", 6: "to-address6"}

KNOWN = "ct state 0x2,0x4 accept"
"""What belongs to an established connection, or is related to one."""

_NFPROTO = {4: 2, 6: 10}
_LINK_LOCAL = "ip6 saddr { ::, fe80::/10 } accept"
_DHCP = "ip saddr 0.0.0.0 ip daddr 255.255.255.255 udp sport 68 udp dport 67 accept"


def maps(settings: Settings) -> Iterator[Set]:
    """What the base chains look interfaces up in, always there."""
    for name in (FROM_POD, TO_POD):
        yield Set(name, "ifname", data="verdict")
    for family in settings.families:
        yield Set(SOURCES[family], f"ifname . ipv{family}_addr")
        if settings.shared_links:
            for name in (FROM_ADDRESS[family], TO_ADDRESS[family]):
                yield Set(name, f"ipv{family}_addr", data="verdict")


def base_chains(settings: Settings, every: Mapping[Stage, str | None], *, spoofers: bool) -> Iterator[Chain]:
    """All base chains and what belongs to them. `every`: stages in use, and the chain of `*` in each if it has one."""
    yield from _prerouting(settings, every, spoofers=spoofers)
    yield _input(settings, every)
    yield Chain("pod-to-host", tuple(_pod_to_host(settings)))
    if settings.shared_links:
        yield Chain("from-shared", tuple(_by_address("saddr", FROM_ADDRESS, settings)))
        yield Chain("to-shared", tuple(_by_address("daddr", TO_ADDRESS, settings)))
        yield Chain("shared-to-host", tuple(_shared_to_host(settings)))
    yield _pods("forward-from-pod", 1, "iifname", FROM_POD, settings, "from-shared")
    yield _pods("forward-to-pod", 2, "oifname", TO_POD, settings, "to-shared")
    for stage, chain, hook in (
        (hosts.FORWARD_IN, "forward-from-host", Hook("filter", "forward", 0)),
        (hosts.FORWARD_OUT, "forward-to-host", Hook("filter", "forward", 3)),
        (hosts.OUTPUT, "output", Hook("filter", "output", 0)),
    ):
        if stage in every:
            # Outwards nothing was accepted before its time: the mark speaks of the way in, or of the host's own.
            skips = _accepted(settings, every) if stage != hosts.FORWARD_OUT else ()
            yield Chain(chain, (KNOWN, *skips, *_dispatch(stage, every[stage], settings)), hook)
    for name in sorted({hosts.failsafe_chain(stage) for stage in every if "forward" not in stage.name}):
        yield hosts.failsafes(next(one for one in hosts.STAGES if hosts.failsafe_chain(one) == name), settings)


def _prerouting(settings: Settings, every: Mapping[Stage, str | None], *, spoofers: bool) -> Iterator[Chain]:
    raw = [f"{_of('iifname', prefix)} goto sources" for prefix in settings.workload_prefixes]
    if _marks(every):
        raw.append(clear_mark(settings.mark_accept))
    if hosts.RAW_IN in every:
        raw += _dispatch(hosts.RAW_IN, every[hosts.RAW_IN], settings, to_pods=False)
    yield Chain("prerouting-raw", tuple(raw), Hook("filter", "prerouting", -300))
    yield Chain("sources", tuple(_sources(settings, spoofers=spoofers)))
    if _marks(every):
        output = [clear_mark(settings.mark_accept)]
        if hosts.RAW_OUT in every:
            output += _dispatch(hosts.RAW_OUT, every[hosts.RAW_OUT], settings)
        yield Chain("output-raw", tuple(output), Hook("filter", "output", -300))
    if hosts.PRE_DNAT in every:
        rules = (
            *(f"{_of('iifname', prefix)} accept" for prefix in settings.workload_prefixes),
            KNOWN,
            *_accepted(settings, every),
            *_dispatch(hosts.PRE_DNAT, every[hosts.PRE_DNAT], settings, to_pods=False),
        )
        yield Chain("prerouting-dnat", rules, Hook("filter", "prerouting", -150))


def _sources(settings: Settings, *, spoofers: bool) -> Iterator[str]:
    for family in settings.families:
        address = "ip" if family == 4 else "ip6"
        yield f"iifname . {address} saddr @{SOURCES[family]} accept"
        # Answers to a Service's client that has an ENI to itself come by its own link, from the backend (eni_manager's
        # core/wiring/turning.py). Whoever forges one forges it for himself: it goes nowhere but back by that link.
        yield f"iifname . {address} daddr @{SOURCES[family]} accept"
    if spoofers:
        yield f"iifname vmap @{SPOOFERS}"
    yield _LINK_LOCAL
    yield _DHCP
    yield 'counter drop comment "the source address is not the pod\'s"'


def _input(settings: Settings, every: Mapping[Stage, str | None]) -> Chain:
    rules = [KNOWN, *(f"{_of('iifname', prefix)} goto pod-to-host" for prefix in settings.workload_prefixes)]
    rules += [f"{_of('iifname', prefix)} goto shared-to-host" for prefix in settings.shared_links]
    if hosts.INPUT in every:
        rules += _accepted(settings, every)
        rules += _dispatch(hosts.INPUT, every[hosts.INPUT], settings, to_pods=False)
    return Chain("input", tuple(rules), Hook("filter", "input", 0))


def _pod_to_host(settings: Settings) -> Iterator[str]:
    yield "icmpv6 type { 130, 131, 132, 133, 135, 136 } accept"
    if settings.endpoint_to_host_action == "DROP":
        yield 'counter drop comment "no pod reaches the host: endpoint_to_host_action"'
        return
    yield f"iifname vmap @{FROM_POD}"
    yield 'counter drop comment "no pod is known to be here"'


def _shared_to_host(settings: Settings) -> Iterator[str]:
    yield "icmpv6 type { 130, 131, 132, 133, 135, 136 } accept"
    if settings.endpoint_to_host_action == "DROP":
        yield 'counter drop comment "no pod reaches the host: endpoint_to_host_action"'
        return
    yield "goto from-shared"


def _by_address(field: str, maps: Mapping[int, str], settings: Settings) -> Iterator[str]:
    for family in settings.families:
        yield f"{'ip' if family == 4 else 'ip6'} {field} vmap @{maps[family]}"
    yield 'counter drop comment "no pod is known to be here"'


def _pods(name: str, priority: int, field: str, entries: str, settings: Settings, shared: str) -> Chain:
    unknown = (
        f'{_of(field, prefix)} counter drop comment "no pod is known to be here"'
        for prefix in settings.workload_prefixes
    )
    by_address = (f"{_of(field, prefix)} goto {shared}" for prefix in settings.shared_links)
    return Chain(name, (KNOWN, f"{field} vmap @{entries}", *by_address, *unknown), Hook("filter", "forward", priority))


def _dispatch(stage: Stage, every: str | None, settings: Settings, *, to_pods: bool = True) -> Iterator[str]:
    """By interface; those without an endpoint of their own have that of `*`, but for pods' and the loopback."""
    field = "iifname" if stage.inward else "oifname"
    yield f"{field} vmap @{stage.map}"
    if every is None:
        return
    yield f'{field} "lo" accept'
    if to_pods:
        for prefix in settings.workload_prefixes:
            yield f"{_of(field, prefix)} accept"
    yield f"goto {every}"


def _of(field: str, prefix: str) -> str:
    return f'{field} "{prefix}*"'


def _marks(every: Collection[Stage]) -> bool:
    """Whether any stage says that it accepted a packet."""
    return hosts.RAW_IN in every or hosts.RAW_OUT in every or hosts.PRE_DNAT in every


def _accepted(settings: Settings, every: Collection[Stage]) -> tuple[str, ...]:
    return (f"{has_mark(settings.mark_accept)} accept",) if _marks(every) else ()
