"""The free addresses and prefixes of one vSwitch.

New addresses are taken in a circle, so that a freed one rests as long as possible, and each costs the same
however many are in use: an account of 200,000 addresses must answer as fast as one of ten. A prefix (/28, or /80
of IPv6) is a block of which nobody has any address.
"""

from collections import Counter
from collections.abc import Iterable
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address, IPv6Network

from compose.lab.cloud.core.errors import address_in_use, malformed, vswitch_exhausted
from shared.model import Cidr, Ip


class AddressSpace:
    """Who has which address of a vSwitch. The first address and the last three are the cloud's."""

    def __init__(self, vswitch: str, cidr: str) -> None:
        self.vswitch = vswitch
        network = IPv6Network(cidr) if ":" in cidr else IPv4Network(cidr)
        self.prefix_length = 80 if network.version == 6 else 28
        self._address: type[IPv4Address | IPv6Address] = IPv6Address if network.version == 6 else IPv4Address
        self._first = int(network.network_address) + 1
        self._end = int(network.broadcast_address) - 2
        self._size = min(self._end - self._first, 1 << 24)
        """Addresses that `take` goes round."""
        self._shift = network.max_prefixlen - self.prefix_length
        self._owners: dict[int, str] = {}
        self._crowd: Counter[int] = Counter()
        """How many of `_owners` are in each block."""
        self._blocks: dict[int, str] = {}
        self._first_block = (self._first >> self._shift) + 1  # the one before holds the cloud's own first address
        self._block_count = max(0, (self._end >> self._shift) - self._first_block)
        self._next = 0
        self._next_block = 0

    @property
    def used(self) -> int:
        """How many addresses somebody has, those of prefixes included."""
        return len(self._owners) + (len(self._blocks) << self._shift)

    @property
    def free(self) -> int:
        """How many addresses nobody has."""
        return self._end - self._first - self.used

    # ---- addresses

    def take(self, owner: str, count: int) -> list[Ip]:
        """`count` free addresses, all or none. Raises when there are too few."""
        if count > self.free:
            raise vswitch_exhausted(self.vswitch, self.free, count)
        numbers: list[int] = []
        while len(numbers) < count:
            number = self._first + self._next
            block = number >> self._shift
            if block in self._blocks:
                self._next = (((block + 1) << self._shift) - self._first) % self._size
                continue
            self._next = (self._next + 1) % self._size
            if number not in self._owners:
                numbers.append(number)
        return self._give(owner, numbers)

    def claim(self, owner: str, wanted: Iterable[str], parameter: str) -> list[Ip]:
        """Exactly these addresses, all or none. Raises when one is foreign, malformed or taken."""
        numbers: list[int] = []
        for text in wanted:
            try:
                number = int(self._address(text))
            except (AddressValueError, ValueError) as e:
                raise malformed(parameter, f"{text} is not an address") from e
            if not self._first <= number < self._end:
                raise malformed(parameter, f"{text} is not a free address of {self.vswitch}")
            if number in self._owners or number in numbers or number >> self._shift in self._blocks:
                raise address_in_use(text)
            numbers.append(number)
        return self._give(owner, numbers)

    def _give(self, owner: str, numbers: list[int]) -> list[Ip]:
        for number in numbers:
            self._owners[number] = owner
            self._crowd[number >> self._shift] += 1
        return [Ip(str(self._address(number))) for number in numbers]

    def give_back(self, addresses: Iterable[Ip]) -> None:
        """These are free again."""
        for address in addresses:
            number = int(self._address(address))
            del self._owners[number]
            block = number >> self._shift
            self._crowd[block] -= 1
            if not self._crowd[block]:
                del self._crowd[block]

    def owner(self, address: str) -> str | None:
        """Who has it, by itself or in a prefix; None: nobody, or it is not ours to give."""
        try:
            number = int(self._address(address))
        except (AddressValueError, ValueError):
            return None
        return self._owners.get(number) or self._blocks.get(number >> self._shift)

    # ---- prefixes

    def take_prefixes(self, owner: str, count: int) -> list[Cidr]:
        """`count` free prefixes, all or none. Raises when there are too few."""
        blocks: list[int] = []
        for step in range(self._block_count):
            if len(blocks) == count:
                break
            block = self._first_block + (self._next_block + step) % self._block_count
            if block not in self._blocks and block not in self._crowd:
                blocks.append(block)
        if len(blocks) < count:
            raise vswitch_exhausted(self.vswitch, len(blocks), count, what="prefixes")
        if blocks:
            self._next_block = blocks[-1] + 1 - self._first_block
        return self._give_blocks(owner, blocks)

    def claim_prefixes(self, owner: str, wanted: Iterable[str], parameter: str) -> list[Cidr]:
        """Exactly these prefixes, all or none. Raises when one is foreign, malformed or partly taken."""
        blocks: list[int] = []
        for text in wanted:
            block = self._block(text, parameter)
            if not self._first_block <= block < self._first_block + self._block_count:
                raise malformed(parameter, f"{text} is not a free prefix of {self.vswitch}")
            if block in self._blocks or block in self._crowd or block in blocks:
                raise address_in_use(text)
            blocks.append(block)
        return self._give_blocks(owner, blocks)

    def _block(self, text: str, parameter: str) -> int:
        address, _, length = text.partition("/")
        try:
            number = int(self._address(address))
        except (AddressValueError, ValueError) as e:
            raise malformed(parameter, f"{text} is not a prefix") from e
        if length != str(self.prefix_length) or number & ((1 << self._shift) - 1):
            raise malformed(parameter, f"{text} is not a /{self.prefix_length}")
        return number >> self._shift

    def _give_blocks(self, owner: str, blocks: list[int]) -> list[Cidr]:
        self._blocks.update(dict.fromkeys(blocks, owner))
        return [Cidr(f"{self._address(block << self._shift)}/{self.prefix_length}") for block in blocks]

    def give_back_prefixes(self, prefixes: Iterable[Cidr]) -> None:
        """These are free again."""
        for prefix in prefixes:
            del self._blocks[self._block(prefix, "Prefix")]
