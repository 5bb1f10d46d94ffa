"""Writes generation after generation of a table, as fast as it can, until it is killed: see test_generations.py.

`python -m tests.system.policy.generations [POD]` in the namespace that it is to write to, or that has a pod at that
path, which it then writes to. Every object of a generation bears
its number: the comments of rules, the elements of sets, the targets of maps, the names of chains.
"""

import asyncio
import itertools
import sys

from services.policy.adapters.kernel import Kernel, Workshop
from services.policy.adapters.nft_mending import UNKNOWN
from services.policy.core.nft.model import Chain, Change, Hook, Set, Table, difference

CHAINS = 40
ELEMENTS = 300


def generation(number: int) -> Table:
    """All that there is of generation `number`."""
    sets = {f"set{i}": Set(f"set{i}", "ipv4_addr") for i in range(4)}
    sets["nets"] = Set("nets", "ipv4_addr", frozenset({"interval"}))
    sets["dispatch"] = Set("dispatch", "ifname", data="verdict")
    only = f"only{number}"
    sets[only] = Set(only, "inet_service")
    chains = {
        f"chain{i}": Chain(f"chain{i}", (f'ip saddr @set{i % 4} counter accept comment "generation {number}"',))
        for i in range(CHAINS)
    }
    chains[f"target{number}"] = Chain(f"target{number}", (f'tcp dport @{only} accept comment "generation {number}"',))
    dispatch = ("oifname vmap @dispatch", f'ip daddr @nets drop comment "generation {number}"')
    chains["base"] = Chain("base", dispatch, Hook("filter", "forward", 0))
    block = f"10.{number >> 8 & 255}.{number & 255}"
    return Table(
        chains=chains,
        sets=sets,
        elements={
            **{f"set{i}": frozenset(f"{block}.{k}" for k in range(ELEMENTS % 256)) for i in range(4)},
            "nets": frozenset({f"{block}.0/24"}),
            "dispatch": frozenset({('"cali0"', f"goto target{number}")}),
            only: frozenset({str(number % 65535 + 1)}),
        },
    )


def main() -> None:
    workshop = Workshop()
    wanted = generation(0)
    workshop.reconcile(wanted)  # whatever the one before left
    print("writing", flush=True)
    for number in itertools.count(1):
        following = generation(number)
        workshop.carry_out(difference(wanted, following), following)
        wanted = following


async def main_inside(path: str) -> None:
    """The same in a pod's namespace."""
    async with Kernel() as kernel:
        wanted = generation(0)
        where, done = await kernel.keep(await kernel.where(path), wanted, Change(), UNKNOWN)
        print("writing", flush=True)
        for number in itertools.count(1):
            following = generation(number)
            where, done = await kernel.keep(where, following, difference(wanted, following), done.generation)
            wanted = following


if __name__ == "__main__":
    asyncio.run(main_inside(sys.argv[1])) if len(sys.argv) > 1 else main()
