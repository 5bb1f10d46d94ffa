"""The books after a soak: each database and the API server, read directly, against what the runtime has."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from compose.lab.layout import Layout, NodeLayout
from compose.lab.pods import Pods, runtime_of


async def problems(layout: Layout, nodes: list[str], pods: Pods) -> list[str]:
    """Every difference, as a sentence; for labs at rest."""
    found: list[str] = []
    shown: dict[str, list[str]] = {node: [] for node in nodes}
    for info in await pods.list():
        shown[info.node].append(info.pod)
    for node in nodes:
        async with runtime_of(layout.node(node), "cni") as runtime:
            sandboxes = [await runtime.inspect(sandbox) for sandbox in await runtime.find()]
        ready = {sandbox.id for sandbox in sandboxes if sandbox.ready}
        if sorted(shown[node]) != sorted(str(sandbox.pod) for sandbox in sandboxes if sandbox.ready):
            found.append(f"{node}: the API server has pods {sorted(shown[node])}, the runtime {sandboxes}")
        found += [f"{node}: {problem}" for problem in _of_node(layout.node(node), ready)]
    return found


def _of_node(node: NodeLayout, sandboxes: set[str]) -> Iterator[str]:
    with closing(_open(node.state / "ipam.sqlite")) as ipam, closing(_open(node.state / "eni_manager.sqlite")) as eni:
        for name, database in (("ipam", ipam), ("eni_manager", eni)):
            if (said := database.execute("PRAGMA integrity_check").fetchone()[0]) != "ok":
                yield f"{name}'s database: {said}"
        leases = [json.loads(row[0]) for row in ipam.execute("SELECT lease FROM leases")]
        attached = {row[0] for row in eni.execute("SELECT container_id FROM attachment")}
        addresses = [lease["ipv4"] for lease in leases]
        if len(set(addresses)) != len(addresses):
            yield f"an address is in two leases of the database: {sorted(addresses)}"
        held = {lease["key"]["container_id"] for lease in leases}
        if held != sandboxes:
            yield f"leases of the database are of {sorted(held)}, sandboxes are {sorted(sandboxes)}"
        if attached != sandboxes:
            yield f"attachments of the database are of {sorted(attached)}, sandboxes are {sorted(sandboxes)}"
        marked = {row[0] for row in ipam.execute("SELECT item FROM given_back")}
        if both := marked & set(addresses):
            yield f"given back and leased: {sorted(both)}"


def _open(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{path}?mode=ro", uri=True)
