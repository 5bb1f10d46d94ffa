"""Ranges of addresses as keys of the map, and back."""

from ipaddress import ip_network

from hypothesis import given
from hypothesis import strategies as st

from services.eni_manager.core.bpf.host_path import KEY, cidr, key
from shared.model import Cidr

FOUR = st.tuples(st.ip_addresses(v=4), st.integers(0, 32))
SIX = st.tuples(st.ip_addresses(v=6, network="2000::/3"), st.integers(3, 128))


@given(st.one_of(FOUR, SIX))
def test_ranges_come_back_from_their_keys(parts: tuple[object, int]) -> None:
    network = ip_network(f"{parts[0]}/{parts[1]}", strict=False)
    assert cidr(key(Cidr(str(network)))) == str(network)


def test_everything_of_one_family_is_not_everything_of_the_other() -> None:
    four, six = key(Cidr("0.0.0.0/0")), key(Cidr("::/0"))
    assert (KEY.unpack(four)[0], KEY.unpack(six)[0]) == (96, 0)
    assert (cidr(four), cidr(six)) == ("0.0.0.0/0", "::/0")
