"""One lab per mode for the whole session: two nodes whose runtime chains the standard portmap plugin."""

import json
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytest_asyncio

from compose.lab import lab
from compose.lab.layout import Layout, NodeLayout
from compose.lab.pods import Pods
from compose.lab.record import Options
from compose.lab.sandbox import Sandbox
from shared.model import Mode
from tests.system.modes.modes import MODES, chosen, params
from tests.system.modes.site import NODES, Site

_PORTMAP = Path("/usr/lib/cni/portmap")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each test in each mode, and each damage in the modes in which there is such a thing to damage.

    A module about one mode says which in ONLY.
    """
    if "damage" in metafunc.fixturenames:
        pairs = [one for mode in chosen() for damage in MODES[mode].on_node for one in params([mode], damage)]
        metafunc.parametrize(("site", "damage"), pairs, indirect=["site"], scope="session")
    elif "site" in metafunc.fixturenames:
        only: Mode | None = getattr(metafunc.module, "ONLY", None)
        modes = [mode for mode in chosen() if only in (None, mode)]
        metafunc.parametrize("site", list(params(modes)), indirect=True, scope="session")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One mode after the other: pytest goes by places in lists of parameters, and would change labs all the time."""
    ours = [place for place, item in enumerate(items) if _mode(item)]
    for place, item in zip(ours, sorted((items[place] for place in ours), key=_mode), strict=True):
        items[place] = item


def _mode(item: pytest.Item) -> str:
    parameters = getattr(item, "callspec", SimpleNamespace(params={})).params
    return parameters.get("site", "") if item.path.parent == Path(__file__).parent else ""


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def site(request: SimpleNamespace) -> AsyncIterator[Site]:
    mode: Mode = request.param
    layout = Layout.of(f"m{list(Mode).index(mode)}p{os.getpid()}")  # two runs at a time do not share a lab
    common = {"runtime": "cni", "processes": True, "cooldown_s": 0.2, "instance_type": "ecs.g6.4xlarge"}
    record = await lab.up(layout, Options(mode=mode, **{**common, **MODES[mode].options}), say=lambda line: None)
    try:
        for node in NODES:
            chain_portmap(layout.node(node))
        async with Pods(layout, dict.fromkeys(NODES, "cni")) as pods:
            await pods.ensure_namespace("default")
            yield Site(mode, layout, record, pods)
    finally:
        await lab.down(layout, say=lambda line: None)


def chain_portmap(node: NodeLayout) -> None:
    """As an operator would: the plugin beside ours, and its entry in the list."""
    (node.cni_bin / _PORTMAP.name).symlink_to(_PORTMAP)
    [path] = node.cni_conf.glob("*.conflist")
    network = json.loads(path.read_text())
    network["plugins"].append({"type": "portmap", "capabilities": {"portMappings": True}, "snat": True})
    network["cniVersion"], network["cniVersions"] = "1.0.0", ["1.0.0"]  # the newest that Debian's plugin speaks
    path.write_text(json.dumps(network))


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def crew(site: Site) -> AsyncIterator[dict[str, Sandbox]]:
    """Pods a and b on node1, c on node2; all serve."""
    async with AsyncExitStack() as opened:
        yield {
            name: await opened.enter_async_context(site.pod(name, node))
            for name, node in (("a", "node1"), ("b", "node1"), ("c", "node2"))
        }
