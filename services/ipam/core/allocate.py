"""Who gets what: the answer to one wish for an address.

Theory of operation
-------------------
`choose` looks at the pool at one moment and says Grant (this lease, if it can be written), Wait (nothing is idle now,
and why) or Refuse (waiting cannot help). It changes nothing. A sandbox that holds a lease already is not choose's
business: the caller answers with that lease (`held`), which is what makes a repeated ADD free of effects.

A sticky pod that comes back gets the item that waits for it (`Pool.kept_for`), if there is one. Another pod gets a
promised item only when the node is at its capacity and nothing cools: then a promise that nobody may ever redeem must
not keep a pod from starting.

Among idle items the longest unused goes first: rest beyond the cooldown is the cheapest insurance against a peer that
still believes in the address's last owner.

The host link's name is part of the lease, because it is an identity that must be unique on the node. A pod's sandbox
gets the name that Terway and Felix derive from the pod; while another sandbox of the same pod (or, in principle,
another pod whose name has the same hash) holds that name, it gets one salted with its container id.
"""

from itertools import count

import msgspec

from services.ipam.core.pool import Item, ItemState, Phase, Pool
from shared.contracts.ipam import Bandwidth, Lease
from shared.errors import Conflict, Exhausted, Refused, SuiteError
from shared.model import AttachmentKey, PodKey, host_link_name


class Wish(msgspec.Struct, frozen=True):
    """One sandbox's wish, with everything about its pod that the lease must say."""

    key: AttachmentKey
    pod: PodKey
    pod_uid: str = ""
    bandwidth: Bandwidth = Bandwidth()
    sticky: bool = False
    bandwidth_stated: Bandwidth = Bandwidth()


class Grant(msgspec.Struct, frozen=True):
    """Write this lease; then it holds."""

    lease: Lease


class Wait(msgspec.Struct, frozen=True):
    """Nothing is idle now; the reason is for people."""

    reason: str


class Refuse(msgspec.Struct, frozen=True):
    """Waiting cannot help."""

    error: SuiteError


def held(pool: Pool, wish: Wish) -> Lease | Refuse | None:
    """The lease that the wish's sandbox holds already; Refuse when the key is another pod's; None when it has none."""
    hold = pool.holds.get(wish.key)
    if hold is None or hold.phase is not Phase.LEASED:
        return None
    if hold.lease.pod != wish.pod:
        return Refuse(Conflict(f"the attachment {wish.key} belongs to the pod {hold.lease.pod}, not to {wish.pod}"))
    return hold.lease


def choose(pool: Pool, wish: Wish, now: float) -> Grant | Wait | Refuse:
    """What to answer to a sandbox that holds nothing."""
    if pool.mode is None:
        return Wait("eni_manager has not said yet which addresses this node has")
    if pool.mode_refused:
        return Refuse(Refused(pool.mode_refused))
    item = pool.kept_for(wish.pod, wish.key, now) or next(iter(pool.idle(now)), None) or _at_capacity(pool, now)
    if item is None:
        if pool.synced and pool.capacity <= 0:
            return Refuse(Exhausted(f"this node can hold no pod address in mode {pool.mode}: its capacity is 0"))
        return Wait(shortage(pool, now))
    eni = pool.enis[item.eni]
    return Grant(
        Lease(
            key=wish.key,
            pod=wish.pod,
            pod_uid=wish.pod_uid,
            mode=pool.mode,
            host_link=choose_host_link(pool, wish),
            eni_id=eni.id,
            eni_mac=eni.mac,
            ipv4=item.ipv4,
            subnet4=eni.subnet4,
            ipv6=item.ipv6 if pool.dual else None,
            subnet6=eni.subnet6 if pool.dual and item.ipv6 is not None else None,
            bandwidth=wish.bandwidth,
            granted_at=now,
            sticky=wish.sticky,
            bandwidth_stated=wish.bandwidth_stated,
        )
    )


def _at_capacity(pool: Pool, now: float) -> Item | None:
    """A promised item, for a pod that nothing else is left for; None: something else will come, or nothing can."""
    states = [pool.state(item, now) for item in pool.items]
    kept = len(states) - states.count(ItemState.GIVEN_BACK)
    if not pool.synced or kept < pool.capacity or ItemState.COOLING in states:
        return None
    return pool.breakable(now)


def choose_host_link(pool: Pool, wish: Wish) -> str:
    """A name that no held lease has: the pod's own when it is free, else one salted with the container id."""
    name = host_link_name(wish.pod, wish.key.ifname)
    attempts = count(1)
    salt = wish.key.container_id
    while name in pool.host_links:
        name = host_link_name(wish.pod, wish.key.ifname, salt=salt)
        salt = f"{wish.key.container_id}{next(attempts)}"
    return name


def shortage(pool: Pool, now: float) -> str:
    """Why nothing is idle, in one sentence for the pod's events."""
    if not pool.synced:
        return pool.blocked or "eni_manager has not compared this node's addresses with the cloud yet"
    states = [pool.state(item, now) for item in pool.items]
    cooling = states.count(ItemState.COOLING)
    taken = sum(state in (ItemState.LEASED, ItemState.GRANTING, ItemState.RELEASING) for state in states)
    promised = states.count(ItemState.PROMISED)
    counted = f"{taken} of at most {pool.capacity} addresses are in use and {cooling} cool down"
    if promised:
        counted += f", {promised} wait for sticky pods"
    if pool.blocked:
        return f"{pool.blocked} ({counted})"
    if len(states) >= pool.capacity:
        return f"the node's addresses are exhausted: {counted}"
    return f"an address has been asked of the cloud and is not there yet: {counted}"


def outlook(pool: Pool, waiting: int, now: float) -> str:
    """Why a new pod would get no address in reasonable time; empty: it would get one."""
    if not pool.synced:
        return shortage(pool, now)
    states = [pool.state(item, now) for item in pool.items]
    soon = states.count(ItemState.IDLE) + states.count(ItemState.COOLING)
    if len(states) >= pool.capacity:
        soon += states.count(ItemState.PROMISED)
    growth = 0 if pool.blocked else max(pool.capacity - len(states), 0) + states.count(ItemState.UNUSABLE)
    return "" if soon + growth > waiting else shortage(pool, now)
