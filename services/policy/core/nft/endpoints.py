"""An endpoint's chains: its tiers in order, then its profiles (felix.md §4.1, §4.3, §5.3).

    tw-NS/POD        drop what belongs to no connection
                     jump pi-…  per policy of the first tier; what accepts or drops never comes back
                     [marked as passed: goto tw-NS/POD__1, which goes on with the next tier]
                     drop at the end of a tier that drops
                     jump pri-… per profile
                     drop

A tier with a policy that can pass splits the chain, because passing leaves the tier from the midst of a chain that is
shared with other endpoints. Other tiers cost no more than their jumps.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec

from services.policy.core import messages as m
from services.policy.core.nft import names
from services.policy.core.nft.flows import sample
from services.policy.core.nft.model import Chain
from services.policy.core.nft.names import Direction
from services.policy.core.nft.policies import clear_mark, has_mark
from services.policy.core.nft.settings import Settings

Passes = Callable[[m.PolicyID, Direction], bool]
"""Whether the policy has a rule of that direction that passes."""

INVALID = 'ct state 0x1 counter drop comment "belongs to no connection"'


class Ladder(msgspec.Struct, frozen=True, kw_only=True):
    """What an endpoint asks in one direction and at one hook."""

    chain: str
    direction: Direction
    tiers: tuple[m.TierInfo, ...]
    opening: tuple[str, ...] = ()
    closing: tuple[str, ...] = ()
    """What comes after the last tier; without any the packet goes on."""


def listed(name: str | m.PolicyID) -> m.PolicyID:
    """A policy by what a tier lists it as."""
    return m.PolicyID(name, tier="default") if isinstance(name, str) else name


def policies_of(tiers: Iterable[m.TierInfo], direction: Direction) -> Iterator[m.PolicyID]:
    """All policies that the tiers ask in that direction."""
    for tier in tiers:
        yield from map(listed, tier.ingress_policies if direction == "ingress" else tier.egress_policies)


def workload_ladders(
    workload_id: m.WorkloadEndpointID, endpoint: m.WorkloadEndpoint, settings: Settings
) -> Iterator[Ladder]:
    """Both directions of a pod."""
    for direction in ("ingress", "egress"):
        chain = names.workload(workload_id, direction)
        if endpoint.state != "active":
            down = ('counter drop comment "the endpoint is down"',)
            yield Ladder(chain=chain, direction=direction, tiers=(), closing=down)
            continue
        yield Ladder(
            chain=chain,
            direction=direction,
            tiers=endpoint.tiers,
            opening=invalid(settings),
            closing=profiles(chain, endpoint.profile_ids, direction, settings),
        )


def invalid(settings: Settings) -> tuple[str, ...]:
    """The rule that drops what connection tracking can make nothing of."""
    return (INVALID,) if settings.drop_invalid else ()


def profiles(chain: str, listed: Iterable[str], direction: Direction, settings: Settings) -> tuple[str, ...]:
    """Profile after profile, and the drop when none accepts."""
    jumps = (f"jump {names.profile(name, direction)}" for name in listed)
    return (*jumps, *sample(settings, "D", chain, "-"), 'counter drop comment "no profile accepts it"')


def chains(ladder: Ladder, passes: Passes, settings: Settings) -> Iterator[Chain]:
    """The ladder's chains, the first under its name; only tiers that govern the direction are asked."""
    name, rules, count = ladder.chain, list(ladder.opening), 0
    for tier in ladder.tiers:
        asked = list(policies_of((tier,), ladder.direction))
        if not asked:
            continue
        following = ""
        if any(passes(policy, ladder.direction) for policy in asked):
            count += 1
            following = names.part(ladder.chain, count)
            if count == 1:
                # Whatever a foreign rule left there, it is not our Pass. The chains that follow begin without it.
                rules.append(clear_mark(settings.mark_pass))
        rules += _ask(asked, ladder.direction, following, passes, settings)
        drops = tier.default_action != "Pass"
        if drops:
            said = _quoted(tier.name)
            rules += sample(settings, "D", ladder.chain, said)
            rules.append(f'counter drop comment "{said}: no rule of the tier matches"')
        if following:
            if not drops:
                rules.append(f"goto {following}")
            yield Chain(name, tuple(rules))
            name, rules = following, [clear_mark(settings.mark_pass)]
        elif drops:
            # Nothing gets past here.
            yield Chain(name, tuple(rules))
            return
    yield Chain(name, (*rules, *ladder.closing))


def _ask(
    asked: Sequence[m.PolicyID], direction: Direction, following: str, passes: Passes, settings: Settings
) -> Iterator[str]:
    for policy in asked:
        yield f"jump {names.policy(policy, direction)}"
        if passes(policy, direction):
            yield f"{has_mark(settings.mark_pass)} goto {following}"


def _quoted(text: str) -> str:
    """As much of a tier's name as a comment holds."""
    return "".join(letter for letter in text if letter.isalnum() or letter in "-._/")[:80]
