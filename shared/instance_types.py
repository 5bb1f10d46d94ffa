"""Instance types and what they can hold: real types, from the public instance-family pages (terway.md §7).

Rows are (sizes, ENIs with the primary one, private IPv4 addresses per ENI, member ENIs on a trunk). IPv6
quantities follow IPv4 from generation 6 on; the pages that the table comes from do not give them.
"""

import msgspec


class InstanceType(msgspec.Struct, frozen=True):
    """What one type of machine can hold."""

    name: str
    eni_quantity: int
    """Network interfaces, the primary one included."""
    ipv4_per_eni: int
    """Private IPv4 addresses of one network interface, its primary one included."""
    ipv6_per_eni: int
    eni_total: int
    """Network interfaces and members of a trunk together."""
    cpus: int = 2

    @property
    def family(self) -> str:
        """`ecs.g6` of `ecs.g6.2xlarge`."""
        return self.name.rsplit(".", 1)[0]

    @property
    def trunk(self) -> bool:
        """Whether a network interface of it can be a trunk."""
        return self.eni_total > self.eni_quantity


_ROWS: list[tuple[str, str, int, int, int]] = [
    ("n4", "small large", 2, 2, 0),
    ("n4", "xlarge 2xlarge 4xlarge 8xlarge", 2, 6, 0),
    ("t6-c1m1 t6-c1m2 t6-c1m4", "large", 2, 2, 0),
    ("t6-c1m4", "xlarge 2xlarge", 2, 6, 0),
    ("g5 c5 sn2ne", "large", 2, 6, 0),
    ("g5 c5 sn2ne", "xlarge", 3, 10, 0),
    ("g5 c5 sn2ne", "2xlarge", 4, 10, 0),
    ("g5 c5 sn2ne", "3xlarge", 6, 10, 0),
    ("g5 c5", "4xlarge 6xlarge 8xlarge 16xlarge", 8, 20, 0),
    ("sn2ne", "4xlarge 6xlarge 8xlarge 14xlarge", 8, 20, 0),
    ("g6 c6 r6", "large", 2, 6, 0),
    ("g6 c6 r6", "xlarge", 3, 10, 0),
    ("g6 c6 r6", "2xlarge", 4, 10, 0),
    ("g6 c6 r6", "3xlarge", 6, 10, 0),
    ("g6 c6 r6", "4xlarge 6xlarge 8xlarge", 8, 20, 0),
    ("g6 c6 r6", "13xlarge", 7, 20, 0),
    ("g6 c6 r6", "26xlarge", 15, 20, 0),
    ("g6e", "large", 3, 6, 0),
    ("g6e", "xlarge 2xlarge", 4, 15, 0),
    ("g6e", "4xlarge 8xlarge", 8, 30, 0),
    ("g6e", "13xlarge", 7, 30, 0),
    ("g6e", "26xlarge", 15, 30, 0),
    ("g7", "large", 3, 6, 0),
    ("g7", "xlarge 2xlarge", 4, 15, 0),
    ("g7", "3xlarge", 8, 15, 0),
    ("g7", "4xlarge 8xlarge 16xlarge", 8, 30, 0),
    ("g7", "32xlarge", 15, 30, 0),
    ("g7ne", "xlarge", 4, 15, 0),
    ("gn6i-c4g1", "xlarge", 2, 10, 0),
    ("gn6i-c8g1", "2xlarge", 2, 10, 0),
    ("gn6i-c16g1", "4xlarge", 3, 10, 0),
    ("gn6i-c24g1", "6xlarge", 4, 10, 0),
    ("gn6i-c24g1", "12xlarge", 6, 10, 0),
    ("gn6i-c24g1", "24xlarge", 8, 10, 0),
    ("ebmg6", "26xlarge", 32, 10, 0),
    ("ebmre7p", "32xlarge", 32, 15, 78),
]

_NO_IPV6 = {"n4", "t6-c1m1", "t6-c1m2", "t6-c1m4", "sn2ne"}
_IPV6 = {"ecs.ebmre7p.32xlarge": 1}


def _cpus(size: str) -> int:
    if size.endswith("xlarge"):
        return 4 * int(size.removesuffix("xlarge") or 1)
    return {"small": 1, "large": 2}[size]


def _types() -> dict[str, InstanceType]:
    types = {}
    for families, sizes, enis, ipv4, members in _ROWS:
        for family in families.split():
            for size in sizes.split():
                name = f"ecs.{family}.{size}"
                ipv6 = _IPV6.get(name, 0 if family in _NO_IPV6 else ipv4)
                types[name] = InstanceType(name, enis, ipv4, ipv6, enis + members, _cpus(size))
    return types


TYPES: dict[str, InstanceType] = _types()
"""Every type of the catalogue, by name. The cloud has more, and adds some every year: ask it for those."""
