"""Section `cni_shim` of the node's configuration; the gateway reads it, and `install` bakes its part into the shim."""

import msgspec


class Deadlines(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whole seconds that one exec of the shim may take. The gateway plans to be done at four fifths of them."""

    add: int = 120
    """Terway's plugin has 120 s (terway.md §4.1): a new ENI may have to be made for the pod."""
    delete: int = msgspec.field(default=60, name="del")
    check: int = 60
    gc: int = 120
    status: int = 10

    def __post_init__(self) -> None:
        wrong = [
            f"{field.encode_name}: expected 1 to 3600, got {value}"
            for field in msgspec.structs.fields(self)
            if not 1 <= (value := getattr(self, field.name)) <= 3600
        ]
        if wrong:
            raise ValueError("\n".join(wrong))


class GatewayConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that can be set about this service."""

    http_host: str = "127.0.0.1"
    http_port: int = 9097
    """0: any free one."""
    deadlines: Deadlines = Deadlines()
    spool_period_s: float = 5.0
    """How often deferred DELs are tried again."""
    probe_period_s: float = 5.0
    """How often /readyz learns whether the neighbours listen."""
    drain_s: float = 10.0
    """How long running calls may go on after SIGTERM."""

    def __post_init__(self) -> None:
        if not 0 <= self.http_port <= 65535:
            raise ValueError(f"http_port: expected 0 to 65535, got {self.http_port}")
        for name in ("spool_period_s", "probe_period_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: expected more than 0, got {getattr(self, name)}")
