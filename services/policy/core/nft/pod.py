"""The table inside one pod's namespace: that pod's part of the host's table, behind hooks of its own.

For modes in which a pod's packets never pass its host's netfilter. Chains and sets are the host's, word for word but
for egress' `drop`: those that the pod's two chains lead to, and no others. So one rendering serves both, and a pod's
table follows by what changed of the host's.

    prerouting -300  what was denied on its way out ends here
    input         0  loopback, what is known, neighbours, the host's own packets; then the pod's ingress
    output        0  loopback; a source that is not the pod's goes no further; what is known, neighbours, what the host
                     translates and judges itself; then the pod's egress
    postrouting   0  nothing that was denied leaves, whatever became of the detour

An output hook that drops tells the sender (EPERM), which a host's hook never does: whoever asks a server that is denied
would take it for a network that is down. So what egress denies is sent to the loopback instead (`silent`: the hook is
one of routes, which looks for the way anew when the destination is another), and dropped when it comes from there. Only
where the socket is bound to an interface there is no such way, and the sender is told.

What passes by `judged_link` is judged by the host in both directions, with the addresses before and after it translates
(`static.py`), and not again here.
"""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from services.policy.core import messages as m
from services.policy.core import nets
from services.policy.core.nft import hosts, match, names, policies, static
from services.policy.core.nft.draft import Draft
from services.policy.core.nft.model import Chain, Change, Hook, Table
from services.policy.core.nft.settings import Settings

_JUMP = re.compile(r"\b(?:jump|goto) (\S+)")
_LOOKUP = re.compile(r"@(\S+)")
_DROP = re.compile(r'^([^"]*\bcounter )?drop(?= comment "|$)')
_OUTWARD = ("fw-", "po-", "pro-", "denied-po-", "denied-pro-")

BASE_CHAINS = ("prerouting", "input", "output", "postrouting", "silent")
"""What is only a pod's table's own. All else is in the host's under the same name."""


class _Read(NamedTuple):
    """The chains and the sets that a chain's rules name, and the chain as a pod has it."""

    targets: tuple[str, ...]
    sets: tuple[str, ...]
    inside: Chain
    alike: bool
    """it names what it named before it changed"""


class References:
    """Where chains lead to and which sets they ask, read out of their rules once for all pods of a node."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Chain, _Read]] = {}

    def of(self, chain: Chain) -> "_Read":
        """What there is to know of a chain of the host's."""
        known = self._known.get(chain.name)
        if known is None or known[0] is not chain:
            targets = tuple(dict.fromkeys(name for rule in chain.rules for name in _JUMP.findall(rule)))
            sets = tuple(dict.fromkeys(name for rule in chain.rules for name in _LOOKUP.findall(rule)))
            before = None if known is None else known[1]
            alike = before is not None and (before.targets, before.sets) == (targets, sets)
            known = self._known[chain.name] = chain, _Read(targets, sets, _silenced(chain), alike)
        return known[1]

    def forget(self, chains: Iterable[str]) -> None:
        """Chains that are gone."""
        for name in chains:
            self._known.pop(name, None)


class PodTable:
    """One workload's own table. `open`: what it is while the calculation knows nothing of the workload."""

    def __init__(
        self,
        workload: m.WorkloadEndpointID,
        settings: Settings,
        *,
        open: bool = False,
        judged_link: str = "",
        addresses: tuple[str, ...] = (),
        references: References | None = None,
    ) -> None:
        """`addresses`: the pod's own, of which its packets must come; empty: of any. `references`: shared by pods."""
        self._references = references or References()
        self._settings = settings
        self._judged_link = judged_link
        self._addresses = addresses
        self._open = open
        self._ingress = names.workload(workload, "ingress")
        self._egress = names.workload(workload, "egress")
        self._draft = Draft()
        self._chains: dict[str, Chain] = {}
        self._sets: set[str] = set()
        self._begun = False

    @property
    def table(self) -> Table:
        """What is wanted as of the last `follow`: a view that changes with the next."""
        return self._draft.table

    def follow(self, host: Table, change: Change) -> Change:
        """What becomes of this table, at once. See `take`."""
        self.take(host, change)
        return self.flush()

    def take(self, host: Table, change: Change) -> bool:
        """The host's table as it is wanted after `change`, of which none may be left out; whether it is of this one.

        The first time `change` does not matter. Costs what changed, and the size of this table if that was of it.
        """
        if not self._begun or not self._patched(change):
            self._begun = True
            self._rebuild(host)
        for name in self._sets & (change.elements_added.keys() | change.elements_removed.keys()):
            self._draft.change(name, change.elements_added.get(name, ()), change.elements_removed.get(name, ()))
        return self._draft.staged

    def flush(self) -> Change:
        """What has changed of this table since the last flush, however often it was told."""
        return self._draft.flush()

    def _patched(self, change: Change) -> bool:
        """Whether all there was to do were other rules in chains that lead where they led, and it is done."""
        mine = {self._ingress, self._egress, *self._chains} - set(BASE_CHAINS)  # the host's of these names are others
        if not mine.isdisjoint(change.chains_removed) or any(chain.name in mine for chain in change.chains_added):
            return False
        changed = [self._references.of(chain) for chain in change.chains_changed if chain.name in mine]
        if not all(read.alike and read.inside.name in self._chains for read in changed):
            return False
        for read in changed:
            self._chains[read.inside.name] = read.inside
            self._draft.chain(read.inside)
        return True

    def _rebuild(self, host: Table) -> None:
        known = self._ingress in host.chains and self._egress in host.chains
        wanted = dict(self._reached(host, (self._ingress, self._egress))) if known else {}
        used = {name for chain in wanted.values() for name in self._references.of(chain).sets}
        wanted = {name: self._references.of(chain).inside for name, chain in wanted.items()}
        for chain in self._base_chains(self._word(self._ingress, known), self._word(self._egress, known)):
            wanted[chain.name] = chain
        for name in self._chains.keys() - wanted.keys():
            self._draft.no_chain(name)
        for name, chain in wanted.items():
            if self._chains.get(name) != chain:
                self._draft.chain(chain)
        for name in self._sets - used:
            self._draft.no_set(name)
        for name in used - self._sets:
            self._draft.set(host.sets[name], host.elements.get(name, ()))
        self._chains, self._sets = wanted, used

    def _reached(self, host: Table, roots: tuple[str, ...]) -> Iterator[tuple[str, Chain]]:
        """The roots and all chains that they lead to, once each."""
        waiting, seen = list(roots), set(roots)
        while waiting:
            chain = host.chains[waiting.pop()]
            yield chain.name, chain
            for target in self._references.of(chain).targets:
                if target not in seen:
                    seen.add(target)
                    waiting.append(target)

    def _base_chains(self, ingress: str, egress: str) -> Iterator[Chain]:
        settings, judged = self._settings, f'ifname "{self._judged_link}" accept'
        near = f'iifname "{settings.host_link}" ' if settings.host_link else ""
        inward = [f"{near}{line} accept" for line in _listed("saddr", settings.host_addresses)]
        outward = [f"{line} accept" for line in _listed("daddr", settings.service_nets)]
        if self._judged_link:
            inward.append(f"i{judged}")
            outward.append(f"o{judged}")
        denied = policies.has_mark(settings.mark_denied)
        yield Chain("prerouting", (f'iifname "lo" {denied} drop',), Hook("filter", "prerouting", -300))
        rules = ('iifname "lo" accept', static.KNOWN, hosts.NEIGHBOURS, *inward, ingress)
        yield Chain("input", rules, Hook("filter", "input", 0))
        rules = ('oifname "lo" accept', *self._sources(), static.KNOWN, hosts.NEIGHBOURS, *outward, egress)
        yield Chain("output", tuple(map(_quiet, rules)), Hook("route", "output", 0))
        yield Chain("postrouting", (f'oifname != "lo" {denied} drop',), Hook("filter", "postrouting", 0))
        detour = ("ip daddr set 127.0.0.1 accept", "ip6 daddr set ::1 accept", "drop")
        yield Chain("silent", (policies.set_mark(settings.mark_denied), *detour))

    def _sources(self) -> Iterator[str]:
        if not self._addresses:
            return
        foreign = 'counter drop comment "the source address is not the pod\'s"'
        own4 = [address for address in self._addresses if not nets.is_ipv6(address)]
        own6 = [address for address in self._addresses if nets.is_ipv6(address)]
        if own4:
            yield f"ip saddr != {match.ranges(own4)[0]} {foreign}"
        else:
            yield f"meta nfproto 2 {foreign}"
        yield f"ip6 saddr != {{ ::, fe80::/10{''.join(f', {one}' for one in own6)} }} {foreign}"

    def _word(self, chain: str, known: bool) -> str:
        if known:
            return f"goto {chain}"
        return "accept" if self._open else 'counter drop comment "no pod is known to be here"'


def _listed(field: str, listed: tuple[str, ...]) -> Iterator[str]:
    for sixth in (False, True):
        mine = [net for net in listed if nets.is_ipv6(net) == sixth]
        if mine:
            yield f"{'ip6' if sixth else 'ip'} {field} {match.ranges(mine)[0]}"


def _silenced(chain: Chain) -> Chain:
    """As a pod has it: what egress denies goes without a word."""
    if not chain.name.startswith(_OUTWARD):
        return chain
    return Chain(chain.name, tuple(map(_quiet, chain.rules)))


def _quiet(rule: str) -> str:
    return _DROP.sub(r"\g<1>goto silent", rule)
