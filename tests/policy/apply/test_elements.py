"""Elements on the wire: what is written is what is read, and what is no element is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.policy.adapters import nft_elements
from services.policy.adapters.nft_elements import Item
from services.policy.core.nft.model import Element, Set

ADDRESSES = st.ip_addresses(v=4).map(str)
PORTS = st.integers(0, 65535).map(str)
SETS: dict[str, tuple[Set, st.SearchStrategy[Element]]] = {
    "addresses": (Set("s", "ipv4_addr"), ADDRESSES),
    "addresses6": (Set("s", "ipv6_addr"), st.ip_addresses(v=6).map(str)),
    "ports": (
        Set("s", "ipv4_addr . inet_proto . inet_service"),
        st.builds(lambda a, p, n: f"{a} . {p} . {n}", ADDRESSES, st.sampled_from(["tcp", "udp", "132"]), PORTS),
    ),
    "networks": (Set("s", "ipv4_addr", frozenset({"interval"})), st.ip_addresses(v=4, network="10.0.0.0/8").map(str)),
    "links": (
        Set("s", "ifname", data="verdict"),
        st.tuples(
            st.from_regex(r'"cali[0-9a-f]{1,11}"', fullmatch=True),
            st.sampled_from(["accept", "drop", "goto tw-shop/web", "jump x"]),
        ),
    ),
}


@pytest.mark.parametrize("kind", SETS)
def test_what_is_sent_is_what_is_read(kind: str) -> None:
    one, elements = SETS[kind]

    @given(st.lists(elements, max_size=50))
    def tried(given: list[Element]) -> None:
        items = list(nft_elements.items(one, given))
        read = [item for listed in nft_elements.lists(items) for item in nft_elements.read(listed)]
        assert read == items

    tried()


def test_many_are_sent_in_lists_that_fit_an_attribute() -> None:
    items = [Item(number.to_bytes(4, "big")) for number in range(20_000)]
    lists = list(nft_elements.lists(items))
    assert len(lists) > 1
    assert all(len(listed) < 65_532 for listed in lists)
    assert [item for listed in lists for item in nft_elements.read(listed)] == items


@pytest.mark.parametrize(
    ("element", "first", "behind"),
    [
        ("10.0.0.0/8", "0a000000", "0b000000"),
        ("10.0.0.1", "0a000001", "0a000002"),
        ("10.0.0.1-10.0.0.9", "0a000001", "0a00000a"),
        ("128.0.0.0/1", "80000000", ""),
        ("255.255.255.255", "ffffffff", ""),
    ],
)
def test_an_interval_is_where_it_begins_and_what_is_behind_it(element: str, first: str, behind: str) -> None:
    expected = [Item(bytes.fromhex(first))] + ([Item(bytes.fromhex(behind), end=True)] if behind else [])
    assert list(nft_elements.items(Set("s", "ipv4_addr", frozenset({"interval"})), [element])) == expected


@pytest.mark.parametrize(
    ("one", "element"),
    [
        (Set("s", "ipv4_addr"), "fd00::1"),
        (Set("s", "ipv4_addr"), "10.0.0"),
        (Set("s", "ipv4_addr . inet_service"), "10.0.0.1"),
        (Set("s", "ifname"), '"sixteen-letters-"'),
        (Set("s", "ether_addr"), "00:00:00:00:00:01"),
    ],
)
def test_what_is_no_element_of_the_set_is_refused(one: Set, element: str) -> None:
    with pytest.raises((ValueError, OSError)):
        list(nft_elements.items(one, [element]))
