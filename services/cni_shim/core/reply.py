"""What the runtime reads on stdout: a result or an error object, in the cniVersion of its configuration."""

import ipaddress
from typing import Any

import msgspec

from services.cni_shim.core.chain import joined
from services.cni_shim.core.request import Add, Check
from services.cni_shim.core.spec import CniError
from shared.contracts.eni import Plugged
from shared.contracts.ipam import Lease
from shared.model import Ip, Subnet


class Reply(msgspec.Struct, frozen=True):
    """The shim's exit code and its bytes for stdout."""

    exit: int
    body: bytes = b""


DONE = Reply(0)
"""Success of DEL, CHECK, STATUS and GC, which print nothing."""


def added(request: Add, lease: Lease, plugged: Plugged) -> Reply:
    """The result of ADD.

    As in Terway an address carries the mask of its vSwitch, although the pod's interface has a /32, and its
    gateway (terway.md §4.4); routes are ours and not stated. Unlike Terway's, `sandbox` is CNI_NETNS, as the
    specification says, and the interface has its MAC and from 1.1.0 on its MTU.
    """
    own = {
        "interfaces": [
            {"name": request.key.ifname, "mac": plugged.mac, "mtu": plugged.mtu, "sandbox": request.netns},
        ],
        "ips": [
            _address(ip, subnet)
            for ip, subnet in ((lease.ipv4, lease.subnet4), (lease.ipv6, lease.subnet6))
            if ip is not None
        ],
        "dns": request.dns,
    }
    return Reply(0, _line(joined(request.previous, own, request.version)))


def refused(error: CniError, version: str) -> Reply:
    """An error object. Its version is the one in use, so a configuration's that we do not speak is not repeated."""
    body: dict[str, Any] = {"cniVersion": version, "code": int(error.code), "msg": error.message}
    if error.details:
        body["details"] = error.details
    return Reply(1, _line(body))


def missing_from(request: Check, lease: Lease) -> list[str]:
    """What of the lease the runtime's prevResult does not list: somebody forgot it, or it is another pod's.

    Later plugins may have added interfaces and addresses and changed ours (P13), so nothing else is compared.
    """
    name = request.key.ifname
    problems = []
    if not any(i.name == name and i.sandbox for i in request.previous.interfaces):
        problems.append(f"prevResult lists no interface {name} in a sandbox")
    listed = {_canonical(address) for address in request.previous.addresses_of(name)}
    problems += [f"prevResult does not give {name} the address {ip}" for ip in lease.addresses if ip not in listed]
    return problems


def _canonical(address: str) -> str:
    try:
        return str(ipaddress.ip_address(address))
    except ValueError:
        return address


def _address(ip: Ip, subnet: Subnet | None) -> dict[str, Any]:
    if subnet is None:
        return {"address": f"{ip}/{128 if ':' in ip else 32}", "interface": 0}
    return {"address": f"{ip}/{subnet.cidr.partition('/')[2]}", "gateway": subnet.gateway, "interface": 0}


def _line(body: dict[str, Any]) -> bytes:
    return msgspec.json.encode(body) + b"\n"
