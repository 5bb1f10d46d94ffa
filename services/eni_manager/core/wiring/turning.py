"""The node's part in letting Services' backends see pods' own addresses: what it has translated goes back to the pod.

    in by cali…, to a Service ─► kube-proxy: to a backend ─► connection and packet marked      (nft, terway_masq)
    rule   500: marked lookup 101 ; table 101: default dev terway-turn
    nft    out by terway-turn ─► a port below those that the pod's kernel chooses from; the address stays
    terway-turn ─► a classifier ─► out by the link that it came in by, the pod's          (core/bpf/own_address.py)

From there the pod's own classifiers see to it. Answers come by the pod's link, too, and are translated back as ever.

The pod's kernel gives a source port once per destination, so a connection by the Service and one straight to its
backend may have the same; they must not meet. Hence the other port, unless the pod itself asked for a low one.

Not turned, and so masqueraded as before: what kube-proxy wants masqueraded; a pod that is its own backend; what goes to
the node itself; what is no Service of these ranges, NodePorts and host ports among it; backends in these ranges.
"""

from collections.abc import Sequence

from services.eni_manager.core.bpf import eni_path
from services.eni_manager.core.bpf.own_address import Part
from services.eni_manager.core.wiring.symmetric import MASQUERADE_MARK
from services.eni_manager.core.wiring.values import (
    GATEWAY4,
    GATEWAY6,
    Classifier,
    Link,
    Node,
    Route,
    Rule,
    Side,
    Sysctl,
)
from services.eni_manager.core.wiring.veth import DEFAULT4, DEFAULT6, unadvised
from shared.model import Cidr, Mode

LINK = "terway-turn"
MARK = eni_path.MARK
"""Of packets, and of connections; beside that of `symmetric`."""
PRIORITY = 500
TABLE = 101
PORTS = "1024-32767"
"""Below `net.ipv4.ip_local_port_range`, as it comes, and as many."""
PODS_LINKS = {Mode.EXCLUSIVE_ENI: "cali*", Mode.SHARED_IPVLAN: "ipvl_*"}


def turn(node: Node) -> Side:
    """What stands on the node, whatever pods there are."""
    families = [v6 for v6, own in ((False, node.ipv4), (True, node.ipv6)) if own is not None]
    sysctls = (Sysctl(f"net/ipv6/conf/{LINK}/disable_ipv6", "0"), *unadvised(LINK)) if True in families else ()
    return Side(
        sysctls=sysctls,
        links=(Link(LINK, node.mtu, noarp=True),),
        # By a gateway that nobody has: a neighbour for each backend would fill the kernel's table.
        routes=tuple(Route(LINK, DEFAULT6 if v6 else DEFAULT4, GATEWAY6 if v6 else GATEWAY4, TABLE) for v6 in families),
        rules=tuple(Rule(PRIORITY, TABLE, mark=MARK, v6=v6) for v6 in families),
        classifiers=(Classifier(LINK, Part.TURN),),
    )


def chains(family: str, ranges: Sequence[Cidr], mode: Mode) -> str:
    """The chains of a family's table that mark what is turned; none without ranges of that family."""
    if not ranges:
        return ""
    services, marked = f"{{ {', '.join(ranges)} }}", f"meta mark set meta mark or {MARK:#x}"
    protocols = "meta l4proto { tcp, udp, sctp }"
    return f"""
    chain prerouting {{
        type filter hook prerouting priority dstnat + 5
        iifname "{PODS_LINKS[mode]}" ct direction original jump turned
    }}
    chain turned {{
        ct mark and {MARK:#x} == {MARK:#x} {marked} return
        ct state != new return
        ct status and dnat == 0 return
        meta mark and {MASQUERADE_MARK:#x} == {MASQUERADE_MARK:#x} return
        ct original {family} daddr != {services} return
        {family} daddr {services} return
        fib daddr type != unicast return
        fib daddr . iif oif exists return
        {protocols} ct mark set ct mark or {MARK:#x} {marked}
    }}
    chain ports {{
        type nat hook postrouting priority srcnat - 5
        meta mark and {MARK:#x} == {MARK:#x} {protocols} snat to :{PORTS}
    }}
"""
