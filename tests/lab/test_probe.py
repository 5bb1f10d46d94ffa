"""Listeners and probes: real sockets in namespaces made for the test."""

import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compose.lab import process, serve
from compose.lab.probe import Target, ask, parse_target
from compose.lab.serve import Port, parse_ports
from shared.errors import Conflict, Invalid, NotFound, Refused

HAS_SCTP = "SCTP" in Path("/proc/net/protocols").read_text()


@given(
    st.sampled_from(["default/web", "10.1.2.3", "node1", "outside"]),
    st.integers(1, 65535),
    st.sampled_from(["tcp", "udp"]),
)
def test_targets_are_read_back_as_written(host: str, port: int, protocol: str) -> None:
    assert parse_target(f"{host}:{port}/{protocol}") == Target(host, Port(port, protocol))


def test_targets_in_brackets_and_without_a_protocol() -> None:
    assert parse_target("[fd00::1]:80/UDP") == Target("fd00::1", Port(80, "udp"))
    assert parse_target("a/b:80") == Target("a/b", Port(80, "tcp"))


@pytest.mark.parametrize("text", ["", "a/b", "a/b:x/tcp", "a:0/tcp", "a:65536/tcp", "a:80/icmp", ":80/tcp"])
def test_what_is_no_target_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match="expected TARGET"):
        parse_target(text)


def test_ports() -> None:
    assert parse_ports("80/tcp, 81/udp") == [Port(80, "tcp"), Port(81, "udp")]
    assert parse_ports("") == []
    for wrong in ("80", "x/tcp", "0/tcp", "70000/udp", "80/icmp"):
        with pytest.raises(Invalid, match="expected PORT"):
            parse_ports(f"1/tcp,{wrong}")


@pytest.fixture
def netns() -> Iterator[Path]:
    name = f"twr-{uuid.uuid4().hex[:6]}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
    yield Path("/run/netns") / name
    subprocess.run(["ip", "netns", "del", name], check=True)


@pytest.mark.system
async def test_a_listener_answers_with_its_name_until_it_is_stopped(netns: Path, tmp_path: Path) -> None:
    ports = [Port(80, "tcp"), Port(81, "udp"), Port(82, "tcp")]
    running = serve.start(
        "serve", ports, greeting="default/web", netns=netns, records=tmp_path / "p", log=tmp_path / "log"
    )
    try:
        for port in ports:
            answer = await ask(netns, "127.0.0.1", port)
            assert (answer.reached, answer.by, answer.source) == (True, "default/web", "127.0.0.1"), answer
        assert (await ask(netns, "::1", Port(80, "tcp"))).by == "default/web"

        refused = await ask(netns, "127.0.0.1", Port(99, "tcp"))
        assert (refused.reached, refused.reason) == (False, "Connection refused")
        silent = await ask(netns, "127.0.0.1", Port(99, "udp"), timeout_s=0.3)
        assert not silent.reached
        unroutable = await ask(netns, "192.0.2.1", Port(80, "tcp"), timeout_s=0.3)
        assert (unroutable.reached, unroutable.reason) == (False, "Network is unreachable")

        with pytest.raises(Conflict, match="81/udp"):
            serve.start("second", [Port(81, "udp")], greeting="x", netns=netns, records=tmp_path, log=tmp_path / "l")
    finally:
        await process.stop(running)
    assert not running.alive
    assert not (await ask(netns, "127.0.0.1", Port(80, "tcp"))).reached


@pytest.mark.system
async def test_a_protocol_that_the_kernel_lacks_is_named(netns: Path, tmp_path: Path) -> None:
    sctp = Port(80, "sctp")
    if HAS_SCTP:
        assert not (await ask(netns, "127.0.0.1", sctp)).reached
        return
    with pytest.raises(Refused, match="80/sctp"):
        await ask(netns, "127.0.0.1", sctp)
    with pytest.raises(Refused, match="80/sctp"):
        serve.start("serve", [sctp], greeting="x", netns=netns, records=tmp_path, log=tmp_path / "l")


async def test_a_namespace_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="gone"):
        await ask(tmp_path / "gone", "127.0.0.1", Port(80, "tcp"))
