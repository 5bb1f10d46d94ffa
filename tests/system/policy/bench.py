"""A network namespace with a workshop in it, in a thread of its own, and tables to try it with."""

import subprocess
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from services.policy.adapters.kernel import Workshop
from services.policy.adapters.netns import inside
from services.policy.core.nft.model import Chain, Hook, Set, Table

T = TypeVar("T")


class Bench:
    """`do` runs in the namespace's thread."""

    def __init__(self, name: str, thread: ThreadPoolExecutor) -> None:
        self.name = name
        self._thread = thread
        self.workshop = self.do(Workshop)

    def do(self, act: Callable[[], T]) -> T:
        def there() -> T:
            with inside(f"/run/netns/{self.name}"):
                return act()

        return self._thread.submit(there).result()

    def reconcile(self, wanted: Table) -> str:
        """What was mended."""
        return self.do(lambda: self.workshop.reconcile(wanted)).touched

    def nft(self, *command: str) -> str:
        """Somebody else's hand."""
        done = subprocess.run(
            ["ip", "netns", "exec", self.name, "nft", *command], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def close(self) -> None:
        self.do(self.workshop.close)


@contextmanager
def namespace() -> Iterator[str]:
    """The name of a namespace for as long as the context lasts."""
    name = f"tw-p-{uuid.uuid4().hex[:8]}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        yield name
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


@contextmanager
def bench() -> Iterator[Bench]:
    with namespace() as name, ThreadPoolExecutor(1) as thread:
        made = Bench(name, thread)
        try:
            yield made
        finally:
            made.close()


def table(pods: int = 2, *, port: int = 80, extra: frozenset[str] = frozenset()) -> Table:
    """A table with every kind of object that the renderer makes; `port` and `extra` make it another one."""
    sets = {
        "hosts": Set("hosts", "ipv4_addr"),
        "nets": Set("nets", "ipv4_addr", frozenset({"interval"})),
        "nets6": Set("nets6", "ipv6_addr", frozenset({"interval"})),
        "ports": Set("ports", "ipv4_addr . inet_proto . inet_service"),
        "sources": Set("sources", "ifname . ipv4_addr"),
        "to-pod": Set("to-pod", "ifname", data="verdict"),
        "drops": Set("drops", "ifname", frozenset({"dynamic"}), counter=True),
    }
    chains = {
        f"tw-ns/pod{number}": Chain(
            f"tw-ns/pod{number}",
            (
                'ct state invalid counter drop comment "belongs to no connection"',
                f'ip saddr @hosts tcp dport {{ {port}, 443, 1000-2000 }} counter accept comment "one"',
                'ip saddr != @nets ip daddr . meta l4proto . th dport @ports accept comment "jump to @nothing"',
                "jump shared",
                'counter drop comment "end"',
            ),
        )
        for number in range(pods)
    }
    chains["shared"] = Chain("shared", (f"udp dport {port} accept", "ip6 saddr @nets6 limit rate 5/second accept"))
    chains["to"] = Chain(
        "to",
        (
            "ct state established,related accept",
            "oifname vmap @to-pod",
            'oifname "cali*" add @drops { oifname } counter drop',
        ),
        Hook("filter", "forward", 2),
    )
    chains["raw"] = Chain("raw", ("iifname . ip saddr @sources accept",), Hook("filter", "prerouting", -300))
    return Table(
        chains=chains,
        sets=sets,
        elements={
            "hosts": frozenset({"10.0.0.1", "10.0.0.2"}) | extra,
            "nets": frozenset({"0.0.0.0/1", "128.0.0.0/1"} if pods % 2 else {"10.0.0.0/8", "11.0.0.0/8", "1.2.3.4"}),
            "nets6": frozenset({"fd00::/8", "2001:db8::1"}),
            "ports": frozenset({"10.0.0.1 . tcp . 80", "10.0.0.2 . udp . 53"}),
            "sources": frozenset(f'"cali{number}" . 10.1.0.{number}' for number in range(pods)),
            "to-pod": frozenset((f'"cali{number}"', f"goto tw-ns/pod{number}") for number in range(pods)),
        },
    )
