"""The node's Python runs the shim, whichever it is."""

from pathlib import Path

import pytest

from tests.cni.fakes import FakeSite, until
from tests.cni.interpreters import interpreters
from tests.cni.site import Plugin, Sandbox, config

pytestmark = pytest.mark.system

FOUND = interpreters()


def test_the_systems_own_is_among_them() -> None:
    assert Path("/usr/bin/python3") in FOUND.values()


@pytest.fixture(params=FOUND, ids=str)
def plugin(request: pytest.FixtureRequest, site: FakeSite) -> Plugin:
    return Plugin(site.plugin.file, prefix=(str(FOUND[request.param]), "-ISE"))


def test_every_command(site: FakeSite, sandbox: Sandbox, plugin: Plugin) -> None:
    result = plugin.run("ADD", config(), sandbox.env).ok()
    plugin.run("CHECK", config(prevResult=result), sandbox.env).ok()
    plugin.run("STATUS", config()).ok()
    plugin.run("GC", config() | {"cni.dev/valid-attachments": [{"containerID": sandbox.id, "ifname": "eth0"}]}).ok()
    plugin.run("DEL", config(prevResult=result), sandbox.env).ok()
    plugin.run("DEL", config(), {**sandbox.env, "CNI_NETNS": ""}).ok()
    assert site.held() == set()
    assert plugin.run("VERSION", {"cniVersion": "0.4.0"}).ok()["cniVersion"] == "0.4.0"
    plugin.run("ADD", b"x" * (5 << 20), sandbox.env).error(7)
    assert plugin.run(None, b"").exit == 0


def test_without_gateway(site: FakeSite, sandbox: Sandbox, plugin: Plugin) -> None:
    """A socket that does not exist, in a shim of its own, so that the gateway need not be stopped each time."""
    orphan = Plugin(retargeted(site, plugin.file), prefix=plugin.prefix)
    for command, code in (("ADD", 11), ("STATUS", 50), ("CHECK", 11), ("GC", 11)):
        orphan.run(command, config("1.0.0"), sandbox.env).error(code, "gateway")
    plugin.run("ADD", config(), sandbox.env).ok()
    orphan.run("DEL", config(), sandbox.env).ok()
    until(lambda: not site.held() and not site.notes(), "the note is honoured")


def retargeted(site: FakeSite, file: Path) -> Path:
    nowhere = site.dir / "nowhere.sock"
    copy = site.dir / "orphan"
    copy.write_text(file.read_text().replace(str(site.dir / "run/gateway.sock"), str(nowhere)))
    copy.chmod(0o755)
    return copy
