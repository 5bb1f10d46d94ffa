"""A service whose configuration changes while it runs: by file, by signal, by the cluster, for better and for worse."""

import asyncio
import json
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import pytest_asyncio

from compose.lab.kubeapi import KubeApi
from shared.config import ConfigError, NodeConfig
from shared.eni_conf import EniConf, load_eni_conf
from shared.errors import Refused
from shared.reload import STATUS, Reloading, Settled, Source


class Own(NamedTuple):
    """What the service under test reads."""

    eni: EniConf


def read(path: Path | None, env: Mapping[str, str], patch: Mapping[str, Any] = {}) -> Own:
    return Own(load_eni_conf(path, env, patch))


class Service:
    """Serves, and remembers under what."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "config.json"
        self.eni_file = folder / "eni.json"
        self.node: dict[str, Any] = {"state_dir": str(folder / "state")}
        self.served: list[EniConf] = []
        self.refuses: Callable[[EniConf], bool] = lambda conf: False
        self.stop = asyncio.Event()
        self.may_end = asyncio.Event()
        self.may_end.set()
        self.ending = asyncio.Event()

    def write(self, eni_conf: object) -> None:
        """As a mounted ConfigMap changes: another file takes the name."""
        fresh = self.eni_file.with_suffix(".new")
        fresh.write_text(eni_conf if isinstance(eni_conf, str) else json.dumps(eni_conf))
        os.replace(fresh, self.eni_file)
        self.file.write_text(json.dumps({"node": self.node, "eni_conf": str(self.eni_file)}))

    async def serve(self, node: NodeConfig, own: Own, stop: asyncio.Event) -> None:
        if self.refuses(own.eni):
            raise Refused("the port is taken")
        self.served.append(own.eni)
        await stop.wait()
        self.ending.set()
        await self.may_end.wait()

    @asynccontextmanager
    async def running(
        self, *, patched: bool = False, look_every_s: float = 0.01, cluster_wait_s: float = 10.0
    ) -> AsyncIterator[Reloading[Own]]:
        source = Source(self.file, {}, read, patched=patched)
        reloading = Reloading(
            "ipam", source, source.settle(), self.serve, look_every_s=look_every_s, cluster_wait_s=cluster_wait_s
        )
        running = asyncio.create_task(reloading.run(self.stop))
        try:
            await until(lambda: bool(self.served) or running.done())
            yield reloading
        finally:
            self.stop.set()
            await running


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


@pytest_asyncio.fixture
async def service(tmp_path: Path) -> Service:
    service = Service(tmp_path)
    service.write({"max_pool_size": 5})
    return service


async def test_a_changed_file_is_served_under(service: Service) -> None:
    async with service.running() as reloading:
        service.write({"max_pool_size": 7, "vswitches": {"a": ["vsw-1"]}, "access_secret": "hunter2"})
        await until(lambda: len(service.served) == 2)
    assert [conf.max_pool_size for conf in service.served] == [5, 7]
    assert sorted(reloading.status.changed) == [
        "eni_conf.access_secret",
        "eni_conf.max_pool_size",
        "eni_conf.vswitches",
    ]
    assert reloading.status.new_enis_only == ["eni_conf.vswitches"]
    assert STATUS.get() is None, "a service's status is its own"


async def test_what_is_said_to_be_in_force_is(service: Service) -> None:
    """As long as the service ends under the old one; and the latest file wins, also if it is the old one again."""
    async with service.running() as reloading:
        since = reloading.status.since
        service.may_end.clear()
        service.write({"max_pool_size": 7})
        await asyncio.wait_for(service.ending.wait(), 10)
        assert (reloading.status.since, reloading.status.changed) == (since, [])
        service.may_end.set()
        await until(lambda: len(service.served) == 2)
        assert reloading.status.since > since and reloading.status.changed == ["eni_conf.max_pool_size"]

        service.may_end.clear()
        service.ending.clear()
        service.write({"max_pool_size": 5})
        await asyncio.wait_for(service.ending.wait(), 10)
        service.write({"max_pool_size": 7})
        await until(lambda: reloading.expected.own.eni.max_pool_size == 7)
        service.may_end.set()
        await until(lambda: len(service.served) == 3)
    assert [conf.max_pool_size for conf in service.served] == [5, 7, 7]


async def test_a_bad_change_is_said_and_the_old_one_serves_on(service: Service) -> None:
    async with service.running() as reloading:
        service.write({"max_pool_size": 5, "min_pool_size": 9, "service_cidr": "10.0.0.1/8"})
        await until(lambda: bool(reloading.status.problems))
        assert len(reloading.status.problems) == 2, "all at once"
        assert any("min_pool_size: 9 is more than max_pool_size, 5" in text for text in reloading.status.problems)
        service.write("{")
        await until(lambda: any("not JSON" in text for text in reloading.status.problems))
        assert len(service.served) == 1
        service.write({"max_pool_size": 5})
        await until(lambda: not reloading.status.problems)
    assert len(service.served) == 1, "nothing had changed"


async def test_a_change_that_the_service_refuses_is_taken_back(service: Service) -> None:
    service.refuses = lambda conf: conf.max_pool_size == 6
    async with service.running() as reloading:
        service.write({"max_pool_size": 6})
        await until(lambda: len(service.served) == 2)
        assert reloading.status.problems == ["the port is taken; the former configuration serves again"]
        service.write({"max_pool_size": 8})
        await until(lambda: len(service.served) == 3)
        assert not reloading.status.problems
    assert [conf.max_pool_size for conf in service.served] == [5, 5, 8]


async def test_what_is_refused_at_the_start_ends_it(service: Service) -> None:
    service.refuses = lambda conf: True
    with pytest.raises(Refused, match="the port is taken"):
        async with service.running():
            pass


async def test_sighup_does_not_wait_for_the_next_look(service: Service) -> None:
    async with service.running(look_every_s=3600):
        service.write({"max_pool_size": 7})
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: len(service.served) == 2)


# ---- what the cluster says of the node (terway.md §2.4)


class Cluster:
    """The lab's API server on loopback, which can go away."""

    def __init__(self) -> None:
        self.kube = KubeApi(history=50, bookmark_s=0.05, first_version=1)
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]

    @asynccontextmanager
    async def up(self) -> AsyncIterator[None]:
        async with self.kube.serving([socket.create_server(("127.0.0.1", self.port))]):
            yield

    def says(self, eni_conf: str | None, *, label: str = "pool-a") -> None:
        self._put("nodes", "Node", ("", "n1"), {"labels": {"terway-config": label}})
        if eni_conf is not None:
            self._put("configmaps", "ConfigMap", ("kube-system", label), {}, data={"eni_conf": eni_conf})

    def _put(self, plural: str, kind: str, name: tuple[str, str], meta: dict[str, Any], **rest: object) -> None:
        meta = {"namespace": name[0], "name": name[1], **meta}
        self.kube.store.put(("", plural), name, {"apiVersion": "v1", "kind": kind, "metadata": meta, **rest})

    def events(self) -> list[str]:
        return [event["message"] for event in self.kube.store.all(("", "events")).values()]


@pytest.fixture
def cluster(service: Service) -> Cluster:
    cluster = Cluster()
    service.node |= {"node_name": "n1", "kube": {"server": f"http://127.0.0.1:{cluster.port}"}}
    service.write({"max_pool_size": 5, "vswitches": {"a": ["vsw-1"], "b": ["vsw-2"]}, "prefix": "x"})
    return cluster


async def test_the_nodes_configmap_is_merged_over(service: Service, cluster: Cluster) -> None:
    cluster.says('{"vswitches": {"a": ["vsw-9"]}, "prefix": null}')
    async with cluster.up(), service.running(patched=True):
        pass
    [conf] = service.served
    assert conf == EniConf(max_pool_size=5, vswitches={"a": ["vsw-9"], "b": ["vsw-2"]})


async def test_a_missing_configmap_keeps_the_default(service: Service, cluster: Cluster) -> None:
    cluster.says(None)
    async with cluster.up(), service.running(patched=True):
        pass
    assert service.served[0].prefix == "x"


@pytest.mark.parametrize("bad", ["{", "[1]", '{"max_pool_size": "five"}'])
async def test_a_malformed_one_is_an_error_at_the_first_start(service: Service, cluster: Cluster, bad: str) -> None:
    cluster.says(bad)
    with pytest.raises(ConfigError):
        async with cluster.up(), service.running(patched=True):
            pass
    assert not service.served


async def test_a_change_comes_with_sighup_and_a_bad_one_is_an_event(service: Service, cluster: Cluster) -> None:
    cluster.says('{"max_pool_size": 6}')
    async with cluster.up(), service.running(patched=True, look_every_s=3600) as reloading:
        cluster.says('{"max_pool_size": 7}')
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: len(service.served) == 2)
        cluster.says('{"max_pool_size": -1}')
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: len(cluster.events()) == 1)
        assert "max_pool_size: expected 0 or more, got -1" in cluster.events()[0]
        assert reloading.status.problems
    assert [conf.max_pool_size for conf in service.served] == [6, 7]


async def test_out_of_reach_what_was_heard_last_counts(service: Service, cluster: Cluster) -> None:
    cluster.says('{"max_pool_size": 6}')
    async with cluster.up(), service.running(patched=True):
        pass
    again = Service(service.file.parent)
    async with again.running(patched=True):
        pass
    assert again.served[0].max_pool_size == 6
    kept = service.file.parent / "state" / "node_patch.json"
    assert (json.loads(kept.read_text()), [path.name for path in kept.parent.iterdir()]) == (
        {"max_pool_size": 6},
        ["node_patch.json"],
    )


@pytest.fixture
def hanging(cluster: Cluster) -> Iterator[Callable[[], str]]:
    """The API server's port takes connections and answers nobody; says what it was asked first."""
    with socket.create_server(("127.0.0.1", cluster.port)) as listening:

        def asked() -> str:
            with listening.accept()[0] as connection:
                return connection.recv(1000).decode().partition(" HTTP")[0]

        listening.settimeout(10)
        yield asked


async def test_a_hanging_cluster_does_not_keep_a_service_from_starting(
    service: Service, hanging: Callable[[], str]
) -> None:
    async with service.running(patched=True, cluster_wait_s=0.05):
        pass
    assert [conf.max_pool_size for conf in service.served] == [5]
    assert hanging() == "GET /api/v1/nodes/n1"


async def test_a_hanging_cluster_does_not_keep_the_former_configuration_from_serving(
    service: Service, hanging: Callable[[], str]
) -> None:
    service.refuses = lambda conf: conf.max_pool_size == 6
    async with service.running(cluster_wait_s=0.05) as reloading:
        service.write({"max_pool_size": 6})
        await until(lambda: len(service.served) == 2)
        assert reloading.status.problems == ["the port is taken; the former configuration serves again"]
    assert service.served[1] == service.served[0]
    assert hanging() == "POST /api/v1/namespaces/default/events", "it did try to say so"


async def test_a_hanging_cluster_does_not_keep_a_good_change_waiting(
    service: Service, hanging: Callable[[], str]
) -> None:
    async with service.running(cluster_wait_s=0.05) as reloading:
        service.write("{")
        await until(lambda: bool(reloading.status.problems))
        service.write({"max_pool_size": 7})
        await until(lambda: len(service.served) == 2)
        assert not reloading.status.problems
    assert hanging() == "POST /api/v1/namespaces/default/events", "it did try to say so"


def test_secrets_are_no_part_of_what_is_said() -> None:
    from shared.reload import differences
    from shared.secret import Secret

    old = Settled(NodeConfig(), Own(EniConf(access_key=Secret("a"))))
    new = Settled(NodeConfig(log_level="debug"), Own(EniConf(access_key=Secret("b"))))
    assert differences("ipam", old, new) == ["node.log_level", "eni_conf.access_key"]
