"""One run of a plugin's program (CNI spec section 2, "Execution Protocol")."""

import asyncio
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from compose.lab.runtime_cni.conflist import Json
from shared.errors import NotFound, SuiteError

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class PluginFailed(SuiteError):
    """The plugin exited non-zero. `cni_code` is the code of its error object, 999 when it printed none."""

    code: ClassVar[str] = "plugin_failed"

    def __init__(
        self, plugin: str, command: str, *, cni_code: int, msg: str, details: str = "", stderr: str = ""
    ) -> None:
        super().__init__(f"{plugin} {command}: code {cni_code}: {msg}{f' ({details})' if details else ''}")
        self.cni_code = cni_code
        self.details = details
        self.stderr = stderr


@dataclass(frozen=True, slots=True)
class Container:
    """What the CNI variables say about one sandbox. `netns` is empty once the namespace is gone."""

    id: str
    netns: str
    ifname: str = "eth0"
    args: Mapping[str, str] = field(default_factory=dict)


async def run(
    plugin: str,
    command: str,
    stdin: Json,
    *,
    bin_dirs: Sequence[Path],
    container: Container | None = None,
    prefix: Sequence[str] = (),
) -> Json | None:
    """Run the program and return what it printed, None when that is nothing. PluginFailed, NotFound.

    `prefix` is put before the program: how to enter the node that it is to run in.
    """
    program = next((folder / plugin for folder in bin_dirs if (folder / plugin).exists()), None)
    if program is None:
        raise NotFound(f"no plugin {plugin!r} in {':'.join(map(str, bin_dirs))}")
    env = {"PATH": _PATH, "CNI_COMMAND": command, "CNI_PATH": ":".join(map(str, bin_dirs))}
    if container is not None:
        pairs = [f"{name}={value}" for name, value in container.args.items()]
        random.shuffle(pairs)  # as containerd's do, whose arguments come out of a Go map
        env |= {"CNI_CONTAINERID": container.id, "CNI_IFNAME": container.ifname, "CNI_ARGS": ";".join(pairs)}
        env["CNI_NETNS"] = container.netns
    process = await asyncio.create_subprocess_exec(
        *prefix,
        str(program),
        env=env,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        stdout, stderr = await process.communicate(json.dumps(stdin).encode())
    except asyncio.CancelledError:
        process.kill()
        await process.wait()
        raise
    if process.returncode == 0:
        return _object(stdout)
    said = _object(stdout) or {}
    raise PluginFailed(
        plugin,
        command,
        cni_code=said.get("code", 999),
        msg=said.get("msg") or f"exit code {process.returncode} without an error object",
        details=said.get("details", ""),
        stderr=stderr.decode(errors="replace"),
    )


def _object(stdout: bytes) -> Json | None:
    try:
        said = json.loads(stdout)
    except ValueError:
        return None
    return said if isinstance(said, dict) else None
