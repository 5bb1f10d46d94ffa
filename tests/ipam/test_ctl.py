"""`terwayctl leaks`: from real states, and from states with everything that can be suspicious."""

import asyncio
import copy
from typing import Any

import pytest
from click.testing import CliRunner

from services.ctl import main
from services.ipam.ctl import suspects
from shared.config import NodeConfig
from tests.ipam.conftest import Start
from tests.ipam.eni_manager import ScriptedEniManager
from tests.ipam.world import one_eni

ENIS: dict[str, Any] = {"enis": [], "notices": []}
IPAM: dict[str, Any] = {"leases": [], "suspects": {}, "strangers": [], "differences": [], "addresses": {}}


def found(ipam: dict[str, Any], enis: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(one.kind, one.what, one.evidence) for one in suspects({**IPAM, **ipam}, {**ENIS, **enis}, 1000.0)]


def eni(state: str = "ready", **slots: str) -> dict[str, Any]:
    shown = {f"10.0.0.{name[1:]}": {"state": slot} for name, slot in slots.items()}
    return {"id": "eni-1", "name": "eni-cni-1", "state": state, "slots": shown, "story": [f"{state}: because"]}


def test_a_node_at_peace_has_none() -> None:
    assert found({"addresses": {"10.0.0.1": {"state": "idle", "story": []}}}, {"enis": [eni(a1="valid")]}) == []


def test_a_suspected_lease_comes_with_pod_address_and_time() -> None:
    lease = {
        "key": {"network": "n", "container_id": "c", "ifname": "eth0"},
        "pod": {"namespace": "default", "name": "web"},
        "ipv4": "10.0.0.1",
        "ipv6": None,
    }
    ipam = {"leases": [lease], "suspects": {"n/c/eth0": {"since": 940.0, "finding": "the pod is gone"}}}
    evidence = "the pod is gone, and nothing of it is connected, for 60 s; 10.0.0.1 for default/web"
    assert found(ipam, {}) == [("lease", "n/c/eth0", evidence)]
    assert "has ended meanwhile" in found({**ipam, "leases": []}, {})[0][2]


@pytest.mark.parametrize(
    ("ipam", "enis", "kind", "what", "evidence"),
    [
        ({"strangers": ["n/c/eth0"]}, {}, "attachment", "n/c/eth0", "knows no lease"),
        ({"differences": ["10.0.0.1 is leased to x, but"]}, {}, "lease", "10.0.0.1", "is leased to x"),
        (
            {"addresses": {"10.0.0.1": {"state": "given-back", "story": [{"event": "marked"}]}}},
            {},
            "address",
            "10.0.0.1",
            "not confirmed it yet: marked",
        ),
        ({}, {"enis": [eni("draining")]}, "eni", "eni-1", "is draining: draining: because"),
        ({}, {"enis": [eni(a1="missing")]}, "address", "10.0.0.1", "taken it away from eni-1"),
        ({}, {"enis": [eni(a1="valid")]}, "address", "10.0.0.1", "ipam does not know of it"),
        ({}, {"notices": [{"about": "eni-9", "what": "found, unknown to the journal"}]}, "eni", "eni-9", "unknown"),
    ],
)
def test_each_kind(ipam: dict[str, Any], enis: dict[str, Any], kind: str, what: str, evidence: str) -> None:
    ((is_kind, is_what, said),) = found(copy.deepcopy(ipam), copy.deepcopy(enis))
    assert (is_kind, is_what) == (kind, what)
    assert evidence in said


async def test_what_ipam_shows_is_understood_and_who_shows_nothing_is_named(start: Start, node: NodeConfig) -> None:
    socket = node.socket("eni_manager")
    async with ScriptedEniManager(socket, one_eni(3)), start(pool=(0, 1), sync_period_s=0.05) as ipam:
        await ipam.add("a")
        await ipam.until("/state", lambda _, state: state["counts"]["given_back"] == 1)

        gone = await asyncio.to_thread(CliRunner().invoke, main, ["leaks", "--ipam", "http://127.0.0.1:1"])
        assert gone.exit_code == 1
        assert "ipam does not show its state at http://127.0.0.1:1" in gone.output
        state = (await ipam.get("/state"))[1]
        assert [one.kind for one in suspects(state, ENIS, 0.0)] == ["address"]
