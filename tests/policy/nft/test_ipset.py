"""Members of an IP set as elements: any sequence of changes against the meaning of the members."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.policy.core.nft.ipset import IPSet
from services.policy.core.nft.model import Set

MEMBERS = (
    "10.0.0.0/8",
    "10.0.0.0/16",
    "10.0.0.0/31",
    "10.0.0.0/32",
    "10.0.0.1/32",
    "10.0.1.1/32",
    "10.0.1.0/24",
    "10.255.255.255/32",
    "0.0.0.0/1",
    "128.0.0.0/1",
    "192.0.2.1/32",
    "fd00::/8",
    "fd00::1/128",
    "::/1",
    "8000::/1",
    "2001:db8::/32",
)
changes = st.lists(st.sets(st.sampled_from(MEMBERS)), max_size=8)


def expected(members: set[str], version: int) -> set[str]:
    """Those that no other contains, as nft writes them."""
    mine = [net for net in map(ipaddress.ip_network, members) if net.version == version]
    outermost = [one for one in mine if not any(one != other and one.subnet_of(other) for other in mine)]  # type: ignore[arg-type]
    return {str(one).removesuffix(f"/{one.max_prefixlen}") for one in outermost}


@given(states=changes, whole=st.booleans())
def test_elements_after_any_changes(states: list[set[str]], whole: bool) -> None:
    for family in (4, 6):
        one = IPSet("s:one", "NET", family)
        members: set[str] = set()
        held: dict[Set, set[str]] = {one.definition: set()}
        for state in states:
            delta = one.replace(state) if whole else one.change(state - members, members - state)
            members = state
            if delta.replaces is not None:
                del held[delta.replaces]
                held[delta.set] = set()
            [(definition, elements)] = held.items()
            assert delta.set == definition == one.definition
            assert not elements & set(delta.added), "what is added was not there"
            assert elements >= set(delta.removed), "what is removed was there"
            elements.difference_update(delta.removed)
            elements.update(delta.added)
            assert elements == one.elements == expected(members, family)
            wide = any("/" in element for element in elements)
            assert one.definition.flags == ({"interval"} if wide else set())


def test_half_of_everything_twice_is_everything() -> None:
    one = IPSet("s:one", "NET", 4)
    delta = one.replace(["0.0.0.0/0", "::/0", "10.0.0.1/32"])
    assert sorted(delta.added) == ["0.0.0.0/1", "128.0.0.0/1"]
    assert one.definition == Set("cali40-s-one.net", "ipv4_addr", frozenset({"interval"}))


@pytest.mark.parametrize("members", [("10.0.0.1/32",), ("10.0.0.0/24", "10.0.0.1/32")])
def test_what_is_there_already_and_what_is_not(members: tuple[str, ...]) -> None:
    one = IPSet("s:one", "NET", 4)
    one.change(members, ())
    delta = one.change(members, ("192.0.2.0/24", "192.0.2.1/32"))
    assert (delta.added, delta.removed, delta.replaces) == ([], [], None)


@pytest.mark.parametrize(
    ("family", "element", "key"),
    [
        (4, "10.0.0.1 . 6 . 80", "ipv4_addr . inet_proto . inet_service"),
        (6, "fd00::1 . 132 . 80", "ipv6_addr . inet_proto . inet_service"),
    ],
)
def test_ports(family: int, element: str, key: str) -> None:
    one = IPSet("n:web", "IP_AND_PORT", family)
    delta = one.change(["10.0.0.1,tcp:80", "fd00::1,sctp:80"], [])
    assert (delta.set, delta.added, delta.removed) == (Set(f"cali{family}0-n-web", key), [element], [])
    assert one.change([], ["10.0.0.1,tcp:80", "fd00::1,sctp:80"]).removed == [element]
    assert one.elements == set()
