"""What is encoded is what the kernel understands: put in, listed, taken out, and judged by an independent decoder."""

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyroute2.netlink.rtnl.fibmsg import fibmsg
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from services.eni_manager.adapters import netns
from services.eni_manager.adapters.netlink import Stack
from services.eni_manager.adapters.netlink_socket import NetlinkError
from services.eni_manager.adapters.netlink_values import put
from services.eni_manager.core.wiring.difference import Drop, Put
from services.eni_manager.core.wiring.shaping import shaper
from services.eni_manager.core.wiring.values import (
    Address,
    Item,
    Link,
    Neighbour,
    Route,
    Rule,
    Shaper,
    Side,
)
from shared.model import Cidr, Ip, Mac
from tests.system.dataplane.world import Space

pytestmark = pytest.mark.system

LINK = "cali0123456789a"
V4 = st.integers(0x0B000000, 0x7EFFFFFF).map(lambda n: ".".join(str(n >> shift & 255) for shift in (24, 16, 8, 0)))
V6 = st.integers(1, 0xFFFF).map(lambda n: f"2001:db8::{n:x}:1")
IPS = st.one_of(V4, V6).map(Ip)
MACS = st.binary(min_size=5, max_size=5).map(lambda raw: Mac(f"02:{raw.hex(':')}"))
TABLES = st.sampled_from((254, 300, 1003, 1_002_003))


def cidr(ip: Ip) -> Cidr:
    return Cidr(f"{ip}/128" if ":" in ip else f"{ip}/32")


def route(to: Ip, table: int, *, default: bool, gateway: bool) -> Route:
    v6 = ":" in to
    via = Ip("fe80::1" if v6 else "169.254.1.1") if gateway or default else None
    return Route(LINK, Cidr("::/0" if v6 else "0.0.0.0/0") if default else cidr(to), via, table)


ITEMS = st.one_of(
    st.builds(lambda ip: Address(LINK, ip, 128 if ":" in ip else 32), IPS),
    st.builds(route, IPS, TABLES, default=st.booleans(), gateway=st.booleans()),
    st.builds(lambda p, t, ip: Rule(p, t, source=cidr(ip)), st.sampled_from((512, 2048)), TABLES, IPS),
    st.builds(lambda p, t, ip: Rule(p, t, to=cidr(ip)), st.sampled_from((512, 2048)), TABLES, IPS),
    st.builds(lambda p, v6: Rule(p, 512, v6=v6), st.sampled_from((512, 2048)), st.booleans()),
    st.builds(lambda ip, mac: Neighbour(LINK, ip, mac), IPS, MACS),
    st.builds(lambda rate, mtu: shaper(LINK, rate, mtu)[0], st.integers(1, 20_000_000_000), st.integers(1280, 9000)),
    st.builds(lambda mtu, up: Link(LINK, mtu, up), st.integers(1280, 9000), st.booleans()),
)


@contextmanager
def stack() -> Iterator[tuple[Stack, int]]:
    """A namespace with one veth that is up."""
    with ExitStack() as opened:
        home = netns.own_netns()
        opened.callback(os.close, home)
        space = Space(home)
        opened.callback(space.close)
        space.ip("link", "set", "lo", "up")  # without any local address a namespace takes no gateway
        space.ip("link", "add", LINK, "type", "veth", "peer", "name", "other")
        space.ip("link", "set", "other", "up")
        space.ip("link", "set", LINK, "up")
        inside = opened.enter_context(Stack(home, space.fd))
        seen = inside.link(LINK)
        assert seen is not None
        yield inside, seen.index


def place(item: Item) -> object:
    """Where an item is: of two in one place the later replaces the earlier."""
    match item:
        case Shaper() | Link():
            return type(item)
        case Route() | Neighbour():
            return type(item), getattr(item, "to", ""), getattr(item, "ip", "")
        case _:
            return item


def listed(inside: Stack) -> set[Item]:
    seen = inside.link(LINK)
    assert seen is not None
    return set(inside.listing({LINK: seen}, v6=True).side.items)


def test_the_kernel_lists_what_was_put_and_forgets_what_was_dropped() -> None:
    with stack() as (inside, index):
        nothing = listed(inside)

        @settings(max_examples=150, deadline=None)
        @given(st.lists(ITEMS, min_size=1, max_size=6, unique_by=place))
        def run(items: list[Item]) -> None:
            items = [item for item in Side.of(items).items if not isinstance(item, Link)]
            inside.make(items, {LINK: index})
            assert set(items) <= listed(inside)
            inside.make(items, {LINK: index})  # a repeat is harmless
            for _ in range(2):  # and so is taking away what is gone
                inside.mend([Drop(item) for item in reversed(items)], {LINK: index})
            assert listed(inside) == nothing

        run()


@settings(max_examples=40, deadline=None)
@given(ITEMS.filter(lambda item: not isinstance(item, Rule)))
def test_a_link_may_end_between_the_look_and_the_mending(item: Item) -> None:
    gone = 0x7FFFFFF0
    with stack() as (inside, _):
        inside.mend([Put(item)], {LINK: gone})
        with pytest.raises(NetlinkError) as told:
            inside.make([item], {LINK: gone})  # who plugs a sandbox wants to know
        assert told.value.errno == errno.ENODEV


JUDGES = {Address: ifaddrmsg, Route: rtmsg, Rule: fibmsg, Neighbour: ndmsg}


@given(ITEMS.filter(lambda item: type(item) in JUDGES))
def test_pyroute2_reads_the_same_from_our_bytes(item: Item) -> None:
    message = JUDGES[type(item)](packed_body(item))
    message.decode()
    found = dict(message["attrs"])
    match item:
        case Address():
            assert (found["IFA_LOCAL"], message["prefixlen"], message["index"]) == (item.ip, item.prefix, 9)
        case Route():
            assert found.get("RTA_GATEWAY") == item.via
            assert (found["RTA_TABLE"], found["RTA_OIF"], message["proto"]) == (item.table, 9, 84)
            assert f"{found.get('RTA_DST', item.to.split('/')[0])}/{message['dst_len']}" == item.to
        case Rule(source=None, to=None):
            assert message["family"] == (socket.AF_INET6 if item.v6 else socket.AF_INET)
            assert (found["FRA_TABLE"], found["FRA_PRIORITY"]) == (item.table, item.priority)
        case Rule(source=source, to=to):
            selector = (found["FRA_SRC"], message["src_len"]) if source else (found["FRA_DST"], message["dst_len"])
            assert f"{selector[0]}/{selector[1]}" == (source or to)
            assert (found["FRA_TABLE"], found["FRA_PRIORITY"]) == (item.table, item.priority)
        case Neighbour():
            assert (found["NDA_DST"], found["NDA_LLADDR"], message["state"]) == (item.ip, item.mac, 0x80)


def packed_body(item: Item) -> bytes:
    request = put(item, 9)
    return (16 + len(request.body)).to_bytes(4, "little") + bytes(12) + request.body


@pytest.mark.parametrize("link", [Link(LINK, 1400), Link(LINK, 9000, up=False), Link(LINK, 1500)])
def test_a_link_is_as_it_was_set(link: Link) -> None:
    with stack() as (inside, index):
        inside.make([link], {LINK: index})
        assert link in listed(inside)


def test_a_refusal_says_what_was_refused_and_why() -> None:
    with stack() as (inside, index), pytest.raises(NetlinkError, match=r"refused route 10\.9\.9\.9/32 dev .* link: "):
        inside.make([Route(LINK, Cidr("10.9.9.9/32"))], {LINK: index + 1000})


def test_a_batch_larger_than_one_send_is_done_in_full() -> None:
    with stack() as (inside, index):
        many = [Address(LINK, Ip(f"10.1.{number >> 8}.{number & 255}"), 32) for number in range(300)]
        inside.make(many, {LINK: index})
        assert set(many) <= listed(inside)


def test_many_rules_are_listed_in_full() -> None:
    with stack() as (inside, index):
        many = [Rule(512, 254, to=Cidr(f"10.1.{number >> 8}.{number & 255}/32")) for number in range(1000)]
        inside.make(many, {LINK: index})
        assert set(many) <= listed(inside)
