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

from services.eni_manager.core.wiring.values import Route, Rule, Side
from services.eni_manager.core.wiring.veth import DEFAULT4, DEFAULT6
from shared.model import Ip

MARK = 0x10
MASQUERADE_MARK = 0x4000
"""kube-proxy's, unless somebody chose another `masqueradeBit`."""
PRIORITY = 600
"""After 512, so that pods of this node are reached as ever; before 2048, which would send the packet out by an ENI."""
TABLE = 100
NFT_TABLE = "terway_symmetric"
NFT_TABLE6 = "terway_symmetric_ipv6"


def symmetric(link: str, gateway: Ip) -> Side:
    """The rules and the route, for the node's primary interface, of the gateway's family."""
    v6 = ":" in gateway
    return Side(
        routes=(Route(link, DEFAULT6 if v6 else DEFAULT4, gateway, TABLE),),
        rules=tuple(Rule(PRIORITY, TABLE, mark=mark, v6=v6) for mark in (MARK, MASQUERADE_MARK)),
    )


def ruleset(link: str, *, v6: bool = False) -> str:
    """The marks, as one nft transaction that replaces what was there."""
    marked = f"ct mark set ct mark or {MARK:#x}"
    return f"""{without_ruleset(v6=v6)}
table {_table(v6)} {{
    chain prerouting {{
        type filter hook prerouting priority mangle
        iifname "{link}" {marked}
        ct mark and {MARK:#x} == {MARK:#x} meta mark set meta mark or {MARK:#x}
    }}
    chain forward {{
        type filter hook forward priority mangle
        oifname "{link}" meta mark and {MASQUERADE_MARK:#x} == {MASQUERADE_MARK:#x} {marked}
    }}
}}
"""


def without_ruleset(*, v6: bool = False) -> str:
    """The transaction after which there are no marks, whether there were any or not."""
    return f"table {_table(v6)}\ndelete table {_table(v6)}\n"


def _table(v6: bool) -> str:
    return f"ip6 {NFT_TABLE6}" if v6 else f"ip {NFT_TABLE}"
