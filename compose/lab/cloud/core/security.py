"""Security groups: what may change, and what it takes. A change is a new value of the group, told to the world.

Rules are one of a kind: what is authorized twice is there once, and one that is revoked need not be there.
"""

from collections.abc import Callable, Iterable, Sequence
from ipaddress import ip_network

import msgspec

from compose.lab.cloud.core import errors
from compose.lab.cloud.core.account import Account
from compose.lab.cloud.core.errors import CloudError, malformed
from compose.lab.cloud.core.model import DefineGroup, Direction, ForgetGroup, Rule, SecurityGroup, Tag

PROTOCOLS = ("TCP", "UDP", "ICMP", "ICMPv6", "GRE", "ALL")
ANY_PORT = "-1/-1"


def group(account: Account, group_id: str) -> SecurityGroup:
    """By id. Raises the cloud's "not found"."""
    if (found := account.security_groups.get(group_id)) is None:
        raise errors.security_group_not_found(group_id)
    return found


def create(
    account: Account,
    now: float,
    *,
    name: str,
    description: str = "",
    kind: str = "normal",
    tags: Sequence[Tag] = (),
    resource_group: str = "",
) -> SecurityGroup:
    """A group without rules."""
    if len(account.security_groups) >= account.quotas.security_groups:
        raise errors.quota_exceeded("SecurityGroup", "security groups", account.quotas.security_groups)
    made = SecurityGroup(
        account.new_id("sg-"),
        name,
        kind=kind,
        description=description,
        tags=tuple(tags),
        resource_group=resource_group,
        created_at=now,
    )
    account.members[made.id] = {}
    _define(account, made)
    return made


def delete(account: Account, group_id: str) -> None:
    """Only a group that nobody is in and no rule of another one names."""
    group(account, group_id)
    if account.members[group_id]:
        raise CloudError("DependencyViolation", "There is still instance(s) in the specified security group.", 403)
    for other in account.security_groups.values():
        if other.id != group_id and any(rule.peer_group == group_id for rule in other.rules):
            sentence = f"The specified security group has been authorized in another one ({other.id})."
            raise CloudError("DependencyViolation", sentence, 403)
    del account.security_groups[group_id], account.members[group_id]
    account.emit(ForgetGroup(group_id))


def authorize(account: Account, group_id: str, rules: Iterable[Rule], now: float) -> None:
    """Add rules, all or none; one that is there already is left as it is."""
    before = group(account, group_id)
    known = {_meaning(rule) for rule in before.rules}
    fresh: list[Rule] = []
    for rule in rules:
        check(account, rule)
        if _meaning(rule) not in known:
            known.add(_meaning(rule))
            fresh.append(msgspec.structs.replace(rule, id=account.new_id("sgr-"), created_at=now))
    if len(before.rules) + len(fresh) > account.quotas.rules_per_group:
        sentence = (
            f"The maximum number of permissions in a security group is exceeded ({account.quotas.rules_per_group})."
        )
        raise CloudError("AuthorizationLimitExceed", sentence, 403)
    _define(account, msgspec.structs.replace(before, rules=(*before.rules, *fresh)))


def revoke(account: Account, group_id: str, rules: Sequence[Rule], ids: Sequence[str] = ()) -> None:
    """Take rules away, by what they say or by id; what is not there counts as taken away, but not an id."""
    before = group(account, group_id)
    unknown = set(ids) - {rule.id for rule in before.rules}
    if unknown:
        sentence = f"The specified security group rule {min(unknown)} does not exist."
        raise CloudError("InvalidSecurityGroupRule.RuleNotExist", sentence, 404)
    gone = {_meaning(rule) for rule in rules}
    kept = tuple(rule for rule in before.rules if rule.id not in ids and _meaning(rule) not in gone)
    _define(account, msgspec.structs.replace(before, rules=kept))


def _define(account: Account, changed: SecurityGroup) -> None:
    account.security_groups[changed.id] = changed
    account.emit(DefineGroup(changed))


def _meaning(rule: Rule) -> Rule:
    """Without what two rules of the same meaning may differ in."""
    return msgspec.structs.replace(rule, id="", description="", created_at=0.0)


# ---- what a rule may say


def check(account: Account, rule: Rule) -> None:
    """Raises when no such rule can be."""
    if rule.protocol not in PROTOCOLS:
        raise malformed("IpProtocol", f"{', '.join(PROTOCOLS)}, not {rule.protocol}")
    if not 1 <= rule.priority <= 100:
        raise CloudError("InvalidPriority.ValueNotSupported", "The specified Priority is not 1 to 100.")
    _check_ports("PortRange", rule.ports, rule.protocol)
    _check_ports("SourcePortRange", rule.source_ports, rule.protocol)
    peers = [peer for peer in (rule.peer_cidr, rule.peer_cidr6, rule.peer_group) if peer]
    side = "Source" if rule.direction is Direction.INGRESS else "Dest"
    if not peers:
        raise errors.missing(f"{side}CidrIp")
    if len(peers) > 1:
        raise errors.exclusive(f"{side}CidrIp", f"{side}GroupId")
    _check_cidr(f"{side}CidrIp", rule.peer_cidr, 4)
    _check_cidr(f"Ipv6{side}CidrIp", rule.peer_cidr6, 6)
    _check_cidr("SourceCidrIp" if side == "Dest" else "DestCidrIp", rule.own_cidr, 6 if rule.peer_cidr6 else 4)
    if rule.peer_group:
        group(account, rule.peer_group)


def _check_ports(parameter: str, text: str, protocol: str) -> None:
    first, _, last = text.partition("/")
    if protocol not in ("TCP", "UDP"):
        if text != ANY_PORT:
            raise malformed(parameter, f"{ANY_PORT} for {protocol}, not {text}")
    elif text != ANY_PORT and not (first.isdigit() and last.isdigit() and 1 <= int(first) <= int(last) <= 65535):
        raise malformed(parameter, f"FIRST/LAST of 1 to 65535 for {protocol}, not {text}")


def _check_cidr(parameter: str, text: str, version: int) -> None:
    if not text:
        return
    try:
        network = ip_network(text)
    except ValueError as e:
        raise malformed(parameter, str(e)) from e
    if network.version != version:
        raise malformed(parameter, f"{text} is not IPv{version}")


def matching(account: Account, *wanted: Callable[[SecurityGroup], bool]) -> list[SecurityGroup]:
    """The groups that pass every filter."""
    return [g for g in account.security_groups.values() if all(keep(g) for keep in wanted)]
