"""Pods that are a network namespace and nothing else, wired by CNI as containerd would do it.

As containerd does: the loopback network first, then the node's; DEL twice, the second time when the
namespace is gone and the result forgotten; the pod's annotations as a capability.
"""

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from compose.lab.runtime_cni.capabilities import capabilities
from compose.lab.runtime_cni.conflist import load, parse
from compose.lab.runtime_cni.invoke import Container
from compose.lab.runtime_cni.runtime import Runtime
from compose.lab.sandbox import Executed, Sandbox
from shared.errors import Internal, NotFound
from shared.model import PodKey

_LOOPBACK = parse({"cniVersion": "0.3.1", "name": "cni-loopback", "plugins": [{"type": "loopback"}]})
_NETNS = Path("/run/netns")


class BarePods:
    """The pods of one node. Its state is a folder, so that every command is the same runtime.

    `netns_prefix`: what the names of the pods' namespaces begin with; the sandbox's id follows.
    """

    def __init__(self, *, conflist: Path, bin_dir: Path, folder: Path, node_netns: Path, netns_prefix: str) -> None:
        self._records = folder / "sandboxes"
        self._records.mkdir(parents=True, exist_ok=True)
        self._netns_prefix = netns_prefix
        prefix = ["nsenter", f"--net={node_netns}"]
        self.network, self._loopback = (
            Runtime(network, bin_dirs=[bin_dir], cache=folder / "results", prefix=prefix)
            for network in (load(conflist), _LOOPBACK)
        )

    async def run(self, pod: PodKey, *, uid: str, labels: Mapping[str, str], annotations: Mapping[str, str]) -> Sandbox:
        """Make a namespace and ADD it to the networks. Errors: those of the plugin."""
        sandbox_id = secrets.token_hex(32)
        name = f"{self._netns_prefix}-{sandbox_id[:12]}"
        sandbox = Sandbox(id=sandbox_id, pod=pod, uid=uid, ready=False, netns=str(_NETNS / name))
        self._store(sandbox)  # first, so that whatever happens from here on can be removed
        await _ip("netns", "add", name)
        await self._loopback.add(_container(sandbox, ifname="lo"))
        result = await self.network.add(_container(sandbox), capabilities=capabilities(annotations))
        addresses = [str(ip["address"]).partition("/")[0] for ip in result.get("ips", [])]
        sandbox = msgspec.structs.replace(sandbox, ready=True, addresses=addresses)
        self._store(sandbox)
        return sandbox

    async def find(self, pod: PodKey | None = None) -> list[str]:
        """The ids of a pod's sandboxes, or of all there are, newest first."""
        return [sandbox.id for sandbox in self._list() if pod in (None, sandbox.pod)]

    async def inspect(self, sandbox_id: str) -> Sandbox:
        """A sandbox as it was stored; NotFound."""
        try:
            return msgspec.json.decode(self._record(sandbox_id).read_bytes(), type=Sandbox)
        except FileNotFoundError as error:
            raise NotFound(f"no sandbox {sandbox_id}") from error

    async def exec(self, sandbox_id: str, argv: Sequence[str], *, timeout_s: float = 60.0) -> Executed:
        """Run one of the machine's programs in the pod's namespace."""
        sandbox = await self.inspect(sandbox_id)
        process = await asyncio.create_subprocess_exec(
            "nsenter",
            f"--net={sandbox.entry}",
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(timeout_s):
                stdout, stderr = await process.communicate()
        except (TimeoutError, asyncio.CancelledError):
            process.kill()
            await process.wait()
            raise
        return Executed(code=process.returncode or 0, stdout=stdout, stderr=stderr)

    async def stop(self, sandbox_id: str) -> None:
        """DEL with everything that is known, then end the namespace."""
        try:
            sandbox = await self.inspect(sandbox_id)
        except NotFound:
            return
        await self.network.delete(_container(sandbox))
        await self._loopback.delete(_container(sandbox, ifname="lo"))
        if sandbox.entry.exists():
            await _ip("netns", "del", sandbox.entry.name)
        self._store(msgspec.structs.replace(sandbox, ready=False, addresses=[]))

    async def remove(self, sandbox_id: str) -> None:
        """DEL once more, now without namespace and result, and forget the sandbox."""
        try:
            sandbox = await self.inspect(sandbox_id)
        except NotFound:
            return
        gone = msgspec.structs.replace(sandbox, netns="")
        await self.network.delete(_container(gone))
        await self._loopback.delete(_container(gone, ifname="lo"))
        self._record(sandbox_id).unlink(missing_ok=True)

    def _record(self, sandbox_id: str) -> Path:
        return self._records / f"{sandbox_id}.json"

    def _store(self, sandbox: Sandbox) -> None:
        fresh = self._record(sandbox.id).with_suffix(".new")
        fresh.write_bytes(msgspec.json.encode(sandbox))
        fresh.rename(self._record(sandbox.id))

    def _list(self) -> list[Sandbox]:
        found = []
        for path in self._records.glob("*.json"):
            try:
                found.append((path.stat().st_mtime_ns, msgspec.json.decode(path.read_bytes(), type=Sandbox)))
            except FileNotFoundError:
                continue  # removed meanwhile
        return [sandbox for _, sandbox in sorted(found, key=lambda pair: pair[0], reverse=True)]


def _container(sandbox: Sandbox, *, ifname: str = "eth0") -> Container:
    return Container(
        id=sandbox.id,
        netns=sandbox.netns,
        ifname=ifname,
        args={
            "IgnoreUnknown": "1",
            "K8S_POD_NAMESPACE": sandbox.pod.namespace,
            "K8S_POD_NAME": sandbox.pod.name,
            "K8S_POD_INFRA_CONTAINER_ID": sandbox.id,
            "K8S_POD_UID": sandbox.uid,
        },
    )


async def _ip(*argv: str) -> None:
    process = await asyncio.create_subprocess_exec("ip", *argv, stderr=asyncio.subprocess.PIPE)
    _, stderr = await process.communicate()
    if process.returncode != 0:
        raise Internal(f"ip {' '.join(argv)}: {stderr.decode(errors='replace').strip()}")
