"""What `lab up` was asked for and what it made, on disk for every later command."""

from pathlib import Path
from typing import Literal

import msgspec

from compose.lab.control import NodeFacts
from compose.lab.layout import Layout
from shared.errors import Conflict, NotFound
from shared.model import Mode

Runtime = Literal["containerd", "cni"]
Stack = Literal["ipv4", "dual"]


class Options(msgspec.Struct, frozen=True):
    """What a lab can be asked for."""

    nodes: int = 2
    mode: Mode = Mode.SHARED_VETH
    stack: Stack = "ipv4"
    """`dual`: nodes and pods have an IPv6 address beside the IPv4 one."""
    """How pods get their address."""
    instance_type: str = "ecs.g6.2xlarge"
    pool: tuple[int, int] = (2, 5)
    """Fewest and most idle addresses that each node keeps."""
    runtime: Runtime = "containerd"
    netns_in_state_dir: bool = False
    """containerd keeps pods' namespaces where only its own mounts show them."""
    processes: bool = False
    """Each service is a process of its own, and nobody starts again what dies."""
    delays: str = "fast"
    """How long the cloud's calls take to have an effect."""
    cooldown_s: float = 30.0
    """How long a released address rests."""
    pool_sync_s: float = 120.0
    """How often ipam gives idle addresses above the most back (Terway's `ip_pool_sync_period`)."""
    kubeconfig: str | None = None
    """Absolute path: the API server of this one stands in for the lab's own."""
    log_level: str = "info"
    policy: bool = False
    """NetworkPolicy is enforced."""
    ipvlan_fallback: bool = False
    """shared-ipvlan on a kernel without IPvlan: nodes run shared-veth, with an event."""


class Record(msgspec.Struct, frozen=True):
    """A lab that is up. `about` is what the cloud says of itself: endpoints, credentials, vSwitches."""

    name: str
    options: Options
    nodes: list[NodeFacts]
    about: dict[str, object]
    created_at: float

    def facts(self, node: str) -> NodeFacts:
        """What the cloud says of a node; NotFound lists those that there are."""
        for facts in self.nodes:
            if facts.name == node:
                return facts
        raise NotFound(f"no node {node!r}; there are {', '.join(facts.name for facts in self.nodes)}")


def read(layout: Layout) -> Record:
    """The record of a lab that is up; NotFound when it is not, Conflict when it was killed half-way."""
    try:
        return msgspec.json.decode(layout.record.read_bytes(), type=Record)
    except FileNotFoundError as error:
        if layout.folder.exists():
            raise Conflict(f"lab {layout.lab} is coming up, or was left half-way: `lab down` removes it") from error
        raise NotFound(f"lab {layout.lab} is not up") from error


def write(layout: Layout, record: Record) -> None:
    """Say that the lab is up. The record holds credentials of its cloud, so it is for root alone."""
    fresh: Path = layout.record.with_suffix(".new")
    fresh.touch(mode=0o600)
    fresh.write_bytes(msgspec.json.format(msgspec.json.encode(record)))
    fresh.rename(layout.record)
