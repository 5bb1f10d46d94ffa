"""Services that are down, die, hang or come back, and callers that go away."""

import signal
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from services.cni_shim.alone import write_note
from shared.crashpoint import STATUS, names
from shared.errors import Internal, Unavailable
from tests.cni.fakes import DEADLINES, FakeSite, until
from tests.cni.site import Outcome, Sandbox, config

pytestmark = pytest.mark.system

SERVICES = ("gateway", "ipam", "eni_manager", "policy")
SOURCE = Path(__file__).parents[2] / "services" / "cni_shim"


def clean(site: FakeSite) -> bool:
    return not (site.held() or site.wired() or site.neighbours.attached or site.notes())


@pytest.mark.parametrize("service", SERVICES)
def test_add_is_to_be_tried_again_at_once(site: FakeSite, sandbox: Sandbox, service: str) -> None:
    with site.away(service):
        began = time.monotonic()
        site.add(sandbox).error(11, service)
        assert time.monotonic() - began < DEADLINES.add / 2, "it did not wait for who is away"
    until(lambda: clean(site), "what the failed ADD began is undone")
    site.add(sandbox).ok()


@pytest.mark.parametrize("service", SERVICES)
def test_del_succeeds_and_is_done_later(site: FakeSite, sandbox: Sandbox, service: str) -> None:
    site.add(sandbox).ok()
    with site.away(service):
        site.delete(sandbox).ok()
        assert site.delete(sandbox, CNI_NETNS=None).stdout == b""
        assert site.notes(), "it is written down"
    until(lambda: clean(site), "the DEL is done")


def test_policy_that_is_away_keeps_no_address(site: FakeSite, sandbox: Sandbox) -> None:
    site.add(sandbox).ok()
    with site.away("policy"):
        site.delete(sandbox).ok()
        assert site.held() == site.wired() == set()
    until(lambda: clean(site), "the rules go when policy is back")


def test_an_address_is_not_released_while_it_may_be_wired(site: FakeSite, sandbox: Sandbox) -> None:
    site.add(sandbox).ok()
    with site.away("eni_manager"):
        site.delete(sandbox).ok()
        assert site.held() == {(sandbox.id, "eth0")}
    until(lambda: clean(site), "the DEL is done")


@pytest.mark.parametrize("command", ["CHECK", "GC"])
def test_other_commands_without_gateway(site: FakeSite, sandbox: Sandbox, command: str) -> None:
    with site.away("gateway"):
        site.plugin.run(command, config(), sandbox.env).error(11, "gateway")


def test_version_without_gateway(site: FakeSite) -> None:
    with site.away("gateway"):
        assert site.plugin.run("VERSION", {"cniVersion": "1.0.0"}).ok()["cniVersion"] == "1.0.0"


def test_del_without_gateway_still_wants_its_variables(site: FakeSite, sandbox: Sandbox) -> None:
    with site.away("gateway"):
        site.delete(sandbox, CNI_CONTAINERID=None, CNI_IFNAME=None).error(4, "CNI_CONTAINERID,CNI_IFNAME")
        assert site.notes() == []


def test_del_that_can_neither_be_done_nor_noted(site: FakeSite, sandbox: Sandbox) -> None:
    kept = site.spool.with_name("kept")
    with site.away("gateway"):
        site.spool.rename(kept)
        site.spool.write_text("a file is in the way")
        try:
            site.delete(sandbox).error(11, "no note")
        finally:
            site.spool.unlink()
            kept.rename(site.spool)


@pytest.mark.alone
def test_gateway_that_hangs(site: FakeSite, sandbox: Sandbox) -> None:
    """Each command answers by its deadline: here 5 s for ADD, 3 for DEL, 2 for STATUS."""
    gateway = site.gateway_pid
    site.add(sandbox).ok()
    try:
        subprocess.run(["kill", "-STOP", str(gateway)], check=True)
        with site.sandbox(pod="web-1") as other, ThreadPoolExecutor(3) as pool:
            adding = pool.submit(site.add, other)
            status = pool.submit(site.plugin.run, "STATUS", config())
            deleting = pool.submit(site.delete, sandbox)
            status.result(4).error(50)
            deleting.result(5).ok()
            adding.result(7).error(11)
            assert len(site.notes()) == 1
            subprocess.run(["kill", "-CONT", str(gateway)], check=True)
    finally:
        subprocess.run(["kill", "-CONT", str(gateway)], check=True)
    until(lambda: clean(site), "the callers' absence is noticed and the note honoured")


@pytest.mark.parametrize("method", ["ipam.acquire", "eni.plug", "policy.attach"])
def test_gateway_dies_in_the_middle_of_add(site: FakeSite, sandbox: Sandbox, method: str) -> None:
    adding, go_on = held_up_in(site, method, lambda: site.add(sandbox))
    assert site.stop_gateway(signal.SIGKILL) == -signal.SIGKILL
    adding.result(DEADLINES.add / 2).error(11)
    go_on()
    site.start_gateway()
    site.delete(sandbox).ok()
    assert clean(site)


@pytest.mark.parametrize(
    ("method", "service"), [("ipam.acquire", "ipam"), ("eni.plug", "eni_manager"), ("policy.attach", "policy")]
)
def test_neighbour_dies_in_the_middle_of_add(site: FakeSite, sandbox: Sandbox, method: str, service: str) -> None:
    adding, go_on = held_up_in(site, method, lambda: site.add(sandbox))
    with site.away(service):
        adding.result(DEADLINES.add / 2).error(11, service)
        go_on()
    until(lambda: clean(site), "it is undone, now or by a note")


@pytest.mark.alone
def test_neighbour_that_hangs(site: FakeSite, sandbox: Sandbox) -> None:
    adding, go_on = held_up_in(site, "ipam.acquire", lambda: site.add(sandbox))
    adding.result(4.8).error(11, "ipam")
    go_on()
    until(lambda: clean(site), "it is undone")


@pytest.mark.parametrize("method", ["ipam.acquire", "eni.plug", "policy.attach"])
def test_shim_is_killed_during_add(site: FakeSite, sandbox: Sandbox, method: str) -> None:
    go_on = site.neighbours.hold_up(method)
    shim = shim_at_work(site, "ADD", sandbox, method)
    shim.kill()
    shim.communicate()
    go_on()
    until(lambda: "ipam.release" in site.neighbours.calls and clean(site), "the ADD is undone")


@pytest.mark.parametrize("method", ["policy.detach", "eni.unplug", "ipam.release"])
def test_shim_is_killed_during_del(site: FakeSite, sandbox: Sandbox, method: str) -> None:
    site.add(sandbox).ok()
    go_on = site.neighbours.hold_up(method)
    shim = shim_at_work(site, "DEL", sandbox, method)
    shim.kill()
    shim.communicate()
    go_on()
    until(lambda: clean(site), "the DEL goes on to its end")


@pytest.mark.parametrize("method", ["ipam.acquire", "eni.plug", "policy.attach"])
@pytest.mark.parametrize("error", [Internal("a bug"), Unavailable("away")], ids=["internal", "unavailable"])
def test_a_failed_step_undoes_the_ones_before(site: FakeSite, sandbox: Sandbox, method: str, error: Exception) -> None:
    site.neighbours.faults[method] = error
    site.add(sandbox).error(999 if isinstance(error, Internal) else 11)
    assert clean(site)
    site.neighbours.faults.clear()
    site.add(sandbox).ok()


def test_one_operation_at_a_time_per_attachment(site: FakeSite, sandbox: Sandbox) -> None:
    adding, go_on = held_up_in(site, "eni.plug", lambda: site.add(sandbox))
    with ThreadPoolExecutor(1) as pool, site.sandbox(pod="web-1") as other:
        deleting = pool.submit(site.delete, sandbox)
        site.neighbours.held_up.clear()
        site.add(other).ok()
        assert not deleting.done(), "it waits for the ADD of its own attachment, another's does not"
        go_on()
        adding.result(5).ok()
        deleting.result(5).ok()
        site.delete(other).ok()
        wiring = [call for call in site.neighbours.calls if call in ("eni.plug", "eni.unplug")]
        assert wiring == ["eni.plug", "eni.plug", "eni.unplug", "eni.unplug"]


def test_gc_waits_for_what_runs_and_then_is_alone(site: FakeSite, sandbox: Sandbox) -> None:
    adding, go_on = held_up_in(site, "eni.plug", lambda: site.add(sandbox))
    with ThreadPoolExecutor(1) as pool:
        collecting = pool.submit(site.plugin.run, "GC", config() | {"cni.dev/valid-attachments": []})
        site.plugin.run("STATUS", config()).ok()
        assert "ipam.leases" not in site.neighbours.calls
        go_on()
        adding.result(5).ok()
        collecting.result(5).ok()
    assert clean(site)


def test_unreadable_notes_are_set_aside(site: FakeSite, sandbox: Sandbox) -> None:
    write_note(bytes(site.spool), b"terway-cni/1 none 5 3 900\nabc")
    write_note(bytes(site.spool), b"terway-cni/1 none 5 15 2\nCNI_COMMAND=ADD{}")
    until(lambda: len(list(site.spool.glob("*.bad"))) == 2, "both are set aside")
    assert site.notes() == []
    for bad in site.spool.glob("*.bad"):
        bad.unlink()


def test_sigterm_lets_running_calls_finish(site: FakeSite, sandbox: Sandbox) -> None:
    adding, go_on = held_up_in(site, "eni.plug", lambda: site.add(sandbox))
    with ThreadPoolExecutor(1) as pool:
        stopping = pool.submit(site.stop_gateway)
        until(lambda: "stopping" in site.log.read_text().splitlines()[-1], "it has the signal")
        go_on()
        adding.result(5).ok()
        assert stopping.result(10) == 0
    site.start_gateway()
    assert site.held() == {(sandbox.id, "eth0")}


@pytest.mark.crash
@pytest.mark.parametrize("name", names(SOURCE))
def test_crash_point(site: FakeSite, sandbox: Sandbox, name: str) -> None:
    """Die there, start again, do what a kubelet does: nothing is left."""
    site.stop_gateway()
    site.start_gateway(CRASH_AT=name)
    with site.sandbox(pod="web-1") as second:
        site.add(sandbox)
        if "undo" in name:
            site.neighbours.faults["policy.attach"] = Internal("on purpose")
            site.add(second)
        if "spool" in name:
            site.neighbours.faults["ipam.release"] = Unavailable("on purpose")
        site.delete(sandbox).ok()
        site.neighbours.faults.clear()
        assert site.gateway_died() == STATUS
        site.start_gateway()
        site.delete(sandbox, CNI_NETNS=None).ok()
        site.delete(second).ok()
        until(lambda: clean(site), "nothing is left")
        assert site.add(sandbox).exit == 0


def held_up_in(site: FakeSite, method: str, call: Callable[[], Outcome]) -> tuple[Future[Outcome], Callable[[], None]]:
    """Start a call in the background and wait until it stands in `method`; what lets it go on."""
    go_on = site.neighbours.hold_up(method)
    pool = ThreadPoolExecutor(1)
    running = pool.submit(call)
    pool.shutdown(wait=False)
    until(lambda: method in site.neighbours.calls, f"{method} is called")
    return running, go_on


def shim_at_work(site: FakeSite, command: str, sandbox: Sandbox, method: str) -> subprocess.Popen[bytes]:
    """Exec the shim and wait until its call stands in `method`."""
    shim = site.plugin.start(command, sandbox.env)
    assert shim.stdin is not None
    shim.stdin.write(b'{"cniVersion": "1.1.0", "name": "terway", "type": "terway"}')
    shim.stdin.close()
    shim.stdin = None
    until(lambda: method in site.neighbours.calls, f"{method} is called")
    return shim
