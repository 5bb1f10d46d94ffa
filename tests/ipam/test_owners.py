"""A lost, broken or old database: sandboxes that live keep their addresses, and nobody else gets one of them."""

import sqlite3
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, closing
from pathlib import Path

import pytest

from shared.config import NodeConfig
from shared.model import PodKey
from tests.ipam.conftest import RunningIpam
from tests.ipam.eni_manager import ScriptedEniManager
from tests.ipam.world import ip, key, lease_of, one_eni

Start = Callable[..., AbstractAsyncContextManager[RunningIpam]]


@pytest.fixture
def enis_socket(node: NodeConfig) -> Path:
    return node.socket("eni_manager")


def delete(path: Path) -> None:
    path.unlink()


def overwrite(path: Path) -> None:
    path.write_bytes(b"no database at all, but long enough to be looked at" * 40)


def tear_a_page(path: Path) -> None:
    """Its first page is whole, so it opens; the table of leases is not."""
    with closing(sqlite3.connect(path)) as database:
        [root] = database.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'leases'").fetchone()
        [size] = database.execute("PRAGMA page_size").fetchone()
    with path.open("r+b") as file:
        file.seek((root - 1) * size)
        file.write(b"\xff" * size)


@pytest.mark.parametrize("harm", [delete, overwrite, tear_a_page])
async def test_sandboxes_keep_their_addresses(
    start: Start, node: NodeConfig, enis_socket: Path, harm: Callable[[Path], None]
) -> None:
    async with ScriptedEniManager(enis_socket, one_eni(5)) as enis:
        async with start() as ipam:
            had = {name: await ipam.add(name) for name in ("a", "b", "c")}
        for held in had.values():
            enis.attached[held.key], enis.plugged_with[held.key] = True, held
        harm(node.database("ipam"))
        kept = list(node.database("ipam").parent.glob("ipam.sqlite.broken-*"))
        assert kept == []
        async with start(cooldown_s=0.0) as ipam:
            assert (await ipam.add("b")).ipv4 == had["b"].ipv4, "asked before anything else is known"
            await ipam.until("/readyz", lambda status, _: status == 200)
            assert await ipam.leases() == {held.key: held for held in had.values()}
            fresh = {(await ipam.add(name)).ipv4 for name in ("d", "e")}
            assert fresh == enis.addresses - {held.ipv4 for held in had.values()}
            await ipam.delete("a")
            assert (await ipam.add("f")).ipv4 == had["a"].ipv4, "and they end as all others do"
        assert len(list(node.database("ipam").parent.glob("ipam.sqlite.broken-*"))) == (0 if harm is delete else 1)


async def test_an_old_copy_is_completed_and_what_contradicts_it_is_said(
    start: Start, enis_socket: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with ScriptedEniManager(enis_socket, one_eni(5)) as enis:
        async with start() as ipam:
            had = await ipam.add("known")
        lost, wrong = lease_of("lost", 4), lease_of("wrong", int(str(had.ipv4).rpartition(".")[2]))
        for held in (lost, wrong):
            enis.attached[held.key], enis.plugged_with[held.key] = True, held
        enis.attached |= {key("dead"): False, key("by-marks-only"): True}
        enis.plugged_with[key("dead")] = lease_of("dead", 5)
        async with start() as ipam:
            await ipam.until("/readyz", lambda status, _: status == 200)
            assert set(await ipam.leases()) == {key("known"), key("lost")}
            assert (await ipam.leases())[key("lost")].ipv4 == ip(4)
    [said] = [record for record in caplog.records if record.message == "lease_not_adopted"]
    assert str(had.ipv4) in str(getattr(said, "fields", {}))


async def test_what_waits_is_told_apart(start: Start, enis_socket: Path) -> None:
    """A key that is adopted while its own ADD waits for an address has one lease, not two."""
    async with ScriptedEniManager(enis_socket, one_eni(3)) as enis:
        held = lease_of("a", 2)
        enis.attached[held.key], enis.plugged_with[held.key] = True, held
        async with start() as ipam:
            assert await ipam.add("a", pod="pod-a") == held
            assert held.pod == PodKey("default", "pod-a")
            assert len(await ipam.leases()) == 1
