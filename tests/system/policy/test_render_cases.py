"""Felix's functional cases restated: objects as people write them, through the whole calculation, to real packets.

Named ports (positive, negated, more than fifteen), network sets with /0 and overlaps, what `types` mean, endPort, SCTP,
IP versions, rules about Services: each as a person asks for it, and which packets then arrive (felix.md §6.1's kinds).
"""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yaml

from services.policy.core.nft.render import Renderer
from services.policy.core.nft.settings import Attachment
from tests.policy.clusters import Cluster, workload
from tests.policy.nft.test_render import messages_of, same
from tests.system.policy.render_listing import read
from tests.system.policy.render_world import Packet, Site, site

pytestmark = pytest.mark.system

SERVER, CLIENT, STRANGER = "10.0.0.1", "10.0.0.2", "10.0.0.3"
SERVER6, CLIENT6, STRANGER6 = "fd00::1", "fd00::2", "fd00::3"
FAR = "192.0.2.10"
PODS = {
    "ns/server": (SERVER, SERVER6),
    "ns/client": (CLIENT, CLIENT6),
    "other/stranger": (STRANGER, STRANGER6),
}
NOTHING = "add table inet terway\ndelete table inet terway\n"

POLICY = "apiVersion: crd.projectcalico.org/v1\nkind: NetworkPolicy\nmetadata: {name: default.p, namespace: ns}\n"
GLOBAL = "apiVersion: crd.projectcalico.org/v1\nkind: GlobalNetworkPolicy\nmetadata: {name: default.g}\n"
KUBERNETES = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: k, namespace: ns}\n"
NETS = "apiVersion: crd.projectcalico.org/v1\nkind: GlobalNetworkSet\nmetadata: {name: nets, labels: {nets: these}}\n"

Question = tuple[str, str, str, int]

CASES: dict[str, tuple[str, Mapping[Question, bool]]] = {
    "no policy at all": (
        "",
        {(CLIENT, SERVER, "tcp", 80): True, (FAR, SERVER, "udp", 9): True, (CLIENT6, SERVER6, "sctp", 1): True},
    ),
    "a named port is whatever each pod calls so": (
        POLICY + "spec: {selector: app == 'server', types: [Ingress], ingress: [{action: Allow, protocol: TCP, "
        "destination: {ports: [web, 7000]}}]}",
        {
            (CLIENT, SERVER, "tcp", 8080): True,
            (CLIENT6, SERVER6, "tcp", 8080): True,
            (CLIENT, SERVER, "tcp", 7000): True,
            (CLIENT, SERVER, "tcp", 80): False,
            (CLIENT, SERVER, "udp", 8080): False,
            (CLIENT, SERVER, "udp", 7000): False,
            # The name means another number elsewhere, and nothing to those who do not carry it.
            (SERVER, CLIENT, "tcp", 80): True,
        },
    ),
    "a named port of one protocol is not the one of another": (
        POLICY + "spec: {selector: app == 'server', types: [Ingress], ingress: [{action: Allow, protocol: UDP, "
        "destination: {ports: [dns]}}, {action: Allow, protocol: TCP, destination: {ports: [dns]}}]}",
        {
            (CLIENT, SERVER, "udp", 5353): True,
            (CLIENT, SERVER, "tcp", 5353): False,
            (CLIENT, SERVER, "tcp", 5354): True,
            (CLIENT, SERVER, "udp", 5354): False,
        },
    ),
    "a negated named port": (
        POLICY + "spec: {selector: app == 'server', types: [Ingress], ingress: [{action: Allow, protocol: TCP, "
        "destination: {notPorts: [web, 7000]}}]}",
        {
            (CLIENT, SERVER, "tcp", 8080): False,
            (CLIENT, SERVER, "tcp", 7000): False,
            (CLIENT, SERVER, "tcp", 80): True,
            (CLIENT6, SERVER6, "tcp", 8080): False,
            (CLIENT6, SERVER6, "tcp", 80): True,
            (CLIENT, SERVER, "udp", 80): False,
        },
    ),
    "a named port and who may": (
        POLICY + "spec: {selector: app == 'server', types: [Ingress], ingress: [{action: Allow, protocol: TCP, "
        "source: {selector: app == 'client'}, destination: {ports: [web]}}]}",
        {
            (CLIENT, SERVER, "tcp", 8080): True,
            (STRANGER, SERVER, "tcp", 8080): False,
            (FAR, SERVER, "tcp", 8080): False,
        },
    ),
    "more than fifteen ports, named ones among them": (
        POLICY
        + "spec: {selector: app == 'server', types: [Ingress], ingress: [{action: Allow, protocol: TCP, destination: "
        f"{{ports: [{', '.join(str(port) for port in range(1000, 1060, 3))}, '2000:2010', web, dns]}}}}]}}",
        {
            (CLIENT, SERVER, "tcp", 1000): True,
            (CLIENT, SERVER, "tcp", 1057): True,
            (CLIENT, SERVER, "tcp", 1001): False,
            (CLIENT, SERVER, "tcp", 2005): True,
            (CLIENT, SERVER, "tcp", 2011): False,
            (CLIENT, SERVER, "tcp", 8080): True,
            (CLIENT, SERVER, "tcp", 5354): True,
        },
    ),
    "more than fifteen ports that may not be": (
        POLICY
        + "spec: {selector: app == 'server', types: [Ingress], ingress: [{action: Allow, protocol: TCP, destination: "
        f"{{notPorts: [{', '.join(str(port) for port in range(1000, 1060, 3))}, web]}}}}]}}",
        {
            (CLIENT, SERVER, "tcp", 1000): False,
            (CLIENT, SERVER, "tcp", 1057): False,
            (CLIENT, SERVER, "tcp", 1001): True,
            (CLIENT, SERVER, "tcp", 8080): False,
        },
    ),
    "a network set of everything": (
        NETS + "spec: {nets: [0.0.0.0/0, '::/0']}\n---\n" + GLOBAL + "spec: {selector: app == 'server', types: "
        "[Ingress], ingress: [{action: Allow, protocol: TCP, source: {selector: nets == 'these'}}]}",
        {
            (CLIENT, SERVER, "tcp", 80): True,
            (FAR, SERVER, "tcp", 80): True,
            (CLIENT6, SERVER6, "tcp", 80): True,
            (FAR, SERVER, "udp", 80): False,
        },
    ),
    "a network set whose nets overlap each other and pods": (
        NETS
        + "spec: {nets: [10.0.0.0/8, 10.0.0.2/32, 10.0.0.0/30, 192.0.0.0/8, 192.0.2.0/24, 0.0.0.0/3]}\n---\n"
        + GLOBAL
        + "spec: {selector: app == 'server', types: [Ingress], ingress: [{action: Deny, source: {selector: "
        "nets == 'these' || app == 'client'}}, {action: Allow}]}",
        {
            (CLIENT, SERVER, "tcp", 80): False,
            (STRANGER, SERVER, "tcp", 80): False,
            (FAR, SERVER, "tcp", 80): False,
            # The client is of the set with all of its addresses, the stranger with those in the nets.
            (CLIENT6, SERVER6, "tcp", 80): False,
            (STRANGER6, SERVER6, "tcp", 80): True,
        },
    ),
    "everybody but a network set": (
        NETS + "spec: {nets: [10.0.0.2/32, 192.0.2.0/24]}\n---\n" + GLOBAL + "spec: {selector: app == 'server', types: "
        "[Ingress], ingress: [{action: Allow, source: {notSelector: nets == 'these'}}]}",
        {
            (CLIENT, SERVER, "tcp", 80): False,
            (FAR, SERVER, "tcp", 80): False,
            (STRANGER, SERVER, "tcp", 80): True,
            (CLIENT6, SERVER6, "tcp", 80): True,
        },
    ),
    "types: nothing listed is both: what fills them in is not between us and the datastore": (
        POLICY + "spec: {selector: app == 'server', egress: [{action: Allow, protocol: TCP}]}",
        {
            (CLIENT, SERVER, "udp", 80): False,
            (CLIENT, SERVER, "tcp", 80): False,
            (SERVER, CLIENT, "tcp", 80): True,
            (SERVER, CLIENT, "udp", 80): False,
        },
    ),
    "types: Ingress alone leaves egress alone, also with egress rules": (
        POLICY + "spec: {selector: app == 'server', types: [Ingress], egress: [{action: Deny}]}",
        {(CLIENT, SERVER, "tcp", 80): False, (SERVER, CLIENT, "tcp", 80): True},
    ),
    "types: both, and no rules": (
        POLICY + "spec: {selector: app == 'server', types: [Ingress, Egress]}",
        {
            (CLIENT, SERVER, "tcp", 80): False,
            (SERVER, CLIENT, "tcp", 80): False,
            (CLIENT, STRANGER, "tcp", 80): True,
        },
    ),
    "Kubernetes: egress rules alone still isolate ingress": (
        KUBERNETES + "spec: {podSelector: {matchLabels: {app: server}}, egress: [{}]}",
        {(CLIENT, SERVER, "tcp", 80): False, (SERVER, CLIENT, "tcp", 80): True},
    ),
    "Kubernetes: a range of ports, of SCTP and of no protocol named": (
        KUBERNETES + "spec: {podSelector: {}, ingress: [{ports: [{protocol: SCTP, port: 100, endPort: 200}, "
        "{port: 300, endPort: 301}]}]}",
        {
            (STRANGER, SERVER, "sctp", 100): True,
            (STRANGER, SERVER, "sctp", 150): True,
            (STRANGER6, SERVER6, "sctp", 200): True,
            (STRANGER, SERVER, "sctp", 201): False,
            (STRANGER, SERVER, "tcp", 150): False,
            (STRANGER, SERVER, "tcp", 301): True,
            (STRANGER, SERVER, "udp", 301): False,
        },
    ),
    "Kubernetes: a block and what is taken out of it": (
        KUBERNETES + "spec: {podSelector: {matchLabels: {app: server}}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, "
        "except: [10.0.0.2/32]}}, {ipBlock: {cidr: '::/0', except: ['fd00::3/128']}}]}]}",
        {
            (CLIENT, SERVER, "tcp", 80): False,
            (STRANGER, SERVER, "tcp", 80): True,
            (FAR, SERVER, "tcp", 80): False,
            (CLIENT6, SERVER6, "tcp", 80): True,
            (STRANGER6, SERVER6, "tcp", 80): False,
        },
    ),
    "order decides, and Pass leaves it to the profile": (
        GLOBAL.replace("default.g", "default.early")
        + "spec: {order: 1, selector: app == 'server', types: [Ingress], ingress: [{action: Deny, protocol: UDP}, "
        "{action: Pass, protocol: TCP, destination: {ports: [80]}}, {action: Log}]}\n---\n"
        + GLOBAL
        + "spec: {order: 2, selector: all(), types: [Ingress], ingress: [{action: Deny, protocol: TCP, destination: "
        "{ports: [80]}}, {action: Allow}]}",
        {
            (CLIENT, SERVER, "tcp", 80): True,
            (CLIENT, SERVER, "tcp", 81): True,
            (CLIENT, SERVER, "udp", 81): False,
            (SERVER, CLIENT, "tcp", 80): False,
            (SERVER, CLIENT, "udp", 81): True,
        },
    ),
    "one IP version": (
        GLOBAL + "spec: {selector: app == 'server', types: [Ingress], ingress: [{action: Allow, ipVersion: 6}]}",
        {(CLIENT, SERVER, "tcp", 80): False, (CLIENT6, SERVER6, "tcp", 80): True},
    ),
    "pings alone": (
        GLOBAL + "spec: {selector: app == 'server', types: [Ingress], ingress: [{action: Allow, protocol: ICMP, icmp: "
        "{type: 8, code: 0}}, {action: Allow, protocol: ICMPv6, icmp: {type: 128}}]}",
        {
            (CLIENT, SERVER, "icmp", 0): True,
            (CLIENT6, SERVER6, "icmpv6", 0): True,
            (CLIENT, SERVER, "tcp", 80): False,
        },
    ),
    "a Service's endpoints, and by its ports": (
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\nmetadata: {name: s, namespace: ns, "
        "labels: {kubernetes.io/service-name: web}}\nendpoints: [{addresses: [10.0.0.1]}]\nports: [{port: 8080, "
        "protocol: TCP}]\n---\n" + POLICY + "spec: {selector: app == 'client', types: [Egress], egress: "
        "[{action: Allow, destination: {services: {name: web, namespace: ns}}}]}",
        {
            (CLIENT, SERVER, "tcp", 8080): True,
            (CLIENT, SERVER, "tcp", 80): False,
            (CLIENT, SERVER, "udp", 8080): False,
            (CLIENT, STRANGER, "tcp", 8080): False,
        },
    ),
}


def pod(name: str, addresses: tuple[str, ...]) -> Any:
    """With an app label of its name, and ports that have names."""
    namespace, _, short = name.partition("/")
    web = 8080 if short == "server" else 80
    ports = [("web", web, "TCP"), ("dns", 5353, "UDP"), ("dns-tcp", 53, "TCP")]
    if short == "server":
        ports[2] = ("dns", 5354, "TCP")
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": namespace, "name": short, "labels": {"app": short}},
        "spec": {
            "nodeName": "node",
            "containers": [{"ports": [{"name": n, "containerPort": p, "protocol": t} for n, p, t in ports]}],
        },
        "status": {"podIP": addresses[0], "podIPs": [{"ip": address} for address in addresses]},
    }


@pytest.fixture(scope="module")
def three() -> Iterator[Site]:
    with site(3) as made:
        for number, addresses in enumerate(PODS.values()):
            made.address(number, *addresses)
        yield made


@pytest.mark.parametrize("name", CASES)
def test_case(three: Site, name: str) -> None:
    text, wanted = CASES[name]
    world = [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": one}} for one in ("ns", "other")]
    world += [pod(one, addresses) for one, addresses in PODS.items()]
    cluster = Cluster([*world, *(one for one in yaml.safe_load_all(text) if one)])
    assert not cluster.problems and not cluster.invalid
    renderer = Renderer()
    for number, (one, addresses) in enumerate(PODS.items()):
        renderer.attach(Attachment(f"cali{number}", addresses, workload(one)))
    for message in messages_of(cluster.state):
        renderer.take(message)
    three.node.load(NOTHING + renderer.flush().text())
    same(read(three.node.listing()), renderer.table)
    places = {address: three.pods[number] for number, held in enumerate(PODS.values()) for address in held}
    places[FAR] = three.far[0]
    asked = []
    for number, (source, destination, protocol, port) in enumerate(wanted):
        kind = (128, 0) if protocol == "icmpv6" else (8, 0)
        # Another case's connection is not this one's: no two have a source port in common.
        source_port = 20_000 + 40 * list(CASES).index(name) + number
        asked.append((places[source], Packet(source, destination, protocol, port, source_port, kind)))
    assert dict(zip(wanted, three.ask(asked), strict=True)) == dict(wanted)
