"""The policy service as a process, with NetworkPolicy off."""

import asyncio
import json
import signal
import sys
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from shared.contracts import policy as contract
from shared.errors import Unavailable
from shared.model import AttachmentKey, Ip, Mode, PodKey
from shared.rpc.client import Client

KEY = AttachmentKey("terway", "0123abcd", "eth0")


def write_config(folder: Path, **policy: object) -> Path:
    path = folder / "config.json"
    path.write_text(
        json.dumps({"node": {"run_dir": str(folder), "state_dir": str(folder)}, "policy": {"http_port": 0} | policy})
    )
    return path


@asynccontextmanager
async def policy(config: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.policy", "--config", str(config), stderr=asyncio.subprocess.PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await process.communicate()


async def http_port(process: asyncio.subprocess.Process) -> int:
    assert process.stderr is not None
    async for line in process.stderr:
        event = json.loads(line)
        if event["event"] == "http_serving":
            return int(event["port"])
    raise AssertionError("the service ended before it served")


async def answering(client: Client) -> None:
    """Wait until the socket answers."""
    while True:
        try:
            await client.call(contract.DETACH, contract.Detach(KEY))
            return
        except Unavailable:
            await asyncio.sleep(0.01)


async def test_off_means_that_pods_start_at_once(tmp_path: Path) -> None:
    async with policy(write_config(tmp_path)) as process, Client(tmp_path / "policy.sock") as client:
        port = await http_port(process)
        await answering(client)
        attached = await client.call(
            contract.ATTACH,
            contract.Attach(
                key=KEY,
                pod=PodKey("default", "a"),
                pod_uid="",
                mode=Mode.SHARED_VETH,
                host_link="calic048fd9a750",
                addresses=(Ip("192.168.32.17"),),
                netns="/run/netns/a",
            ),
        )
        assert attached == contract.Attached(enforced=False)
        assert (await client.call(contract.CHECK, contract.CheckAttached(KEY))).problems == []

        def get(path: str) -> dict[str, object]:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}") as answer:
                return json.load(answer)  # type: ignore[no-any-return]

        assert (await asyncio.to_thread(get, "/healthz"))["live"] is True
        assert (await asyncio.to_thread(get, "/readyz"))["ready"] is True
        state = await asyncio.to_thread(get, "/state")
        assert state.pop("configuration"), "what every service says"
        assert state == {"network_policy": "off", "watches": []}
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
    assert "policy.sock" not in {entry.name for entry in tmp_path.iterdir()}


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ({"gate_s": 60}, ("gate_s", "0.1 to 18")),
        ({"unready": "maybe"}, ("policy.unready", "retry, closed, open")),
        ({"failsafe_inbound": ["tcp:ssh"]}, ("failsafe_inbound", "'tcp:ssh'", "such as tcp:22")),
        ({"network_policy": True}, ("policy.network_policy", "off, observe, enforce")),
        ({"compat": "3.30"}, ("policy.compat", "3.24.5, 3.5.2, current")),
        ({"http_prot": 1}, ("policy.http_prot", "did you mean http_port?")),
        ({"http_port": 99099}, ("policy.http_port", "99099")),
    ],
)
async def test_bad_configuration_is_refused_with_the_way_out(
    tmp_path: Path, setting: dict[str, object], told: tuple[str, ...]
) -> None:
    async with policy(write_config(tmp_path, **setting)) as process:
        _, stderr = await process.communicate()
    assert process.returncode == 2
    for word in told:
        assert word in stderr.decode()
