"""Our table in the kernel: made, changed, repaired, removed; nothing foreign is touched."""

import re
import socket
import subprocess
from collections.abc import Iterator

import pytest

from services.policy.adapters.kernel import take_away
from services.policy.adapters.nfnetlink import Rejected
from services.policy.core.nft.model import Chain, Change, Hook, Set, Table, difference
from shared.errors import Internal
from tests.system.policy.bench import Bench, bench, table

pytestmark = pytest.mark.system


@pytest.fixture
def here() -> Iterator[Bench]:
    with bench() as made:
        yield made


def plain(listed: str) -> str:
    """What `nft list` shows, without what passed."""
    return re.sub(r"packets \d+ bytes \d+", "", listed)


def by_nft(change: Change) -> str:
    """The same made by nft itself, listed."""
    with bench() as other:
        other.nft(change.text())
        return plain(other.nft("list", "table", "inet", "terway"))


def test_what_we_make_is_what_nft_makes_of_the_same_text(here: Bench) -> None:
    wanted = table(3)
    assert here.reconcile(wanted)
    assert plain(here.nft("list", "table", "inet", "terway")) == by_nft(difference(Table(), wanted))


def test_a_table_that_is_as_wanted_is_left_alone(here: Bench) -> None:
    here.reconcile(table())
    before = here.do(here.workshop.generation)
    assert here.reconcile(table()) == ""
    assert here.do(here.workshop.generation) == before
    with bench() as other:  # nor does it matter who made it
        other.nft(difference(Table(), table()).text())
        assert other.reconcile(table()) == ""


def test_a_change_is_one_transaction_of_what_changed(here: Bench) -> None:
    before, after = table(2), table(3, port=8080, extra=frozenset({"10.9.9.9"}))
    here.reconcile(before)
    done = here.do(lambda: here.workshop.carry_out(difference(before, after), after))
    assert done.alone
    assert done.generation == done.since + 1
    assert here.do(lambda: here.workshop.differences(after)) == ""
    back = here.do(lambda: here.workshop.carry_out(difference(after, before), before))
    assert back.alone
    assert here.do(lambda: here.workshop.differences(before)) == ""
    assert plain(here.nft("list", "table", "inet", "terway")) == by_nft(difference(Table(), before))


def test_counters_go_on_while_rules_stay(here: Bench) -> None:
    here.reconcile(table())
    here.nft("add table inet other { chain c { type filter hook output priority 0; }; }")
    marked = [*table().chains["shared"].rules, "counter accept"]
    other = Table(dict(table().chains, shared=Chain("shared", tuple(marked))), table().sets, table().elements)
    here.do(lambda: here.workshop.carry_out(difference(table(), other), other))
    assert "chains shared" in here.do(lambda: here.workshop.differences(table()))


FOREIGN = [
    "flush chain inet terway tw-ns/pod0",
    "add rule inet terway shared drop",
    "insert rule inet terway raw accept",
    "add chain inet terway evil",
    "add chain inet terway hooked { type filter hook forward priority -5; policy drop; }",
    "add set inet terway evil { type ipv4_addr; }",
    "delete element inet terway hosts { 10.0.0.1 }",
    "add element inet terway hosts { 10.66.0.1 }",
    "delete element inet terway nets { 10.0.0.0/8 }",
    "add element inet terway nets { 20.0.0.0/8 }",
    "delete element inet terway to-pod { cali0 }",
    "add element inet terway to-pod { caliX : accept }",
    "delete element inet terway ports { 10.0.0.1 . tcp . 80 }",
    "flush table inet terway",
    "delete table inet terway",
]


@pytest.mark.parametrize("written", FOREIGN)
def test_what_others_change_is_mended(here: Bench, written: str) -> None:
    here.reconcile(table())
    kept = plain(here.nft("list", "table", "inet", "terway"))
    here.nft(written)
    assert here.do(lambda: here.workshop.differences(table())) != ""
    assert here.reconcile(table()) != ""
    assert here.reconcile(table()) == ""
    assert sorted(plain(here.nft("list", "table", "inet", "terway")).splitlines()) == sorted(kept.splitlines())


def test_a_replaced_rule_with_the_same_comment_is_noticed(here: Bench) -> None:
    """Also when it differs only in a set without a name."""
    here.reconcile(table())
    listed = here.nft("-a", "list", "chain", "inet", "terway", "tw-ns/pod0")
    handle = re.search(r'comment "one" # handle (\d+)', listed)
    assert handle is not None
    rule = 'ip saddr @hosts tcp dport { 81, 443, 1000-2000 } counter accept comment "one"'
    here.nft(f"add rule inet terway tw-ns/pod0 handle {handle[1]} {rule}")
    here.nft(f"delete rule inet terway tw-ns/pod0 handle {handle[1]}")
    assert here.do(lambda: here.workshop.differences(table())) == "chains tw-ns/pod0"


def test_another_hook_or_another_kind_of_set_replaces_the_table_at_once(here: Bench) -> None:
    old = table()
    here.reconcile(old)
    for new in (
        Table(
            dict(old.chains, raw=Chain("raw", old.chains["raw"].rules, Hook("filter", "prerouting", -299))),
            old.sets,
            old.elements,
        ),
        Table(old.chains, dict(old.sets, hosts=Set("hosts", "ipv4_addr", frozenset({"interval"}))), old.elements),
    ):
        before = here.do(here.workshop.generation)
        assert here.reconcile(new) == "the whole table"
        assert here.do(here.workshop.generation) == before + 1
        assert here.do(lambda new=new: here.workshop.differences(new)) == ""


def test_nothing_foreign_is_touched(here: Bench) -> None:
    here.nft(
        "add table inet kube-proxy { chain c { type nat hook prerouting priority -100; }; set s { type ipv4_addr; }; }"
    )
    here.nft("add table ip terway { chain c { type filter hook forward priority 0; policy drop; }; }")
    foreign = here.nft("list", "table", "inet", "kube-proxy"), here.nft("list", "table", "ip", "terway")
    here.reconcile(table())
    here.nft("delete table inet terway")
    here.reconcile(table(3))
    assert here.do(lambda: take_away("terway"))
    assert not here.do(lambda: take_away("terway"))
    assert (here.nft("list", "table", "inet", "kube-proxy"), here.nft("list", "table", "ip", "terway")) == foreign
    assert "inet terway" not in here.nft("list", "tables")


def test_a_batch_that_is_refused_changes_nothing(here: Bench) -> None:
    old = table()
    here.reconcile(old)
    before = here.nft("list", "table", "inet", "terway")
    good = table(3, port=81)
    bad = Change(
        chains_changed=(good.chains["shared"],),
        elements_removed={"hosts": ("99.99.99.99",)},  # not there
    )
    with pytest.raises(Rejected, match="elements of hosts"):
        here.do(lambda: here.workshop.carry_out(bad, good))
    with pytest.raises(Internal, match="syntax error"):
        wrong = Chain("shared", ("no rule at all",))
        here.do(lambda: here.workshop.carry_out(Change(chains_changed=(wrong,)), good))
    with pytest.raises(Internal, match="nowhere"):
        wrong = Chain("shared", ("ip saddr @nowhere accept",))
        here.do(lambda: here.workshop.carry_out(Change(chains_changed=(wrong,)), good))
    assert here.nft("list", "table", "inet", "terway") == before
    assert here.reconcile(good)  # and afterwards all goes on


def test_compiled_rules_do_not_pile_up(here: Bench) -> None:
    wanted = table()
    here.reconcile(wanted)
    for port in range(2000):
        chains = dict(wanted.chains, shared=Chain("shared", (f"udp dport {port} accept", f"tcp dport {port} accept")))
        after = Table(chains, wanted.sets, wanted.elements)
        here.do(lambda before=wanted, after=after: here.workshop.carry_out(difference(before, after), after))
        wanted = after
    assert here.do(lambda: here.workshop.differences(wanted)) == ""
    assert here.workshop.compiled < 1200


def test_connections_of_an_address_are_forgotten_and_no_others(here: Bench) -> None:
    """Those that it began, and those that it answers by a Service's address; of both families."""
    here.nft("add table inet t { chain o { type filter hook output priority 0; ct state new accept; }; }")
    here.nft("add chain inet t services { type nat hook output priority -100; }")
    here.nft("add rule inet t services ip daddr 172.16.0.1 dnat ip to 10.0.0.2")
    here.do(network)
    for talk in (
        ("10.0.0.1", "10.0.0.2"),
        ("10.0.0.3", "172.16.0.1"),
        ("10.0.0.3", "10.0.0.1"),
        ("fd00::1", "fd00::2"),
    ):
        here.do(lambda talk=talk: say(*talk))
    assert here.do(lambda: here.workshop.forget_connections(["10.0.0.2"])) == 2
    assert here.do(lambda: here.workshop.forget_connections(["10.0.0.2"])) == 0
    assert here.do(lambda: here.workshop.forget_connections(["10.0.0.1", "fd00::2"])) == 2
    here.do(lambda: say("10.0.0.3", "10.0.0.1"))
    assert here.do(lambda: here.workshop.forget_connections(["10.0.0.3"])) == 1


def network() -> None:
    """Addresses that all are the namespace's own."""
    for command in (
        "link set lo up",
        *(f"addr add {address} dev lo" for address in ADDRESSES),
        "route add default dev lo",
    ):
        subprocess.run(["ip", *command.split()], check=True)


ADDRESSES = ("10.0.0.1/32", "10.0.0.2/32", "10.0.0.3/32", "fd00::1/128", "fd00::2/128")


def say(source: str, destination: str) -> None:
    """One datagram, to nobody."""
    with socket.socket(socket.AF_INET6 if ":" in source else socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind((source, 40000))
        one.sendto(b"x", (destination, 9))
