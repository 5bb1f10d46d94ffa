"""A chain per policy or profile and direction, the same for every endpoint that jumps to it.

`accept` ends the base chain that the packet is in and no other: the two ends of a packet between two pods, and a host
endpoint's forward policy, sit in base chains of their own (static.py). So Allow is `accept`, Deny is `drop`, and Pass
is a mark for the tier that asked, which takes it off again. Felix needs a mark for Allow too.

A Deny of a shared chain counts twice: in its own counter, and by the endpoint's interface in a set that the kernel
fills, `denied-` and the chain's name. What an endpoint's own chain drops, its own counter says.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from services.policy.core import messages as m
from services.policy.core.nft import names
from services.policy.core.nft.flows import sample
from services.policy.core.nft.match import SetName, alternatives, referred
from services.policy.core.nft.model import Chain, Set
from services.policy.core.nft.names import Direction
from services.policy.core.nft.settings import Settings

DIRECTIONS: tuple[Direction, ...] = ("ingress", "egress")


def policy_objects(
    policy_id: m.PolicyID, policy: m.Policy, settings: Settings, set_name: SetName
) -> Iterator[Chain | Set]:
    """All of a policy; the chains of an untracked or pre-DNAT policy suit the hooks that these are asked in."""
    early = policy.untracked or policy.pre_dnat
    for direction in DIRECTIONS:
        chain = names.policy(policy_id, direction)
        deny = "counter drop" if early else f"counter goto {denied(chain)}"
        verdicts = _Verdicts(_acceptance(policy, settings), deny, f"{set_mark(settings.mark_pass)} counter return")
        yield from _objects(chain, direction, _rules(policy, direction), verdicts, settings, set_name)


def profile_objects(name: str, profile: m.Profile, settings: Settings, set_name: SetName) -> Iterator[Chain | Set]:
    """All of a profile. After a profile comes the next one: so does passing it."""
    for direction in DIRECTIONS:
        chain = names.profile(name, direction)
        verdicts = _Verdicts("counter accept", f"counter goto {denied(chain)}", "counter return")
        yield from _objects(chain, direction, _rules(profile, direction), verdicts, settings, set_name)


def denied(chain: str) -> str:
    """The chain that counts what that chain denies, by interface, and the set in which it does."""
    return f"denied-{chain}"


def passes(policy: m.Policy, direction: Direction) -> bool:
    """Whether a rule of the policy passes on to the next tier."""
    return any(rule.action == "next-tier" for rule in _rules(policy, direction))


def sets_of(rules: m.Policy | m.Profile) -> Iterator[str]:
    """The ids of the IP sets that it needs."""
    for rule in (*rules.inbound_rules, *rules.outbound_rules):
        yield from referred(rule)


def _rules(owner: m.Policy | m.Profile, direction: Direction) -> Sequence[m.Rule]:
    return owner.inbound_rules if direction == "ingress" else owner.outbound_rules


def _acceptance(policy: m.Policy, settings: Settings) -> str:
    if policy.untracked:
        return f"notrack {set_mark(settings.mark_accept)} counter accept"
    if policy.pre_dnat:
        return f"{set_mark(settings.mark_accept)} counter accept"
    return "counter accept"


class _Verdicts(NamedTuple):
    allow: str
    deny: str
    passing: str


def _objects(
    chain: str,
    direction: Direction,
    rules: Sequence[m.Rule],
    verdicts: _Verdicts,
    settings: Settings,
    set_name: SetName,
) -> Iterator[Chain | Set]:
    lines = tuple(_lines(chain, rules, verdicts, settings, set_name))
    yield Chain(chain, lines)
    counts = denied(chain)
    if any(f"goto {counts}" in line for line in lines):
        yield Set(counts, "ifname", frozenset({"dynamic"}), counter=True)
        # Two rules: should the first not work, as with a full set, the second drops all the same.
        link = "oifname" if direction == "ingress" else "iifname"
        yield Chain(counts, (f"update @{counts} {{ {link} }}", "drop"))


def _lines(
    chain: str, rules: Iterable[m.Rule], verdicts: _Verdicts, settings: Settings, set_name: SetName
) -> Iterator[str]:
    for number, rule in enumerate(rules):
        sampled = ""
        match rule.action:
            case "allow":
                action, sampled = verdicts.allow, "A"
            case "next-tier":
                action = verdicts.passing
            case "log":
                action = f'log prefix "{settings.log_prefix}: " level notice'
            case _:
                action, sampled = verdicts.deny, "D"
        comment = f'comment "rule {number} {rule.rule_id}"' if rule.rule_id else f'comment "rule {number}"'
        for alternative in alternatives(rule, settings.families, set_name):
            if sampled:
                yield from sample(settings, sampled, chain, str(number), where=alternative)
            yield " ".join(part for part in (alternative, action, comment) if part)


def set_mark(mark: int) -> str:
    """Put the mark's bits on the packet."""
    return f"meta mark set meta mark | 0x{mark:08x}"


def clear_mark(mark: int) -> str:
    """Take the mark's bits off the packet."""
    return f"meta mark set meta mark & 0x{0xFFFFFFFF ^ mark:08x}"


def has_mark(mark: int) -> str:
    """Whether the packet bears all of the mark's bits."""
    return f"meta mark & 0x{mark:08x} == 0x{mark:08x}"
