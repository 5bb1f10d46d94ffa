"""`terwayctl capacity --online`, asked of the lab's cloud as a person asks it."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest
from aiohttp.test_utils import TestServer
from click.testing import CliRunner, Result

from compose.lab.cloud import Account, build_app
from compose.lab.cloud.core.account import Layout
from compose.lab.cloud.core.model import AccessKey
from services.ctl import main

KEYS = {"ALIBABA_CLOUD_ACCESS_KEY_ID": "ak", "ALIBABA_CLOUD_ACCESS_KEY_SECRET": "secret"}


@pytest.fixture
def endpoint() -> Iterator[str]:
    """The cloud serves from a thread, as the command has an event loop of its own."""
    account = Account(Layout())
    account.add_key(AccessKey("ak", "secret"))
    with asyncio.Runner() as runner:
        server = TestServer(build_app(account))
        runner.run(server.start_server())
        loop = runner.get_loop()
        thread = Thread(target=loop.run_forever)
        thread.start()
        yield f"127.0.0.1:{server.port}"
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        runner.run(server.close())


def ask(endpoint: str, *arguments: str, env: dict[str, str] = KEYS) -> Result:
    environment = {"ECS_ENDPOINT": endpoint, "ALICLOUD_CLIENT_SCHEME": "HTTP", **env}
    return CliRunner().invoke(main, ["capacity", *arguments, "--online"], env=environment)


def test_the_cloud_is_asked(endpoint: str) -> None:
    done = ask(endpoint, "ecs.g6.2xlarge", "--region", "cn-lab", "--mode", "shared", "--json")
    assert done.exit_code == 0, done.output
    answer = json.loads(done.output)
    assert answer["type"]["name"] == "ecs.g6.2xlarge"
    assert answer["capacity"] == [
        {"mode": "shared", "pods": 30, "formula": "3 ENIs beside the primary one × 10 addresses"}
    ]


def test_what_the_cloud_refuses_is_one_sentence(endpoint: str) -> None:
    unknown = ask(endpoint, "ecs.never.large", "--region", "cn-lab")
    assert unknown.exit_code == 1 and "ecs.never.large" in unknown.output
    wrong = ask(
        endpoint, "ecs.g6.2xlarge", "--region", "cn-lab", env=KEYS | {"ALIBABA_CLOUD_ACCESS_KEY_SECRET": "hunter2"}
    )
    assert wrong.exit_code == 1 and "Signature" in wrong.output and "hunter2" not in wrong.output


def test_a_nodes_file_has_keys_and_region(endpoint: str, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    conf = {"access_key": "ak", "access_secret": "secret", "region_id": "cn-lab"}
    own = {"addon_secret_dir": str(tmp_path / "none")}
    file.write_text(json.dumps({"eni_conf": conf, "eni_manager": own}))
    done = ask(endpoint, "ecs.g6.2xlarge", "--config", str(file), env=dict.fromkeys(KEYS, ""))
    assert done.exit_code == 0 and "30 pods" in done.output
