"""Ranges as u32 filters, and back: what is put is found again."""

from ipaddress import ip_network

from hypothesis import given
from hypothesis import strategies as st

from services.eni_manager.adapters.netlink_diversion import PRIORITY, get_filters, put_program, put_range, seen_filter
from shared.model import Cidr
from shared.netlink import Message as Frame

RANGES = st.one_of(
    st.tuples(st.ip_addresses(v=4), st.integers(0, 32)), st.tuples(st.ip_addresses(v=6), st.integers(0, 128))
)


def shown(body: bytes) -> Frame:
    return Frame(44, 0, 1, body)


@given(RANGES, st.integers(1, 1 << 20))
def test_a_range_comes_back_from_its_filter(parts: tuple[object, int], to: int) -> None:
    cidr = Cidr(str(ip_network(f"{parts[0]}/{parts[1]}", strict=False)))
    found = seen_filter(shown(put_range(3, cidr, to).body))
    assert found is not None
    assert (found.kind, found.range, found.to) == ("u32", cidr, to)
    assert found.priority == PRIORITY + (":" in cidr)


def test_filters_of_other_priorities_are_nobodys_business() -> None:
    assert seen_filter(shown(get_filters(3).body)) is None
    mine = seen_filter(shown(put_program(3, 5, "terway host path 12345678").body))
    assert mine is not None and (mine.kind, mine.name) == ("bpf", "terway host path 12345678")
