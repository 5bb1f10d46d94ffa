"""A small kubelet that speaks the device-plugin API by descriptors of its own: it judges ours."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from grpc import aio

from compose.lab.containerd.proto import Schema

API = Schema(
    """
    syntax = "proto3";
    package v1beta1;
    message DevicePluginOptions { bool pre_start_required = 1; bool get_preferred_allocation_available = 2; }
    message RegisterRequest {
        string version = 1; string endpoint = 2; string resource_name = 3; DevicePluginOptions options = 4;
    }
    message Device { string ID = 1; string health = 2; }
    message ListAndWatchResponse { repeated Device devices = 1; }
    message ContainerAllocateRequest { repeated string devices_ids = 1; }
    message AllocateRequest { repeated ContainerAllocateRequest container_requests = 1; }
    message ContainerAllocateResponse { map<string, string> envs = 1; }
    message AllocateResponse { repeated ContainerAllocateResponse container_responses = 1; }
    """,
    file_name="test/deviceplugin.proto",
)


def read(kind: str, data: bytes) -> Any:
    message = API.message(kind)()
    message.ParseFromString(data)
    return message


def asked(*containers: list[str]) -> bytes:
    request = API.message("AllocateRequest")()
    for devices in containers:
        request.container_requests.add().devices_ids.extend(devices)
    return request.SerializeToString()


class Kubelet:
    """Takes registrations, and dials back as kubelet does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.registered: asyncio.Queue[Any] = asyncio.Queue()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Kubelet"]:
        """A start of kubelet: whatever sockets are in its folder go."""
        for old in self.folder.glob("*.sock"):
            old.unlink()
        server = aio.server()
        handler = grpc.unary_unary_rpc_method_handler(self._register)
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("v1beta1.Registration", {"Register": handler}),)
        )
        server.add_insecure_port(f"unix:{self.folder / 'kubelet.sock'}")
        await server.start()
        try:
            yield self
        finally:
            await server.stop(0)

    async def _register(self, request: bytes, context: Any) -> bytes:
        await self.registered.put(read("RegisterRequest", request))
        return b""

    async def next(self) -> Any:
        async with asyncio.timeout(20):
            return await self.registered.get()

    def dial(self, registered: Any) -> aio.Channel:
        return aio.insecure_channel(f"unix:{self.folder / registered.endpoint}")
