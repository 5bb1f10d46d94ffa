"""Section `ipam` of the node's configuration. The pool's size is Terway's own setting, in `eni_conf`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from shared.config import ConfigError, load
from shared.eni_conf import EniConf, load_eni_conf


class IpamConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that can be set about this service. Times are seconds."""

    http_host: str = "127.0.0.1"
    http_port: int = 9441
    """/healthz, /readyz, /state, /metrics. 0: any free port."""
    cooldown_s: float = 30.0
    """How long a released address rests before another pod may have it, whatever waits for it: peers and load
    balancers still believe in its last owner."""
    sticky_s: float = 300.0
    """How long a released address waits for its pod, if that belongs to a StatefulSet or a kind treated so, or asks for
    it by annotation (terway.md §3.1). 0: no address waits."""
    acquire_wait_s: float = 90.0
    """The longest that an ADD waits for an address; a caller's own deadline may end it sooner."""
    watch_wait_s: float = 30.0
    """How long eni_manager may hold back its answer while the inventory does not change."""
    annotate_pods: bool = False
    """Write a pod's addresses on its object as soon as it has them (annotation `k8s.aliyun.com/pod-ips`), for policies
    of other nodes, which would wait for kubelet's status otherwise. One request per pod; on where NetworkPolicy is."""
    garbage_period_s: float = 300.0
    """How often leases are compared with this node's pods and with what is connected (terway.md §8.2)."""
    garbage_confirm_s: float = 60.0
    """How long a lease stays suspected before a second look may confirm it."""
    garbage_min_age_s: float = 180.0
    """Younger leases are not suspected: their ADD may still be under way."""

    def __post_init__(self) -> None:
        problems = []
        if not 0 <= self.http_port <= 65535:
            problems.append(f"http_port: expected 0 to 65535, got {self.http_port}")
        if not self.cooldown_s >= 0:
            problems.append(f"cooldown_s: expected 0 or more, got {self.cooldown_s:g}")
        if not self.sticky_s >= 0:
            problems.append(f"sticky_s: expected 0 or more, got {self.sticky_s:g}")
        if not 0 < self.watch_wait_s <= 60:
            problems.append(f"watch_wait_s: expected more than 0 and at most 60, got {self.watch_wait_s:g}")
        problems += [
            f"{name}: expected more than 0, got {getattr(self, name):g}"
            for name in ("acquire_wait_s", "garbage_period_s", "garbage_confirm_s", "garbage_min_age_s")
            if not getattr(self, name) > 0
        ]
        if problems:
            raise ValueError("\n".join(problems))


class Settings(NamedTuple):
    """All that ipam is configured with, beside section `node`."""

    ipam: IpamConfig = IpamConfig()
    eni_conf: EniConf = EniConf()


def read(path: Path | None, env: Mapping[str, str], patch: Mapping[str, Any] = {}) -> Settings:
    """Both sections from the node's file. ConfigError has the problems of both."""
    problems: list[str] = []
    ipam, eni_conf = IpamConfig(), EniConf()
    try:
        ipam = load(IpamConfig, section="ipam", path=path, env=env)
    except ConfigError as error:
        problems += error.problems
    try:
        eni_conf = load_eni_conf(path, env, patch)
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise ConfigError(problems)
    return Settings(ipam, eni_conf)
