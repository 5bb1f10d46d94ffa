"""Section `eni_manager` of the node's configuration, and with it Terway's `eni_conf`."""

from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from services.eni_manager.adapters.imds import BASE_URL
from services.eni_manager.core.preflight import OPEN_MODES, closed_gate
from services.eni_manager.core.wiring.symmetric import Marking
from shared.config import ConfigError, load
from shared.eni_conf import EniConf, load_eni_conf
from shared.model import Cidr, Mode

DUAL_MODES = (Mode.SHARED_VETH, Mode.SHARED_IPVLAN, Mode.EXCLUSIVE_ENI, Mode.VPC_ROUTE)
"""Modes whose pods may have an IPv6 address beside the IPv4 one."""

BESIDE_THE_NODE = (Mode.EXCLUSIVE_ENI, Mode.SHARED_IPVLAN)
"""Modes whose pods have a way into the VPC that does not cross the node's stack."""


class EniManagerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What eni_conf does not say. An empty endpoint means the one that the cloud's SDK derives from the region."""

    mode: Mode = Mode.SHARED_VETH
    """How pods get their address."""
    allowed_modes: tuple[Mode, ...] = OPEN_MODES
    """The gate: modes that may run on this cluster. IPvlan and exclusive ENIs are not among them unless listed."""
    ipvlan_fallback: bool = False
    """Where a node's kernel lacks what shared-ipvlan needs: run shared-veth, with an event, instead of nothing."""
    mtu: int = 1500
    """Of pods' and ENIs' interfaces, where the CNI configuration states no other."""
    http_host: str = "127.0.0.1"
    http_port: int = 9096
    """/healthz, /readyz, /state, /metrics. 0: any free one."""
    metadata_url: str = BASE_URL
    """Scheme and host of the instance metadata service."""
    ecs_endpoint: str = ""
    """Host, host:port or URL of the ECS API. The environment's ECS_ENDPOINT, where set, wins, as with Terway."""
    vpc_endpoint: str = ""
    """The same of the VPC API; VPC_ENDPOINT."""
    scheme: str = ""
    """http or https; ALICLOUD_CLIENT_SCHEME, else https."""
    endpoint_type: str = ""
    """public, or vpc for endpoints inside the VPC; ALICLOUD_ENDPOINT_TYPE, else vpc."""
    addon_secret_dir: Path = Path("/var/alibaba-addon-secret")
    """Where a managed cluster puts a key pair (terway.md §2.5)."""
    call_timeout_s: float = 20.0
    """One attempt of an OpenAPI call."""
    gather_s: float = 0.3
    """Demands that come within this time are met by one decision (terway.md §6.3)."""
    symmetric_routing: bool = True
    """Answers to what came in by the primary interface leave by it (terway.md §5.8, where it is off): NodePorts and
    host ports of pods need it. Terway's own key, `eni_conf.symmetric_routing`, counts before this one."""
    host_stack_cidrs: tuple[Cidr, ...] = (Cidr("169.254.20.10/32"),)
    """What pods reach by the node's own stack in the modes whose pods could bypass it (terway.md §2.3), beside the
    Services' ranges in `eni_conf.service_cidr`. As it is: NodeLocal DNS."""
    services_keep_source: bool = True
    """In the modes exclusive-eni and shared-ipvlan, backends of Services see the pod's own address, where the kernel
    lets us load BPF programs (for exclusive-eni, Linux 5.10 or later). False, or elsewhere: they see the pod's node,
    as with Terway (terway.md §5.3, §5.4)."""
    device_plugin_dir: Path = Path("/var/lib/kubelet/device-plugins")
    """In mode exclusive-eni, kubelet's folder of device plugins: pods may ask for `aliyun/eni` (terway.md §3.3), unless
    `eni_conf.disable_device_plugin` says otherwise."""
    route_table: str = ""
    """In mode vpc-route, the VPC's route table that gets this node's entries. Empty: the VPC's own (System)."""
    no_masquerade: tuple[Cidr, ...] = ()
    """In mode vpc-route, destinations that see pods' own addresses, beside the VPC's range and the cluster's pods."""
    device_wait_s: float = 10.0
    """How long to wait for an attached ENI to appear in the kernel, each time (terway.md §13 R7)."""

    def __post_init__(self) -> None:
        problems = []
        if closed := closed_gate(self.mode, self.allowed_modes):
            problems.append(f"mode: {closed}")
        if not 0 <= self.http_port <= 65535:
            problems.append(f"http_port: expected 0 to 65535, got {self.http_port}")
        if not 576 <= self.mtu <= 9000:
            problems.append(f"mtu: expected 576 to 9000, got {self.mtu}")
        if self.scheme.lower() not in ("", "http", "https"):
            problems.append(f"scheme: expected http or https, got {self.scheme!r}")
        if self.endpoint_type not in ("", "vpc", "public"):
            problems.append(f"endpoint_type: expected vpc or public, got {self.endpoint_type!r}")
        if not self.metadata_url.startswith(("http://", "https://")):
            problems.append(f"metadata_url: expected http://… or https://…, got {self.metadata_url!r}")
        problems += [
            f"{name}: expected more than 0, got {getattr(self, name):g}"
            for name in ("call_timeout_s", "device_wait_s")
            if getattr(self, name) <= 0
        ]
        problems += [
            f"{name}: {text!r} is no network"
            for name in ("no_masquerade", "host_stack_cidrs")
            for text in getattr(self, name)
            if not _is_network(text)
        ]
        if self.gather_s < 0:
            problems.append(f"gather_s: expected 0 or more, got {self.gather_s:g}")
        if problems:
            raise ValueError("\n".join(problems))


def _is_network(text: str) -> bool:
    try:
        return bool(ip_network(text))
    except ValueError:
        return False


class Settings(NamedTuple):
    """Everything that this service is configured by."""

    own: EniManagerConfig
    eni: EniConf

    @property
    def symmetric_routing(self) -> bool:
        """Terway's key, where it is given, else ours."""
        return self.own.symmetric_routing if self.eni.symmetric_routing is None else self.eni.symmetric_routing

    @property
    def marking(self) -> Marking:
        """By what symmetric routing is done."""
        given = self.eni.symmetric_routing_config
        return Marking(given.interface, given.mark, given.mask, given.table_id, given.rule_priority, given.comment)

    @property
    def host_stack(self) -> tuple[Cidr, ...]:
        """What pods reach by the node's own stack, in canonical form."""
        ranges = (*self.eni.service_cidrs, *self.own.host_stack_cidrs)
        return tuple(dict.fromkeys(Cidr(str(ip_network(text))) for text in ranges))


_ALIASES = {
    "ecs_endpoint": "ECS_ENDPOINT",
    "vpc_endpoint": "VPC_ENDPOINT",
    "scheme": "ALICLOUD_CLIENT_SCHEME",
    "endpoint_type": "ALICLOUD_ENDPOINT_TYPE",
}
"""Terway's variables (terway.md §2.5) are second names of ours."""


def read(path: Path | None, env: Mapping[str, str], patch: Mapping[str, Any] = {}) -> Settings:
    """Both sections; ConfigError has the problems of both."""
    problems: list[str] = []
    own, eni = EniManagerConfig(), EniConf()
    aliases = {f"TERWAY_ENI_MANAGER_{field.upper()}": env[name] for field, name in _ALIASES.items() if name in env}
    try:
        own = load(EniManagerConfig, section="eni_manager", path=path, env={**aliases, **env})
    except ConfigError as error:
        problems += error.problems
    try:
        eni = load_eni_conf(path, env, patch)
    except ConfigError as error:
        problems += error.problems
    if eni.ip_stack == "dual" and own.mode not in DUAL_MODES:
        problems.append(
            f"eni_conf.ip_stack: dual is not available in mode {own.mode}; set it to ipv4, or eni_manager.mode to "
            f"{' or '.join(DUAL_MODES)}"
        )
    problems += [f"eni_conf.symmetric_routing_config.{problem}" for problem in Settings(own, eni).marking.problems()]
    if own.mode in BESIDE_THE_NODE and not eni.service_cidrs:
        problems.append(
            f"eni_conf.service_cidr: mode {own.mode} needs the Services' range, for pods reach Services by their node; "
            "set it to the cluster's, such as 172.21.0.0/20"
        )
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    return Settings(own, eni)
