"""What nft lists, read as the model's values: the other half of the promise that its text is what nft gives back."""

import re

from services.policy.core.nft.model import Chain, Element, Hook, Set, Table

_HOOK = re.compile(r"type (\w+) hook (\w+) priority (-?\d+); policy (\w+);")


def read(listing: str) -> Table:
    """`nft --stateless --numeric list table inet terway`."""
    chains: dict[str, Chain] = {}
    sets: dict[str, Set] = {}
    elements: dict[str, set[Element]] = {}
    joined = re.sub(r",\s+", ", ", listing)
    for block in re.findall(r"^\t(?:chain|set|map) [^\n]* \{\n.*?^\t\}$", joined, re.MULTILINE | re.DOTALL):
        head, *lines = [line.strip() for line in block.splitlines()[:-1]]
        kind, name, _ = head.split(" ")
        if kind == "chain":
            found = _HOOK.fullmatch(lines[0]) if lines else None
            hook = Hook(found[1], found[2], int(found[3]), found[4]) if found else None
            chains[name] = Chain(name, tuple(lines[1:] if found else lines), hook)
        else:
            sets[name], elements[name] = _set(name, lines)
    return Table(chains=chains, sets=sets, elements={name: held for name, held in elements.items() if held})


def _set(name: str, lines: list[str]) -> tuple[Set, set[Element]]:
    fields = {line.partition(" ")[0]: line.partition(" ")[2] for line in lines}
    key, colon, data = fields["type"].partition(" : ")
    flags = frozenset(fields.get("flags", "").split(",")) - {""}
    held: set[Element] = set()
    if "dynamic" in flags:  # the kernel's own business
        return Set(name, key, flags, counter="counter" in fields), held
    for text in fields.get("elements", "= { }")[4:-2].split(", "):
        left, maps, right = text.partition(" : ")
        if left:
            held.add((left, right) if maps else left)
    return Set(name, key, flags, data if colon else None, counter="counter" in fields), held
