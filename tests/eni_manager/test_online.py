"""`terwayctl capacity --online`, asked of the lab's cloud as a person asks it."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio
from aiohttp.test_utils import TestServer
from click.testing import CliRunner, Result

from compose.lab.cloud import Account, build_app
from compose.lab.cloud.core.account import Layout
from compose.lab.cloud.core.model import AccessKey
from services.ctl import main

KEYS = {"ALIBABA_CLOUD_ACCESS_KEY_ID": "ak", "ALIBABA_CLOUD_ACCESS_KEY_SECRET": "secret"}


@pytest_asyncio.fixture
async def endpoint() -> AsyncIterator[str]:
    account = Account(Layout())
    account.add_key(AccessKey("ak", "secret"))
    async with TestServer(build_app(account)) as server:
        yield f"127.0.0.1:{server.port}"


async def ask(endpoint: str, *arguments: str, env: dict[str, str] = KEYS) -> Result:
    """The command has an event loop of its own, so it runs in a thread."""
    environment = {"ECS_ENDPOINT": endpoint, "ALICLOUD_CLIENT_SCHEME": "HTTP", **env}
    return await asyncio.to_thread(CliRunner().invoke, main, ["capacity", *arguments, "--online"], env=environment)


async def test_the_cloud_is_asked(endpoint: str) -> None:
    done = await ask(endpoint, "ecs.g6.2xlarge", "--region", "cn-lab", "--mode", "shared", "--json")
    assert done.exit_code == 0, done.output
    answer = json.loads(done.output)
    assert answer["type"]["name"] == "ecs.g6.2xlarge"
    assert answer["capacity"] == [
        {"mode": "shared", "pods": 30, "formula": "3 ENIs beside the primary one × 10 addresses"}
    ]


async def test_what_the_cloud_refuses_is_one_sentence(endpoint: str) -> None:
    unknown = await ask(endpoint, "ecs.never.large", "--region", "cn-lab")
    assert unknown.exit_code == 1 and "ecs.never.large" in unknown.output
    wrong = await ask(
        endpoint, "ecs.g6.2xlarge", "--region", "cn-lab", env=KEYS | {"ALIBABA_CLOUD_ACCESS_KEY_SECRET": "hunter2"}
    )
    assert wrong.exit_code == 1 and "Signature" in wrong.output and "hunter2" not in wrong.output


async def test_a_nodes_file_has_keys_and_region(endpoint: str, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    conf = {"access_key": "ak", "access_secret": "secret", "region_id": "cn-lab"}
    own = {"addon_secret_dir": str(tmp_path / "none")}
    file.write_text(json.dumps({"eni_conf": conf, "eni_manager": own}))
    done = await ask(endpoint, "ecs.g6.2xlarge", "--config", str(file), env=dict.fromkeys(KEYS, ""))
    assert done.exit_code == 0 and "30 pods" in done.output
