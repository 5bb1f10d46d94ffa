"""A chain per policy or profile and direction, the same for every endpoint that jumps to it.

`accept` ends the base chain that the packet is in and no other: the two ends of a packet between two pods, and a host
endpoint's forward policy, sit in base chains of their own (static.py). So Allow is `accept`, Deny is `drop`, and Pass
is a mark for the tier that asked, which takes it off again. Felix needs a mark for Allow too.
"""

from collections.abc import Iterable, Iterator, Sequence

from services.policy.core import messages as m
from services.policy.core.nft import names
from services.policy.core.nft.match import SetName, alternatives, referred
from services.policy.core.nft.model import Chain
from services.policy.core.nft.names import Direction
from services.policy.core.nft.settings import Settings

DIRECTIONS: tuple[Direction, ...] = ("ingress", "egress")


def policy_chains(policy_id: m.PolicyID, policy: m.Policy, settings: Settings, set_name: SetName) -> Iterator[Chain]:
    """Both of a policy's chains; those of an untracked or pre-DNAT policy suit the hooks that these are asked in."""
    accept = _acceptance(policy, settings)
    for direction in DIRECTIONS:
        rules = _rules(policy, direction)
        lines = tuple(_lines(rules, accept, _passing(settings), settings, set_name))
        yield Chain(names.policy(policy_id, direction), lines)


def profile_chains(name: str, profile: m.Profile, settings: Settings, set_name: SetName) -> Iterator[Chain]:
    """Both of a profile's chains. After a profile comes the next one: so does passing it."""
    for direction in DIRECTIONS:
        lines = tuple(_lines(_rules(profile, direction), "counter accept", "counter return", settings, set_name))
        yield Chain(names.profile(name, direction), lines)


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


def _passing(settings: Settings) -> str:
    return f"{set_mark(settings.mark_pass)} counter return"


def _lines(rules: Iterable[m.Rule], accept: str, passing: str, settings: Settings, set_name: SetName) -> Iterator[str]:
    for number, rule in enumerate(rules):
        match rule.action:
            case "allow":
                action = accept
            case "next-tier":
                action = passing
            case "log":
                action = f'log prefix "{settings.log_prefix}: " level notice'
            case _:
                action = "counter drop"
        comment = f'comment "rule {number} {rule.rule_id}"' if rule.rule_id else f'comment "rule {number}"'
        for alternative in lines_of(rule, settings, set_name):
            yield " ".join(part for part in (alternative, action, comment) if part)


def lines_of(rule: m.Rule, settings: Settings, set_name: SetName) -> list[str]:
    """A rule's alternatives in the IP versions in use."""
    return alternatives(rule, settings.families, set_name)


def set_mark(mark: int) -> str:
    """Put the mark's bits on the packet."""
    return f"meta mark set meta mark | 0x{mark:08x}"


def clear_mark(mark: int) -> str:
    """Take the mark's bits off the packet."""
    return f"meta mark set meta mark & 0x{0xFFFFFFFF ^ mark:08x}"


def has_mark(mark: int) -> str:
    """Whether the packet bears all of the mark's bits."""
    return f"meta mark & 0x{mark:08x} == 0x{mark:08x}"
