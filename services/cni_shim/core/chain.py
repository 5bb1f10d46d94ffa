"""Our place in a chain of plugins: what came before us (prevResult), and our own part added to it.

A result is kept as the runtime wrote it, because a plugin passes on what it does not understand (CNI spec section 2,
ADD); only the places that we read or number anew are checked. We call no other plugin: addresses come from the VPC,
and a configuration that asks for another's IPAM is refused (core/request.py).
"""

from typing import Any, Final

import msgspec

from services.cni_shim.core.spec import SUPPORTED, CniError, Code, at_least


class Interface(msgspec.Struct):
    """One entry of a result's interfaces, as far as CHECK reads it."""

    name: str
    sandbox: str | None = None


class Address(msgspec.Struct):
    """One entry of a result's ips."""

    address: str
    interface: int | None = None


class _Shape(msgspec.Struct):
    version: str = msgspec.field(default="", name="cniVersion")
    interfaces: list[Interface] | None = None
    ips: list[Address] | None = None
    routes: list[dict[str, Any]] | None = None
    dns: dict[str, Any] | None = None


class Previous(msgspec.Struct, frozen=True):
    """A prevResult: as it came, and what of it we understand."""

    raw: dict[str, Any]
    interfaces: list[Interface]
    ips: list[Address]

    def addresses_of(self, ifname: str) -> set[str]:
        """The bare addresses that the result gives to a sandbox's interface of this name, or to none in particular."""
        mine = {i for i, interface in enumerate(self.interfaces) if interface.name == ifname and interface.sandbox}
        return {ip.address.partition("/")[0] for ip in self.ips if ip.interface is None or ip.interface in mine}


def read_previous(raw: dict[str, Any] | None) -> Previous | None:
    """Check the shape of a prevResult. CniError 7 names the field."""
    if raw is None:
        return None
    try:
        shape = msgspec.convert(raw, _Shape)
    except msgspec.ValidationError as error:
        raise CniError(Code.BAD_CONFIG, f"prevResult: {str(error).replace('`', '')}") from error
    if shape.version and shape.version not in SUPPORTED:
        raise CniError(Code.BAD_CONFIG, f"prevResult.cniVersion {shape.version!r} is not supported")
    interfaces, ips = shape.interfaces or [], shape.ips or []
    for ip in ips:
        if ip.interface is not None and not 0 <= ip.interface < len(interfaces):
            raise CniError(Code.BAD_CONFIG, f"prevResult.ips: interface {ip.interface} is not in prevResult.interfaces")
    return Previous(raw, interfaces, ips)


NEWER_KEYS: Final = {
    "interfaces": ("mtu", "socketPath", "pciID"),
    "routes": ("mtu", "advmss", "priority", "table", "scope"),
}
"""What version 1.1.0 added to the entries of a result; older readers do not expect it."""


def joined(previous: Previous | None, own: dict[str, Any], version: str) -> dict[str, Any]:
    """The result to print: prevResult with our interfaces and addresses behind its own, in the form of `version`.

    `own` has `interfaces` and `ips` in the newest form, its `interface` numbers counting in its own list; a `dns`
    that is not empty replaces the previous one.
    """
    before = previous.raw if previous is not None else {}
    interfaces = [*(before.get("interfaces") or ()), *own["interfaces"]]
    shift = len(interfaces) - len(own["interfaces"])
    ips = [*(before.get("ips") or ()), *({**ip, "interface": ip["interface"] + shift} for ip in own["ips"])]
    result = {
        **before,
        "cniVersion": version,
        "interfaces": interfaces,
        "ips": [_in_form(ip, version) for ip in ips],
        "dns": own.get("dns") or before.get("dns") or {},
    }
    if not at_least(version, "1.1.0"):
        for part, newer in NEWER_KEYS.items():
            if result.get(part):
                result[part] = [{k: v for k, v in entry.items() if k not in newer} for entry in result[part]]
    return result


def _in_form(ip: dict[str, Any], version: str) -> dict[str, Any]:
    """Before 1.0.0 an address says its family; from then on it must not."""
    bare = {k: v for k, v in ip.items() if k != "version"}
    return bare if at_least(version, "1.0.0") else {"version": "6" if ":" in ip["address"] else "4", **bare}
