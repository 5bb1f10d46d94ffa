"""Answers leave by the interface that the question came in by (terway.md §5.8): NodePorts and host ports need it.

What comes to the node's own address and is sent on to a pod is answered from the pod's address, and 2048 would send the
answer out by the pod's ENI, where the VPC drops it: the node's address is not that ENI's. So connections that come in
by the node's primary interface are marked, and marked packets go back that way:

    nft   in by eth0 ─► connection marked ─► its packets marked        (table ip terway_symmetric)
    rule  600: marked lookup 100 ; table 100: default via the primary interface's gateway

The same for what kube-proxy will masquerade, from a pod by a NodePort to another node's pod: it bears the node's
address when it leaves, so it must leave by the primary interface. kube-proxy marks only the first packet, so the
connection is marked when that is forwarded.
"""

from collections.abc import Iterable, Iterator

import msgspec

from services.eni_manager.core.wiring.values import ENI_TABLE_BASE, PODS_TABLE, Priority, Route, Rule, Side
from services.eni_manager.core.wiring.veth import DEFAULT4, DEFAULT6
from shared.model import Ip

MASQUERADE_MARK = 0x4000
"""kube-proxy's, unless somebody chose another `masqueradeBit`."""
DROP_MARK = 0x8000
"""kubelet's and older kube-proxies'."""
TURN_TABLE = 101
"""What mode exclusive-eni looks up (turning.py)."""
KERNELS_TABLES = (253, 254, 255)
MAX_COMMENT_BYTES = 127
NFT_TABLE = "terway_symmetric"
NFT_TABLE6 = "terway_symmetric_ipv6"


class Marking(msgspec.Struct, frozen=True):
    """By what it is done (`symmetric_routing_config`). `interface` empty: the one of the default route."""

    interface: str = ""
    mark: int = 0x10
    mask: int = 0x10
    table: int = 100
    priority: int = 600
    """After 512, so that pods of this node are reached as ever; before 2048, which would send packets out by an ENI."""
    comment: str = "terway-symmetric"

    def problems(self) -> Iterator[str]:
        """What cannot work, as `key: what is wrong, and the way out`."""
        if len(self.interface.encode()) > 15 or set(self.interface) & set(' /"\\\n\t'):
            yield f"interface: {self.interface!r} is no interface's name; leave it away for that of the default route"
        if not 0 < self.mask <= 0xFFFFFFFF:
            yield f"mask: expected 1 to {0xFFFFFFFF}, got {self.mask}"
        elif not self.mark or self.mark & ~self.mask:
            yield f"mark: expected bits of the mask, {self.mask:#x}, and not none of them; got {self.mark:#x}"
        elif taken := self.mask & (MASQUERADE_MARK | DROP_MARK):
            yield f"mask: {self.mask:#x} has {taken:#x}, which kube-proxy sets; take other bits"
        spoken_for = {*KERNELS_TABLES, TURN_TABLE, PODS_TABLE}
        if not 0 < self.table < ENI_TABLE_BASE or self.table in spoken_for:
            others = ", ".join(map(str, sorted(spoken_for)))
            free = f"expected 1 to {ENI_TABLE_BASE - 1}, and none of {others}, which are in use"
            yield f"table_id: {free}; got {self.table}"
        if not Priority.TO_POD < self.priority < Priority.FROM_POD:
            between = f"{Priority.TO_POD + 1} to {Priority.FROM_POD - 1}, between the rules to pods and those from pods"
            yield f"rule_priority: expected {between}; got {self.priority}"
        if len(self.comment.encode()) > MAX_COMMENT_BYTES or not self.comment.isprintable() or '"' in self.comment:
            yield f"comment: expected at most {MAX_COMMENT_BYTES} bytes without quotes, got {self.comment!r}"

    def on(self, what: str) -> str:
        """The statement that sets the mark on `ct` or `meta`, and leaves all bits beside the mask as they are."""
        beside = ~self.mask & 0xFFFFFFFF
        kept = f"{what} mark" if self.mark == self.mask else f"{what} mark and {beside:#x}"
        return f"{what} mark set {kept} or {self.mark:#x}"


TERWAYS = Marking()


def symmetric(link: str, gateway: Ip, marking: Marking = TERWAYS) -> Side:
    """The rules and the route, for the node's primary interface, of the gateway's family."""
    v6 = ":" in gateway
    mask = 0 if marking.mask == marking.mark else marking.mask
    return Side(
        routes=(Route(link, DEFAULT6 if v6 else DEFAULT4, gateway, marking.table),),
        rules=(
            Rule(marking.priority, marking.table, mark=marking.mark, mask=mask, v6=v6),
            Rule(marking.priority, marking.table, mark=MASQUERADE_MARK, v6=v6),
        ),
    )


def outdated(present: Iterable[Rule], wanted: Iterable[Rule], *, v6: bool) -> list[Rule]:
    """Rules of ours by marks, of one family, that an earlier configuration wanted. No others of ours are at these."""
    keep = frozenset(wanted)
    ours = (rule for rule in present if rule.mark and rule.v6 == v6 and rule not in keep)
    return [rule for rule in ours if Priority.TO_POD < rule.priority < Priority.FROM_POD]


def no_way_by(marking: Marking, *, v6: bool) -> str:
    """What to say where the interface that is named cannot be it."""
    return (
        f"eni_conf.symmetric_routing_config.interface: the node has no IPv{6 if v6 else 4} default route by "
        f"{marking.interface!r}; name the interface that has it, or leave the key away"
    )


def ruleset(link: str, marking: Marking = TERWAYS, *, v6: bool = False) -> str:
    """The marks, as one nft transaction that replaces what was there."""
    mark, mask, said = marking.mark, marking.mask, f' comment "{marking.comment}"' if marking.comment else ""
    return f"""{without_ruleset(v6=v6)}
table {_table(v6)} {{
    chain prerouting {{
        type filter hook prerouting priority mangle
        iifname "{link}" {marking.on("ct")}{said}
        ct mark and {mask:#x} == {mark:#x} {marking.on("meta")}{said}
    }}
    chain forward {{
        type filter hook forward priority mangle
        oifname "{link}" meta mark and {MASQUERADE_MARK:#x} == {MASQUERADE_MARK:#x} {marking.on("ct")}{said}
    }}
}}
"""


def without_ruleset(*, v6: bool = False) -> str:
    """The transaction after which there are no marks, whether there were any or not."""
    return f"table {_table(v6)}\ndelete table {_table(v6)}\n"


def _table(v6: bool) -> str:
    return f"ip6 {NFT_TABLE6}" if v6 else f"ip {NFT_TABLE}"
