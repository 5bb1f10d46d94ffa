"""ENIs as devices, against a small kubelet that speaks the API by descriptors of its own."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.eni_manager.adapters.device_plugin import DevicePlugin
from services.eni_manager.core.devices import allocation, device_list, registration
from tests.eni_manager.kubelet import Kubelet, asked, read


@asynccontextmanager
async def offering(folder: Path, count: Callable[[], int], said: Callable[[str], None] = print) -> AsyncIterator[None]:
    plugin = DevicePlugin(folder, count, look_every_s=0.05, list_every_s=0.05, said=said)
    task = asyncio.create_task(plugin.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 nobody tells
            await asyncio.sleep(0.01)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


async def test_kubelet_is_offered_every_eni_and_told_when_there_are_more(folder: Path) -> None:
    counts = [3]
    (folder / "17-eni.sock").touch()
    async with Kubelet(folder).running() as kubelet, offering(folder, lambda: counts[0]):
        registered = await kubelet.next()
        assert (registered.version, registered.resource_name) == ("v1beta1", "aliyun/eni")
        assert registered.endpoint.endswith("-eni.sock")
        assert (folder / registered.endpoint).stat().st_mode & 0o777 == 0o600
        assert [path.name for path in folder.glob("*-eni.sock")] == [registered.endpoint]
        async with kubelet.dial(registered) as channel:
            options = await channel.unary_unary("/v1beta1.DevicePlugin/GetDevicePluginOptions")(b"")
            assert not read("DevicePluginOptions", options).pre_start_required
            watching = channel.unary_stream("/v1beta1.DevicePlugin/ListAndWatch")(b"")
            found = read("ListAndWatchResponse", await watching.read()).devices
            assert [(one.ID, one.health) for one in found] == [(f"eni-{number}", "Healthy") for number in range(3)]
            counts[0] = 4
            async with asyncio.timeout(20):
                while len(read("ListAndWatchResponse", await watching.read()).devices) != 4:
                    pass
            answer = await channel.unary_unary("/v1beta1.DevicePlugin/Allocate")(asked(["eni-0"], ["eni-1", "eni-3"]))
            assert len(read("AllocateResponse", answer).container_responses) == 2
            watching.cancel()
    assert list(folder.glob("*-eni.sock")) == []


async def test_a_kubelet_that_starts_anew_is_registered_with_again(folder: Path) -> None:
    async with offering(folder, lambda: 1):
        await asyncio.sleep(0)  # no kubelet yet, and nothing fails
        for _ in range(2):
            async with Kubelet(folder).running() as kubelet:
                registered = await kubelet.next()
                async with kubelet.dial(registered) as channel:
                    watching = channel.unary_stream("/v1beta1.DevicePlugin/ListAndWatch")(b"")
                    assert len(read("ListAndWatchResponse", await watching.read()).devices) == 1
                    watching.cancel()


async def test_a_socket_that_somebody_removes_is_made_again(folder: Path) -> None:
    async with Kubelet(folder).running() as kubelet, offering(folder, lambda: 1):
        first = await kubelet.next()
        (folder / first.endpoint).unlink()
        again = await kubelet.next()
        await until(lambda: (folder / again.endpoint).exists())


async def test_a_kubelet_that_does_not_answer_is_told_of_and_tried_again(folder: Path) -> None:
    told: list[str] = []
    (folder / "kubelet.sock").touch()
    async with offering(folder, lambda: 1, told.append):
        await until(lambda: bool(told))
        assert told[0].startswith("aliyun/eni is not offered to kubelet: ")
        async with Kubelet(folder).running() as kubelet:
            await kubelet.next()
            await until(lambda: told[-1] == "")


def test_without_kubelet_grpc_is_not_imported() -> None:
    code = "import services.eni_manager.service, sys; print('grpc' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "False"


# ---- bytes


@given(st.text(max_size=300), st.text(max_size=200))
def test_a_registration_reads_as_it_was_written(endpoint: str, resource: str) -> None:
    said = read("RegisterRequest", registration(endpoint, resource))
    assert (said.version, said.endpoint, said.resource_name) == ("v1beta1", endpoint, resource)


@given(st.integers(0, 300))
def test_devices_are_numbered(count: int) -> None:
    found = read("ListAndWatchResponse", device_list("eni", count)).devices
    assert [one.ID for one in found] == [f"eni-{number}" for number in range(count)]


@given(st.lists(st.lists(st.text(max_size=200), max_size=4), max_size=5))
def test_each_container_is_answered(containers: list[list[str]]) -> None:
    assert len(read("AllocateResponse", allocation(asked(*containers))).container_responses) == len(containers)


@given(st.binary(max_size=64))
def test_bytes_that_are_no_request_are_refused_cleanly(noise: bytes) -> None:
    try:
        allocation(noise)
    except ValueError as refused:
        assert "device-plugin API" in str(refused)
