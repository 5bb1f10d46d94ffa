"""compose/docker-compose.yml brought up on an engine, and what a developer asks of it."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any, Final

from compose.lab.layout import NETNS
from compose.lab.netns import http_get
from compose.lab.waiting import until
from tests.compose.engine import REPOSITORY, Engine, run

PORTS: Final = {"eni_manager": 9096, "ipam": 9441, "policy": 9099, "gateway": 9097}
"""The node's services and where each says how it is."""


class Stack:
    """One project on one engine. Its lab has a name of its own, so that it meets no other lab of the machine."""

    def __init__(self, engine: Engine, *, lab: str, base: str) -> None:
        self.engine = engine
        self.lab = lab
        self._env = {**engine.env, "TERWAY_LAB": lab, "TERWAY_BASE": base}

    def compose(self, *arguments: str, timeout_s: float = 120, beside: str = "") -> str:
        """Run `docker compose …`, with another file `beside` the usual one."""
        program = REPOSITORY / "build/docker-compose"
        files = [REPOSITORY / "compose" / name for name in ("docker-compose.yml", beside) if name]
        argv = [str(program), "--project-name", f"test-{self.lab}"]
        argv += [*(part for file in files for part in ("--file", str(file))), *arguments]
        return run(argv, env=self._env, timeout_s=timeout_s)

    def up(self) -> None:
        """Bring everything up, and wait until every service is ready."""
        try:
            self.compose("up", "--detach", "--wait", "--wait-timeout", "90", "--no-build")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.compose('logs', '--no-color', '--tail', '20')}") from None
        self.wait_ready()

    def down(self) -> float:
        """Take everything down. Returns how long it took, in seconds."""
        began = time.monotonic()
        self.compose("down", "--volumes")
        return time.monotonic() - began

    def lab_command(self, *arguments: str) -> str:
        """`terwayctl lab …`, on the node."""
        return self.compose("exec", "-T", "node", "terwayctl", "lab", *arguments)

    # ---- how they are

    def container(self, service: str) -> dict[str, Any]:
        """What the engine knows of a service's container."""
        inspected = json.loads(self.engine.docker("inspect", f"test-{self.lab}-{service}-1"))
        found: dict[str, Any] = inspected[0]
        return found

    def ask(self, service: str, path: str) -> tuple[int, dict[str, Any]]:
        """GET a page of a service: its status, 0 when nobody answers, and its JSON."""
        netns = Path(f"/proc/{self.container('node')['State']['Pid']}/ns/net")
        try:
            status, body = http_get(netns, PORTS[service], path)
        except OSError as error:
            return 0, {"missing": [str(error)]}
        return status, json.loads(body)

    def wait_ready(self, within_s: float = 60) -> None:
        """Wait until all services are ready."""
        for service in PORTS:
            self.wait_missing(service, "", within_s=within_s)

    def wait_missing(self, service: str, what: str, *, within_s: float = 30) -> None:
        """Wait until a service's /readyz names `what` as missing; "": until it is ready."""

        async def differs() -> str:
            status, said = self.ask(service, "/readyz")
            missing = said["missing"]
            if what:
                return "" if status == 503 and any(why.startswith(f"{what}: ") for why in missing) else str(said)
            return "" if status == 200 and not missing else str(said)

        asyncio.run(until(differs, what=f"{service} misses {what or 'nothing'}", within_s=within_s, every_s=0.2))

    def wait_policy(self, network_policy: str, within_s: float = 90) -> None:
        """Wait until the policy service serves by that setting, with all that is in force."""

        async def differs() -> str:
            status, said = self.ask("policy", "/state")
            ready = status == 200 and said.get("network_policy") == network_policy
            return "" if ready and (network_policy == "off" or said.get("settled")) else str(said)[:500]

        asyncio.run(until(differs, what=f"policy is {network_policy}", within_s=within_s, every_s=0.2))

    def namespaces(self) -> list[str]:
        """Every network namespace of this lab that the machine has a name for."""
        return sorted(path.name for path in NETNS.glob(f"tw-{self.lab}-*"))
