"""The free addresses of one vSwitch.

New addresses are taken in a circle, so that a freed one rests as long as possible, and each costs the same
however many are in use: an account of 200,000 addresses must answer as fast as one of ten.
"""

from collections.abc import Iterable
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address, IPv6Network

from compose.lab.cloud.core.errors import address_in_use, malformed, vswitch_exhausted
from shared.model import Ip


class AddressSpace:
    """Who has which address of a vSwitch. The first address and the last three are the cloud's."""

    def __init__(self, vswitch: str, cidr: str) -> None:
        self.vswitch = vswitch
        network = IPv6Network(cidr) if ":" in cidr else IPv4Network(cidr)
        self._address: type[IPv4Address | IPv6Address] = IPv6Address if network.version == 6 else IPv4Address
        self._first = int(network.network_address) + 1
        self._size = min(network.num_addresses - 4, 1 << 24)
        self._owners: dict[int, str] = {}
        self._next = 0

    @property
    def free(self) -> int:
        """How many addresses nobody has."""
        return self._size - len(self._owners)

    def take(self, owner: str, count: int) -> list[Ip]:
        """`count` free addresses, all or none. Raises when there are too few."""
        if count > self.free:
            raise vswitch_exhausted(self.vswitch, self.free, count)
        taken: list[Ip] = []
        while len(taken) < count:
            number = self._first + self._next
            self._next = (self._next + 1) % self._size
            if number not in self._owners:
                self._owners[number] = owner
                taken.append(Ip(str(self._address(number))))
        return taken

    def claim(self, owner: str, wanted: Iterable[str], parameter: str) -> list[Ip]:
        """Exactly these addresses, all or none. Raises when one is foreign, malformed or taken."""
        numbers: list[int] = []
        for text in wanted:
            try:
                number = int(self._address(text))
            except (AddressValueError, ValueError) as e:
                raise malformed(parameter, f"{text} is not an address") from e
            if not self._first <= number < self._first + self._size:
                raise malformed(parameter, f"{text} is not a free address of {self.vswitch}")
            if number in self._owners or number in numbers:
                raise address_in_use(text)
            numbers.append(number)
        self._owners.update(dict.fromkeys(numbers, owner))
        return [Ip(str(self._address(number))) for number in numbers]

    def give_back(self, addresses: Iterable[Ip]) -> None:
        """These are free again."""
        for address in addresses:
            del self._owners[int(self._address(address))]

    def owner(self, address: str) -> str | None:
        """Who has it; None: nobody, or it is not ours to give."""
        try:
            return self._owners.get(int(self._address(address)))
        except (AddressValueError, ValueError):
            return None
