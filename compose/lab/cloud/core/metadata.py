"""What 100.100.100.200 says to one instance: paths to text (terway.md §6.7)."""

from ipaddress import IPv4Network, IPv6Network

import msgspec

from compose.lab.cloud.core.account import Account
from compose.lab.cloud.core.model import Eni, EniType, Instance
from compose.lab.cloud.core.render import stamp

MAX_TOKEN_TTL_S = 21600


class MetadataTokens:
    """Tokens of the second version of the service; each is good for the instance that asked for it."""

    def __init__(self) -> None:
        self._until: dict[tuple[str, str], float] = {}

    def issue(self, instance: str, token: str, ttl_s: int, now: float) -> None:
        """Let `token` be good for so long."""
        self._until = {k: until for k, until in self._until.items() if until > now}
        self._until[instance, token] = now + ttl_s

    def good(self, instance: str, token: str, now: float) -> bool:
        """Whether it was issued to this instance and is not too old."""
        return self._until.get((instance, token), 0.0) > now


def lookup(account: Account, instance: Instance, path: str, now: float) -> str | None:
    """The text at `path` below `/latest/meta-data/`; None: there is no such thing."""
    match path.strip("/").split("/"):
        case ["network", "interfaces", "macs", *rest]:
            return _interfaces(account, instance, rest)
        case ["ram", "security-credentials"]:
            return account.layout.role
        case ["ram", "security-credentials", role] if role == account.layout.role:
            return _credentials(account, instance, now)
        case ["dynamic" | "user-data", *_]:
            return None
        case [name]:
            return _facts(account, instance).get(name)
        case ["instance", "instance-type"]:
            return instance.type
        case _:
            return None


def _facts(account: Account, instance: Instance) -> dict[str, str]:
    primary, vswitch, layout = account.eni(instance.primary_eni), account.vswitch(instance.vswitch), account.layout
    return {
        "hostname": instance.name,
        "instance-id": instance.id,
        "mac": primary.mac,
        "network-type": "vpc",
        "private-ipv4": primary.primary_ip,
        "region-id": layout.region,
        "zone-id": instance.zone,
        "vpc-id": layout.vpc,
        "vpc-cidr-block": layout.vpc_cidr,
        "vswitch-id": vswitch.id,
        "vswitch-cidr-block": vswitch.cidr,
    }


def _interfaces(account: Account, instance: Instance, rest: list[str]) -> str | None:
    # The primary interface is there from the instance's birth; others when the service has caught up.
    known = [e for e in account.enis_of(instance.id) if e.served is not None or e.type is EniType.PRIMARY]
    known = [e for e in known if e.type is not EniType.MEMBER]
    match rest:
        case []:
            return "\n".join(f"{e.mac}/" for e in known)
        case [mac]:
            facts = next((_interface(account, e) for e in known if e.mac == mac), None)
            return None if facts is None else "\n".join(facts)
        case [mac, name]:
            return next((_interface(account, e).get(name) for e in known if e.mac == mac), None)
        case _:
            return None


def _interface(account: Account, eni: Eni) -> dict[str, str]:
    vswitch = account.vswitch(eni.vswitch)
    ipv4 = list(eni.served.ipv4) if eni.served else eni.ipv4
    ipv6 = list(eni.served.ipv6) if eni.served else eni.ipv6
    facts = {
        "network-interface-id": eni.id,
        "primary-ip-address": eni.primary_ip,
        "private-ipv4s": msgspec.json.encode(ipv4).decode(),
        "netmask": str(IPv4Network(vswitch.cidr).netmask),
        "gateway": vswitch.gateway,
        "vswitch-id": vswitch.id,
        "vswitch-cidr-block": vswitch.cidr,
        "vpc-id": account.layout.vpc,
        "vpc-cidr-block": account.layout.vpc_cidr,
    }
    prefixes = list(eni.served.ipv4_prefixes) if eni.served else eni.ipv4_prefixes
    prefixes6 = list(eni.served.ipv6_prefixes) if eni.served else eni.ipv6_prefixes
    if prefixes:
        facts["ipv4-prefixes"] = msgspec.json.encode(prefixes).decode()
    if prefixes6:
        facts["ipv6-prefixes"] = msgspec.json.encode(prefixes6).decode()
    if vswitch.ipv6_cidr:
        facts["vswitch-ipv6-cidr-block"] = vswitch.ipv6_cidr
    if ipv6:
        facts["ipv6s"] = f"[{','.join(ipv6)}]"
        facts["ipv6-gateway"] = str(IPv6Network(vswitch.ipv6_cidr)[-3])
    return facts


def _credentials(account: Account, instance: Instance, now: float) -> str:
    key = account.keys.of_role(instance.id, now)
    assert key.token is not None and key.expires_at is not None
    return msgspec.json.encode(
        {
            "AccessKeyId": key.id,
            "AccessKeySecret": key.secret,
            "Expiration": stamp(key.expires_at),
            "SecurityToken": key.token,
            "LastUpdated": stamp(now),
            "Code": "Success",
        }
    ).decode()
