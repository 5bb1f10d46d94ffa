"""Section `policy` of the node's configuration."""

from typing import Literal

import msgspec


class PolicyConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that can be set about this service."""

    network_policy: Literal["off", "observe", "enforce"] = "off"
    """`off`: nothing watches the API server. `observe`: the calculation runs and can be asked, and nothing is enforced,
    as a dry run before a cluster moves from Calico. `enforce` is refused: nothing here enforces yet."""
    compat: Literal["3.24.5", "3.5.2", "current"] = "3.24.5"
    """The Felix to equal: what current Terway builds, what old Terway shipped, what later Felix does."""
    discovery_s: float = 60.0
    """How often the API server is asked for kinds that were added or removed."""
    http_host: str = "127.0.0.1"
    http_port: int = 9099
    """Felix's health port, which existing probes ask (terway.md §10.5). 0: any free one."""

    def __post_init__(self) -> None:
        if self.network_policy == "enforce":
            raise ValueError(
                "network_policy: enforce is not available in this version, which has no rules in the kernel yet; "
                "set it to off, or to observe for the calculation without enforcement"
            )
        if self.discovery_s < 1:
            raise ValueError(f"discovery_s: expected at least 1, got {self.discovery_s:g}")
        if not 0 <= self.http_port <= 65535:
            raise ValueError(f"http_port: expected 0 to 65535, got {self.http_port}")
