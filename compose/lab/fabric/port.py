"""What is plugged in, as a value: everything that the kernel is told about an ENI follows from one of these."""

import msgspec

from shared.model import Cidr, Ip, Mac


class Subnet(msgspec.Struct, frozen=True):
    """A vSwitch; without `cidr6` it has no IPv6."""

    name: str
    cidr: Cidr
    gateway: Ip
    cidr6: Cidr = Cidr("")
    gateway6: Ip = Ip("")

    @property
    def prefix(self) -> str:
        """`/20`."""
        return "/" + self.cidr.partition("/")[2]


class Port(msgspec.Struct, frozen=True):
    """An ENI that is plugged in; `eni` is the name of its end in the VPC, at most 15 characters."""

    eni: str
    mac: Mac
    subnet: Subnet
    node: str
    addresses: tuple[Ip | Cidr, ...]
    """Assigned: single addresses of both families, the primary one first, and prefixes."""
    groups: tuple[str, ...] = ()
    """Security groups. None: everything may come and go, as far as this ENI is concerned."""
    routed: tuple[Cidr, ...] = ()
    """What the VPC's route table sends here."""

    @property
    def ranges(self) -> tuple[Ip | Cidr, ...]:
        """Everything that is delivered to it and may be sent from it."""
        return self.addresses + self.routed
