"""What upstream's skel enforces on top of the specification (cni.md): a drop-in plugin is expected to match."""

import re
import socket
import subprocess
import time

import pytest

from tests.cni.site import Json, Sandbox, Site, config

pytestmark = pytest.mark.system

VARIABLES = {
    "ADD": ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"],
    "CHECK": ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"],
    "DEL": ["CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"],
    "GC": ["CNI_PATH"],
    "STATUS": ["CNI_PATH"],
}


@pytest.mark.parametrize("command", VARIABLES)
def test_all_missing_variables_are_reported_together(site: Site, command: str) -> None:
    outcome = site.plugin.run(command, config(), {"CNI_PATH": None})
    said = outcome.error(4)
    assert re.findall(r"CNI_\w+", said["msg"]) == VARIABLES[command]


@pytest.mark.parametrize("command", VARIABLES)
def test_an_empty_variable_is_a_missing_one(site: Site, sandbox: Sandbox, command: str) -> None:
    site.plugin.run(command, config(), {**sandbox.env, "CNI_PATH": ""}).error(4, "CNI_PATH")


def test_unknown_command(site: Site) -> None:
    site.plugin.run("UPDATE", config()).error(4, "CNI_COMMAND", "UPDATE")


@pytest.mark.parametrize("command", [None, ""], ids=["unset", "empty"])
def test_without_command_it_says_what_it_is(site: Site, command: str | None) -> None:
    outcome = site.plugin.run(command, b"")
    assert outcome.exit == 0
    assert outcome.stdout == b""
    assert b"terway" in outcome.stderr and b"1.1.0" in outcome.stderr


def test_version_does_not_wait_for_stdin(site: Site) -> None:
    process = site.plugin.start("VERSION")
    try:
        assert process.wait(5) == 0, "stdin is still open"
    finally:
        process.communicate()


def test_version_needs_no_cni_path(site: Site) -> None:
    site.plugin.run("VERSION", b"", {"CNI_PATH": None}).ok()


@pytest.mark.parametrize("stdin", [b"", b"{", b"not JSON", b'{"cniVersion": 5}'])
def test_version_of_whatever_stdin(site: Site, stdin: bytes) -> None:
    assert site.plugin.run("VERSION", stdin).ok()["cniVersion"] == "1.1.0"


@pytest.mark.parametrize("name", ["", "-x", "a b", "a/b", "../x"])
def test_network_name(site: Site, sandbox: Sandbox, name: str) -> None:
    site.add(sandbox, config() | {"name": name}).error(7, "name")


def test_network_name_missing(site: Site, sandbox: Sandbox) -> None:
    site.add(sandbox, {"cniVersion": "1.1.0", "type": "terway"}).error(7, "name")


@pytest.mark.parametrize("command", VARIABLES)
@pytest.mark.parametrize("version", [None, "", "0.1.0", "0.2.0", "1.2.0", "x"])
def test_unsupported_versions(site: Site, sandbox: Sandbox, command: str, version: str | None) -> None:
    """A missing cniVersion means 0.1.0, whose result has another form altogether."""
    said = site.plugin.run(command, config(version), sandbox.env).error(1, "cniVersion", version or "0.1.0")
    assert said["cniVersion"] == "1.1.0"


@pytest.mark.parametrize(
    ("command", "version"),
    [("CHECK", "0.3.1"), ("GC", "1.0.0"), ("STATUS", "1.0.0"), ("GC", "0.4.0"), ("STATUS", "0.3.0")],
)
def test_commands_that_a_version_does_not_have(site: Site, sandbox: Sandbox, command: str, version: str) -> None:
    said = site.plugin.run(command, config(version), sandbox.env).error(1, command, version)
    assert said["cniVersion"] == version


@pytest.mark.parametrize("command", ["ADD", "DEL"])
def test_the_plugins_own_namespace(site: Site, sandbox: Sandbox, command: str) -> None:
    site.plugin.run(command, config(), {**sandbox.env, "CNI_NETNS": "/proc/self/ns/net"}).error(8, "CNI_NETNS")
    assert site.held() == set()


@pytest.mark.parametrize("override", ["1", "true", "TRUE"])
def test_the_plugins_own_namespace_on_request(site: Site, sandbox: Sandbox, override: str) -> None:
    own = {**sandbox.env, "CNI_NETNS": "/proc/self/ns/net", "CNI_NETNS_OVERRIDE": override}
    site.plugin.run("DEL", config(), own).ok()


@pytest.mark.parametrize("netns", ["/run/netns/vanished", "/etc/passwd", "/", "relative"])
@pytest.mark.parametrize("command", ["ADD", "CHECK"])
def test_netns_that_is_none(site: Site, sandbox: Sandbox, command: str, netns: str) -> None:
    stdin: Json = config(prevResult={"interfaces": []})
    site.plugin.run(command, stdin, {**sandbox.env, "CNI_NETNS": netns}).error(8, "CNI_NETNS")
    assert site.held() == set()


def test_gc_as_libcni_sends_it(site: Site, sandbox: Sandbox) -> None:
    site.add(sandbox).ok()
    valid = [{"containerID": sandbox.id, "ifname": "eth0"}]
    site.plugin.run("GC", config() | {"cni.dev/valid-attachments": valid, "cni.dev/attachments": valid}).ok()
    site.plugin.run("GC", config() | {"cni.dev/attachments": valid}).ok()
    assert site.held() == {(sandbox.id, "eth0")}


def test_gc_without_a_list_removes_nothing(site: Site, sandbox: Sandbox) -> None:
    site.add(sandbox).ok()
    site.plugin.run("GC", config()).error(7, "cni.dev/valid-attachments")
    assert site.held() == {(sandbox.id, "eth0")}


def test_stdin_may_come_late_and_in_pieces(site: Site, sandbox: Sandbox) -> None:
    process = site.plugin.start("ADD", sandbox.env)
    assert process.stdin is not None
    for piece in (b'{"cniVersion": "1.0.0", "na', b'me": "terway", "type": ', b'"terway"}'):
        process.stdin.write(piece)
        process.stdin.flush()
        time.sleep(0.02)  # the point: there is nothing to read meanwhile
    stdout, _ = process.communicate(timeout=10)
    assert b'"cniVersion":"1.0.0"' in stdout and process.returncode == 0


def test_stdin_that_is_never_closed(site: Site, sandbox: Sandbox) -> None:
    process = site.plugin.start("STATUS")
    try:
        assert process.wait(10) == 1, "the deadline of STATUS, 2 s here"
        assert process.stdout is not None
        assert b"stdin" in process.stdout.read()
    finally:
        process.communicate()


def test_stdin_that_is_a_socket(site: Site) -> None:
    """As some runtimes' process libraries give it; it cannot be opened through /proc."""
    mine, theirs = socket.socketpair()
    with mine, theirs:
        process = subprocess.Popen(
            [str(site.plugin.file)], env={"CNI_COMMAND": "VERSION"}, stdin=theirs.fileno(), stdout=subprocess.PIPE
        )
        mine.sendall(b'{"cniVersion": "0.4.0"}')
        mine.shutdown(socket.SHUT_WR)
        stdout, _ = process.communicate(timeout=10)
        assert b'"cniVersion": "0.4.0"' in stdout


def test_stdin_that_is_closed(site: Site) -> None:
    process = subprocess.run(
        ["sh", "-c", f"exec {site.plugin.file} <&-"],
        env={"CNI_COMMAND": "STATUS", "CNI_PATH": "/x"},
        capture_output=True,
        timeout=10,
    )
    assert process.returncode == 1
    assert b'"code": 5' in process.stdout
