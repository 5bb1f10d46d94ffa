"""The runtime's operations, against a plugin that is a real program and writes down how it was called."""

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from compose.lab.runtime_cni.conflist import parse
from compose.lab.runtime_cni.invoke import Container, PluginFailed
from compose.lab.runtime_cni.runtime import Runtime
from shared.errors import Conflict, NotFound, Refused

# Appends one line per call; fails when a file `fail-<its name>-<command>` exists; `order` shows overlap.
PLUGIN = """#!/bin/sh
me=${0##*/} dir=${0%/*}
stdin=$(cat)
echo "$me $CNI_COMMAND start" >> $dir/order
printf '{"me":"%s","command":"%s","id":"%s","netns":"%s","args":"%s","stdin":%s}\\n' \
  $me $CNI_COMMAND "$CNI_CONTAINERID" "$CNI_NETNS" "$CNI_ARGS" "$stdin" >> $dir/calls
if [ -e $dir/fail-$me-$CNI_COMMAND ]; then
  echo '{"cniVersion":"1.1.0","code":11,"msg":"later","details":"as told"}'; echo noise >&2; exit 1
fi
[ $CNI_COMMAND = ADD ] && [ ! -e $dir/silent ] && echo "{\\"cniVersion\\":\\"1.1.0\\",\\"ips\\":[],\\"by\\":\\"$me\\"}"
echo "$me $CNI_COMMAND end" >> $dir/order
"""


@dataclass
class Net:
    """A network of two plugins, `one` and `two`, and what they were called with."""

    folder: Path

    def runtime(self, **changes: object) -> Runtime:
        plugins = [{"type": "one", "capabilities": {"io.kubernetes.cri.pod-annotations": True}}, {"type": "two"}]
        network = parse({"cniVersion": "1.0.0", "cniVersions": ["1.1.0"], "name": "n", "plugins": plugins} | changes)
        return Runtime(network, bin_dirs=[self.folder], cache=self.folder / "cache")

    def fail(self, plugin: str, command: str) -> None:
        (self.folder / f"fail-{plugin}-{command}").touch()

    def heal(self, plugin: str, command: str) -> None:
        (self.folder / f"fail-{plugin}-{command}").unlink()

    @property
    def calls(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "calls").read_text().splitlines()]

    @property
    def story(self) -> list[str]:
        return [f"{call['command']} {call['me']}" for call in self.calls]

    @property
    def order(self) -> list[str]:
        return (self.folder / "order").read_text().splitlines()


@pytest.fixture
def net(tmp_path: Path) -> Net:
    for name in ("one", "two"):
        (tmp_path / name).write_text(PLUGIN)
        (tmp_path / name).chmod(0o755)
    return Net(tmp_path)


def box(name: str = "c1", netns: str = "/run/netns/x") -> Container:
    return Container(name, netns, args={"IgnoreUnknown": "1", "K8S_POD_NAME": "p"})


async def test_add_chains_results_and_delete_gets_the_last_one(net: Net) -> None:
    annotations = {"io.kubernetes.cri.pod-annotations": {"a": "b"}}
    result = await net.runtime().add(box(), capabilities=annotations)
    assert result["by"] == "two"
    first, second = net.calls
    assert "prevResult" not in first["stdin"] and first["stdin"]["runtimeConfig"] == annotations
    assert second["stdin"]["prevResult"]["by"] == "one" and "runtimeConfig" not in second["stdin"]
    assert set(first["args"].split(";")) == {"IgnoreUnknown=1", "K8S_POD_NAME=p"}

    # Another process of the same runtime: results are on disk.
    await net.runtime().delete(box())
    assert net.story == ["ADD one", "ADD two", "DEL two", "DEL one"]
    assert [call["stdin"]["prevResult"]["by"] for call in net.calls[2:]] == ["two", "two"]

    await net.runtime().delete(box(netns=""))
    again = net.calls[4:]
    assert [call["netns"] for call in again] == ["", ""]
    assert not any("prevResult" in call["stdin"] for call in again)


async def test_add_stops_at_the_first_error_and_says_what_the_plugin_said(net: Net) -> None:
    net.fail("one", "ADD")
    with pytest.raises(PluginFailed, match=r"one ADD: code 11: later \(as told\)") as failed:
        await net.runtime().add(box())
    assert (failed.value.cni_code, failed.value.stderr) == (11, "noise\n")
    assert net.story == ["ADD one"]


async def test_an_add_without_a_result_is_a_failure(net: Net) -> None:
    (net.folder / "silent").touch()
    with pytest.raises(PluginFailed, match="without a result"):
        await net.runtime().add(box())


async def test_a_second_add_of_the_same_attachment_is_refused(net: Net) -> None:
    await net.runtime().add(box())
    with pytest.raises(Conflict):
        await net.runtime().add(box())


async def test_delete_stops_at_the_first_error_and_keeps_the_result(net: Net) -> None:
    await net.runtime().add(box())
    net.fail("two", "DEL")
    with pytest.raises(PluginFailed):
        await net.runtime().delete(box())
    net.heal("two", "DEL")
    await net.runtime().delete(box())
    assert net.story[2:] == ["DEL two", "DEL two", "DEL one"]
    assert all(call["stdin"]["prevResult"]["by"] == "two" for call in net.calls[2:])


async def test_check_is_only_for_what_was_added_and_where_it_is_allowed(net: Net) -> None:
    with pytest.raises(Refused, match="not added"):
        await net.runtime().check(box())
    await net.runtime().add(box())
    await net.runtime().check(box())
    with pytest.raises(Refused, match="disabled"):
        await net.runtime(disableCheck=True).check(box())
    assert net.story == ["ADD one", "ADD two", "CHECK one", "CHECK two"]


async def test_gc_goes_on_after_an_error_and_collects_all(net: Net) -> None:
    net.fail("one", "GC")
    failures = await net.runtime().gc([box()])
    assert [str(failure) for failure in failures] == ["one GC: code 11: later (as told)"]
    assert net.story == ["GC one", "GC two"]
    assert net.calls[1]["stdin"]["cni.dev/valid-attachments"] == [{"containerID": "c1", "ifname": "eth0"}]
    with pytest.raises(Refused):
        await net.runtime(disableGC=True).gc([])
    with pytest.raises(Refused):
        await net.runtime(cniVersions=[]).gc([])


async def test_one_container_is_worked_on_once_at_a_time_and_gc_is_alone(net: Net) -> None:
    runtime = net.runtime()
    await runtime.add(box("first"))
    await asyncio.gather(
        *(runtime.delete(box("first")) for _ in range(4)),
        *(runtime.gc([]) for _ in range(2)),
        runtime.delete(box("first")),
    )
    # Calls never overlap here: all are of one container, or GC.
    starts, ends = net.order[::2], net.order[1::2]
    assert [line.removesuffix(" start") for line in starts] == [line.removesuffix(" end") for line in ends]
    assert len(starts) == 2 + 5 * 2 + 2 * 2


async def test_status_and_version_ask_every_plugin(net: Net) -> None:
    await net.runtime().status()
    assert await net.runtime().version() == [None, None]
    assert net.story == ["STATUS one", "STATUS two", "VERSION one", "VERSION two"]
    net.fail("two", "STATUS")
    with pytest.raises(PluginFailed, match="code 11"):
        await net.runtime().status()


async def test_a_missing_program_is_named(net: Net) -> None:
    with pytest.raises(NotFound, match="three"):
        await net.runtime(plugins=[{"type": "three"}]).add(box())
