"""Small values for ipam's tests: ENIs, inventories, wishes, leases."""

from services.ipam.core.allocate import Grant, Wish, choose
from services.ipam.core.pool import Pool, Promise
from shared.contracts.eni import EniAddress, EniView, Inventory
from shared.contracts.ipam import Lease
from shared.model import AttachmentKey, Cidr, EniId, Ip, Mac, Mode, PodKey, Subnet

SUBNET4 = Subnet(Cidr("192.168.0.0/20"), Ip("192.168.15.253"))


def ip(number: int) -> Ip:
    return Ip(f"192.168.0.{number}")


def eni(number: int, *addresses: EniAddress, max_addresses: int = 10) -> EniView:
    return EniView(
        id=EniId(f"eni-{number}"),
        mac=Mac(f"00:16:3e:00:00:{number:02x}"),
        state="ready",
        addresses=list(addresses),
        max_addresses=max_addresses,
        vswitch="vsw-a",
        subnet4=SUBNET4,
    )


def item(number: int, *, primary: bool = False, usable: bool = True) -> EniAddress:
    return EniAddress(ipv4=ip(number), primary=primary, usable=usable)


def inventory(
    *enis: EniView,
    synced: bool = True,
    capacity: int = 30,
    blocked: str = "",
    generation: int = 1,
    epoch: str = "e1",
) -> Inventory:
    return Inventory(
        epoch=epoch,
        generation=generation,
        synced=synced,
        mode=Mode.SHARED_VETH,
        capacity=capacity,
        enis=list(enis),
        blocked=blocked,
    )


def one_eni(count: int, *, first: int = 1, **more: object) -> Inventory:
    """An inventory of one ENI with `count` addresses, the first of them primary."""
    view = eni(1, *(item(first + i, primary=i == 0) for i in range(count)))
    return inventory(view, **more)  # type: ignore[arg-type]


def key(container: str, *, ifname: str = "eth0", network: str = "terway") -> AttachmentKey:
    return AttachmentKey(network, container, ifname)


def wish(container: str, *, pod: str = "", uid: str = "", ifname: str = "eth0", sticky: bool = False) -> Wish:
    return Wish(key(container, ifname=ifname), PodKey("default", pod or f"pod-{container}"), uid, sticky=sticky)


def lease_of(container: str, number: int = 1) -> Lease:
    """A lease of `ip(number)` on eni-1."""
    return Lease(
        key=key(container),
        pod=PodKey("default", f"pod-{container}"),
        pod_uid="",
        mode=Mode.SHARED_VETH,
        host_link=f"cali-{container}",
        eni_id=EniId("eni-1"),
        eni_mac=Mac("00:16:3e:00:00:01"),
        ipv4=ip(number),
    )


def promise(pod: str, until: float) -> Promise:
    return Promise(PodKey("default", pod), "terway", "eth0", until)


def pool_of(view: Inventory, now: float = 0.0) -> Pool:
    pool = Pool()
    pool.observe(view, now)
    return pool


def grant(pool: Pool, wanted: Wish, now: float) -> Lease:
    """Choose, and write it at once."""
    answer = choose(pool, wanted, now)
    assert isinstance(answer, Grant), answer
    pool.reserve(answer.lease, now)
    pool.commit(wanted.key, now)
    return answer.lease


def release(
    pool: Pool, held: AttachmentKey, now: float, *, cooldown: float = 30.0, sticky_s: float | None = None
) -> None:
    lease = pool.retire(held)
    kept = None if sticky_s is None else Promise(lease.pod, held.network, held.ifname, now + sticky_s)
    pool.cool(held, now + cooldown, now, kept)
