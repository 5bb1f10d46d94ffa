"""Does the kernel hold what the account says? Tests ask this after everything that could have gone wrong."""

import msgspec

from compose.lab.cloud.cloud import Cloud
from compose.lab.cloud.core.model import Eni, EniStatus, EniType, RouteStatus
from compose.lab.fabric import names
from compose.lab.fabric.survey import Link
from compose.lab.fabric.vpc import VpcFabric
from shared.model import Cidr, Ip

_PLUGGED = (EniStatus.IN_USE, EniStatus.DETACHING)


class Audit(msgspec.Struct, frozen=True):
    """Both sides, and one sentence for each difference."""

    problems: list[str]
    namespaces: list[str]
    nodes: dict[str, list[Link]]
    enis: list[Eni]
    delivered: dict[Ip | Cidr, str]
    """Address, prefix or routed destination to the ENI that the kernel delivers it to."""


async def audit(cloud: Cloud, fabric: VpcFabric) -> Audit:
    """Compare, once everything decided so far is done. What the calendar still holds is not a difference."""
    await cloud.world.settle()
    nodes = {name: await fabric.links(name) for name in fabric.namespaces}
    ports = {link.name for link in await fabric.vpc_links() if link.name.startswith("eni-")}
    delivered = await fabric.delivered()
    guards = await fabric.guards()
    enis = list(cloud.account.enis.values())
    plugged = {e.id: e for e in enis if e.status in _PLUGGED and e.type is not EniType.MEMBER}
    assigned = {address: e.id for e in plugged.values() for address in e.everything}
    available = [r for r in cloud.account.routes.values() if r.status is RouteStatus.AVAILABLE]
    assigned |= {r.destination: r.eni for r in available if r.eni in plugged}
    problems = [
        *(f"{e} is {plugged[e].status} and has no device" for e in sorted(plugged.keys() - ports)),
        *(f"{e} has a device and is not attached" for e in sorted(ports - plugged.keys())),
        *(
            f"{a} is assigned to {e} and delivered to {delivered.get(a)}"
            for a, e in assigned.items()
            if delivered.get(a) != e
        ),
        *(f"{a} is delivered to {e} and not assigned" for a, e in delivered.items() if a not in assigned),
        *(
            f"{e} is in {', '.join(eni.security_groups)} and guarded by {', '.join(guards.get(e, ())) or 'nobody'}"
            for e, eni in plugged.items()
            if e in ports and guards.get(e, ()) != tuple(sorted(eni.security_groups))
        ),
        *(f"{e} is guarded and not attached" for e in sorted(guards.keys() - plugged.keys())),
        *cloud.world.failures,
    ]
    return Audit(problems, names.existing(fabric.lab), nodes, enis, delivered)
