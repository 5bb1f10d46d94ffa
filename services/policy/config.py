"""Section `policy` of the node's configuration."""

import msgspec


class PolicyConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that can be set about this service."""

    network_policy: bool = False
    """Enforce NetworkPolicy. Off by default; then nothing watches the API server."""
    http_host: str = "127.0.0.1"
    http_port: int = 9099
    """Felix's health port, which existing probes ask (terway.md §10.5). 0: any free one."""

    def __post_init__(self) -> None:
        if self.network_policy:
            raise ValueError(
                "network_policy: true is not available in this version, which does not enforce policies yet; "
                "set it to false"
            )
        if not 0 <= self.http_port <= 65535:
            raise ValueError(f"http_port: expected 0 to 65535, got {self.http_port}")
