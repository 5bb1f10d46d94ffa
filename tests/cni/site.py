"""What the checklist needs of a node: an installed plugin, namespaces, and ways to break things.

`fakes.py` is such a site with fake neighbours behind a real gateway; a lab's node can be another.
"""

import json
import os
import subprocess
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

Json = dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """One exec of the plugin."""

    exit: int
    stdout: bytes
    stderr: bytes

    @property
    def json(self) -> Json:
        """Stdout as the JSON object that it must be."""
        value = json.loads(self.stdout)
        assert isinstance(value, dict)
        return value

    def ok(self) -> Json:
        """The result of a command that must succeed; {} for those that print nothing."""
        assert self.exit == 0, (self.exit, self.stdout, self.stderr)
        return self.json if self.stdout else {}

    def error(self, code: int, *fragments: str) -> Json:
        """The error object of a command that must fail with `code` and name the `fragments`."""
        assert self.exit != 0, (self.stdout, self.stderr)
        said = self.json
        assert said["code"] == code, said
        for fragment in fragments:
            assert fragment in said["msg"] + said.get("details", ""), (fragment, said)
        return said


@dataclass(frozen=True)
class Sandbox:
    """A container as a runtime sees it."""

    netns: str
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    pod: str = "web-0"
    ifname: str = "eth0"

    @property
    def args(self) -> str:
        """CNI_ARGS in one of the orders that containerd sends."""
        return (
            f"K8S_POD_NAME={self.pod};IgnoreUnknown=1;K8S_POD_INFRA_CONTAINER_ID={self.id};"
            f"K8S_POD_NAMESPACE=shop;K8S_POD_UID=5f0c8b1e-{self.id[:12]}"
        )

    @property
    def env(self) -> dict[str, str]:
        """The CNI variables but CNI_COMMAND and CNI_PATH."""
        return {
            "CNI_CONTAINERID": self.id,
            "CNI_NETNS": self.netns,
            "CNI_IFNAME": self.ifname,
            "CNI_ARGS": self.args,
        }


@dataclass(frozen=True)
class Plugin:
    """An installed shim, and how to exec it."""

    file: Path
    prefix: Sequence[str] = ()
    """Put before the program: an interpreter, or a way into a node."""

    def start(self, command: str | None, env: Mapping[str, str | None] = {}) -> subprocess.Popen[bytes]:
        """Exec it. A variable that is None is left out."""
        variables = {"CNI_COMMAND": command, "CNI_PATH": str(self.file.parent), "PATH": os.environ["PATH"], **env}
        return subprocess.Popen(
            [*self.prefix, str(self.file)],
            env={name: value for name, value in variables.items() if value is not None},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(
        self, command: str | None, config: Json | bytes, env: Mapping[str, str | None] = {}, *, patience_s: float = 20
    ) -> Outcome:
        """Exec it, give it `config` on stdin, and wait for its end."""
        process = self.start(command, env)
        stdin = config if isinstance(config, bytes) else json.dumps(config).encode()
        try:
            stdout, stderr = process.communicate(stdin, timeout=patience_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise
        return Outcome(process.returncode, stdout, stderr)


def config(version: str | None = "1.1.0", **extra: Any) -> Json:
    """A network configuration as it stands on stdin; `version` None leaves cniVersion out."""
    stated = {} if version is None else {"cniVersion": version}
    return {**stated, "name": "terway", "type": "terway", **extra}


@contextmanager
def namespace() -> Iterator[str]:
    """A network namespace of its own; the path that a runtime would give."""
    name = f"tw-c-{uuid.uuid4().hex[:8]}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        yield f"/run/netns/{name}"
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False, stderr=subprocess.DEVNULL)


class Site(Protocol):
    """A node with the plugin under test."""

    plugin: Plugin

    def sandbox(self, **fields: str) -> AbstractContextManager[Sandbox]:
        """A sandbox with a namespace of its own, disconnected again at the end whatever happened to it."""

    def held(self) -> set[tuple[str, str]]:
        """(container id, interface) of every lease, as ipam has it."""

    def wired(self) -> set[tuple[str, str]]:
        """The same of every attachment, as eni_manager has it."""

    def lose_interface(self, sandbox: Sandbox) -> None:
        """Somebody deletes the pod's interface."""

    def lose_reservation(self, sandbox: Sandbox) -> None:
        """Somebody takes the address out of ipam."""

    def lose_rules(self, sandbox: Sandbox) -> None:
        """Somebody deletes the pod's rules."""

    def exhausted(self) -> AbstractContextManager[None]:
        """No address is left meanwhile."""

    def impaired(self) -> AbstractContextManager[None]:
        """Meanwhile running pods may lack connectivity too."""

    def away(self, service: str) -> AbstractContextManager[None]:
        """`service` (ipam, eni_manager, policy, gateway) does not run meanwhile."""

    def add(self, sandbox: Sandbox, conf: Json | None = None, **env: str | None) -> Outcome:
        """ADD with the sandbox's variables."""

    def delete(self, sandbox: Sandbox, conf: Json | None = None, **env: str | None) -> Outcome:
        """DEL with the sandbox's variables."""
