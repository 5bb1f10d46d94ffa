"""Which interface is whose: pods' links in the maps that dispatch by them, and the addresses that each may send from.

A sandbox that was attached says so itself, with its lease's addresses. Of one that was not (it was there before this
process, which has not been told of it yet) the calculation knows the link's usual name and the pod's addresses.
"""

from collections.abc import Iterable, Iterator

from services.policy.core import messages as m
from services.policy.core import nets
from services.policy.core.nft import names, static
from services.policy.core.nft.draft import Draft
from services.policy.core.nft.model import Chain, Set
from services.policy.core.nft.settings import Attachment, Settings

Workloads = dict[m.WorkloadEndpointID, m.WorkloadEndpoint]


class Links:
    """Attachments and endpoints in; entries of maps, and sets of source addresses, out."""

    def __init__(self, settings: Settings, draft: Draft, workloads: Workloads) -> None:
        self._settings = settings
        self._draft = draft
        self._workloads = workloads
        """What the calculation says now; the renderer's own."""
        self._attached: dict[str, Attachment] = {}
        self._attached_to: dict[m.WorkloadEndpointID, set[str]] = {}
        self._claims: dict[str, set[m.WorkloadEndpointID]] = {}
        self._claim_of: dict[m.WorkloadEndpointID, str] = {}
        self._sources: dict[str, set[tuple[str, str]]] = {}
        self._addressed: dict[str, dict[tuple[str, str], str]] = {}
        """By link: map and key, and the verdict that is there."""
        self._spoofing: set[str] = set()
        self._touched: dict[str, None] = {}

    @property
    def spoofers(self) -> bool:
        """Whether any pod may send from other addresses than its own."""
        return bool(self._spoofing)

    def attach(self, attachment: Attachment) -> None:
        """The link is that sandbox's."""
        self.detach(attachment.link)
        self._attached[attachment.link] = attachment
        self._attached_to.setdefault(attachment.workload, set()).add(attachment.link)

    def detach(self, link: str) -> None:
        """The link is no sandbox's any more."""
        self._touched[link] = None
        before = self._attached.pop(link, None)
        if before is not None:
            self._attached_to[before.workload].discard(link)
            if not self._attached_to[before.workload]:
                del self._attached_to[before.workload]

    def workload(self, workload_id: m.WorkloadEndpointID) -> None:
        """The calculation said something about the endpoint."""
        endpoint = self._workloads.get(workload_id)
        before = self._claim_of.pop(workload_id, None)
        if before is not None:
            self._touched[before] = None
            self._claims[before].discard(workload_id)
            if not self._claims[before]:
                del self._claims[before]
        if self._settings.usual_links and endpoint is not None and names.is_link(endpoint.name):
            self._touched[endpoint.name] = None
            self._claim_of[workload_id] = endpoint.name
            self._claims.setdefault(endpoint.name, set()).add(workload_id)
        self._touched.update(dict.fromkeys(self._attached_to.get(workload_id, ())))

    def settle(self) -> bool:
        """Bring the draft up to date with what was touched; whether there are spoofers now where none were, or none."""
        before = self.spoofers
        for link in self._touched:
            owner = self._owner(link)
            ingress, egress = self._verdicts(link, owner)
            self._settle_addresses(link, ingress, egress)
            if self._is_shared(link):
                ingress = egress = None
            self._draft.map(static.TO_POD, f'"{link}"', ingress)
            self._draft.map(static.FROM_POD, f'"{link}"', egress)
            self._settle_sources(link, owner)
            self._settle_spoofing(link, owner)
        self._touched.clear()
        return before != self.spoofers

    def _is_shared(self, link: str) -> bool:
        attachment = self._attached.get(link)
        return attachment is not None and attachment.by_address

    def _settle_addresses(self, link: str, ingress: str | None, egress: str | None) -> None:
        now: dict[tuple[str, str], str] = {}
        if self._is_shared(link) and self._settings.shared_links:
            for address in self._attached[link].addresses:
                family = 6 if nets.is_ipv6(address) else 4
                if family in self._settings.families and ingress is not None and egress is not None:
                    now[static.TO_ADDRESS[family], address] = ingress
                    now[static.FROM_ADDRESS[family], address] = egress
        before = self._addressed.pop(link, {})
        if now:
            self._addressed[link] = now
        for entry in before.keys() | now.keys():
            # Two have an address for a moment only, while one of them goes.
            holder = min((one for one, held in self._addressed.items() if entry in held), default=None)
            self._draft.map(*entry, None if holder is None else self._addressed[holder][entry])

    def _owner(self, link: str) -> m.WorkloadEndpointID | None:
        """The endpoint that the link belongs to, if the calculation knows it."""
        attachment = self._attached.get(link)
        if attachment is not None:
            return attachment.workload if attachment.workload in self._workloads else None
        claims = self._claims.get(link)
        return min(claims, key=lambda one: (one.orchestrator_id, one.workload_id, one.endpoint_id)) if claims else None

    def _verdicts(self, link: str, owner: m.WorkloadEndpointID | None) -> tuple[str | None, str | None]:
        if owner is not None:
            return f"goto {names.workload(owner, 'ingress')}", f"goto {names.workload(owner, 'egress')}"
        attachment = self._attached.get(link)
        if attachment is None:
            return None, None
        if attachment.open:
            return "accept", "accept"
        # The base chains drop, and count, what comes from or goes to an unknown link that looks like a pod's.
        closed = None if link.startswith(self._settings.workload_prefixes) else "drop"
        return closed, closed

    def _settle_sources(self, link: str, owner: m.WorkloadEndpointID | None) -> None:
        attachment = self._attached.get(link)
        listed: Iterable[str] = ()
        if attachment is not None:
            listed = () if attachment.by_address else attachment.addresses
        elif owner is not None:
            endpoint = self._workloads[owner]
            listed = (net.partition("/")[0] for net in (*endpoint.ipv4_nets, *endpoint.ipv6_nets))
        now = set(self._source_elements(link, listed))
        before = self._sources.pop(link, set())
        for name, element in before - now:
            self._draft.change(name, (), (element,))
        for name, element in now - before:
            self._draft.change(name, (element,), ())
        if now:
            self._sources[link] = now

    def _source_elements(self, link: str, addresses: Iterable[str]) -> Iterator[tuple[str, str]]:
        for address in addresses:
            family = 6 if nets.is_ipv6(address) else 4
            if family in self._settings.families:
                yield static.SOURCES[family], f'"{link}" . {address}'

    def _settle_spoofing(self, link: str, owner: m.WorkloadEndpointID | None) -> None:
        allowed = self._workloads[owner].allow_spoofed_source_prefixes if owner is not None else ()
        chain = names.spoof(link)
        if allowed:
            if not self._spoofing:
                self._draft.set(Set(static.SPOOFERS, "ifname", data="verdict"))
            self._spoofing.add(link)
            lines = (f"{'ip6' if nets.is_ipv6(net) else 'ip'} saddr {_bare(net)} accept" for net in allowed)
            self._draft.chain(Chain(chain, tuple(lines)))
            self._draft.map(static.SPOOFERS, f'"{link}"', f"jump {chain}")
        elif link in self._spoofing:
            self._spoofing.remove(link)
            self._draft.map(static.SPOOFERS, f'"{link}"', None)
            self._draft.no_chain(chain)
            if not self._spoofing:
                self._draft.no_set(static.SPOOFERS)


def _bare(net: str) -> str:
    return net.removesuffix("/128" if nets.is_ipv6(net) else "/32")
