"""What is loaded equals what memory held; one transaction decides between plugging and giving back."""

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from services.eni_manager.adapters.journal import KEPT_INTENTS, Journal
from services.eni_manager.core.machine import State
from services.eni_manager.core.model import (
    Eni,
    Ipv6Added,
    Ipv6Dropped,
    Made,
    Moved,
    Paired,
    Placed,
    Sized,
    Slot,
    SlotsAdded,
    SlotsDropped,
    SlotsMarked,
    SlotState,
    Wanted,
    apply,
)
from shared.contracts.ipam import Lease
from shared.errors import Conflict
from shared.model import AttachmentKey, Cidr, EniId, Ip, Mac, Mode, PodKey, Subnet


@pytest.fixture
async def journal(tmp_path):
    async with await Journal.open(tmp_path / "j.sqlite") as opened:
        yield opened


def wanted(name="a", *ips):
    slots = {Ip(ip): Slot(Ip(ip), primary=i == 0, state=SlotState.VALID) for i, ip in enumerate(ips)}
    eni_id = EniId(f"eni-{name}") if ips else None
    return Wanted(Eni(name=name, state=State.READY, vswitch="v", initial=1, max_slots=9, id=eni_id, slots=slots))


def lease(container="c1", ip="10.0.0.2", eni="eni-a"):
    return Lease(
        key=AttachmentKey("terway", container, "eth0"),
        pod=PodKey("default", f"pod-{container}"),
        pod_uid="u",
        mode=Mode.SHARED_VETH,
        host_link="cali1",
        eni_id=EniId(eni),
        eni_mac=Mac("00:16:3e:00:00:01"),
        ipv4=Ip(ip),
    )


NAMES = st.sampled_from(["a", "b", "c"])
ITEMS = st.lists(st.sampled_from([Ip(f"10.0.0.{i}") for i in range(6)]), max_size=4, unique=True).map(tuple)
SIXES = st.lists(st.sampled_from([Ip(f"fd00::{i}") for i in range(6)]), max_size=4, unique=True).map(tuple)
STATES = st.sampled_from(SlotState)
FACTS = st.one_of(
    st.builds(lambda name: wanted(name), NAMES),
    st.builds(Moved, NAMES, st.sampled_from(State), st.text(max_size=5)),
    st.builds(lambda name: Made(name, EniId(f"eni-{name}"), Mac(f"00:00:00:00:00:0{name}"), "v", ("sg",)), NAMES),
    st.builds(lambda name: Placed(name, Subnet(Cidr("10.0.0.0/24"), Ip("10.0.0.253")), None), NAMES),
    st.builds(Sized, NAMES, st.integers(1, 10)),
    st.builds(lambda name, ips: SlotsAdded(name, tuple(Slot(ip) for ip in ips)), NAMES, ITEMS),
    st.builds(SlotsMarked, NAMES, ITEMS, STATES, st.lists(STATES, max_size=3).map(tuple)),
    st.builds(SlotsDropped, NAMES, ITEMS),
    st.builds(Ipv6Added, NAMES, SIXES),
    st.builds(Ipv6Dropped, NAMES, SIXES),
    st.builds(lambda name, ips, sixes: Paired(name, tuple(zip(ips, sixes, strict=False))), NAMES, ITEMS, SIXES),
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(batches=st.lists(st.lists(FACTS, max_size=5), max_size=8))
async def test_the_journal_and_memory_come_to_the_same(tmp_path_factory, batches):
    memory: dict[str, Eni] = {}
    async with await Journal.open(tmp_path_factory.mktemp("j") / "j.sqlite") as journal:
        for batch in batches:
            await journal.record(batch, now=1.0)
            for fact in batch:
                apply(memory, fact)
        assert await journal.load() == memory
    for eni in memory.values():
        sixes = [slot.ipv6 for slot in eni.slots.values() if slot.ipv6 is not None] + list(eni.spare6)
        assert len(sixes) == len(set(sixes)), f"an IPv6 address is in two places: {eni}"
        assert all(slot.ipv6 is None or slot.lost6 is None for slot in eni.slots.values())


async def test_an_open_intent_is_found_again_with_its_token_and_parameters(journal):
    first = await journal.begin("a", "assign", {"count": 3}, now=1.0)
    again = await journal.begin("a", "assign", {"count": 5}, now=2.0)
    assert (again.token, again.params, again.repeated) == (first.token, {"count": 3}, True)
    assert await journal.open_intent("a", "assign") == again
    assert await journal.open_intent("a", "create") is None
    await journal.record([], now=3.0, ends=again, outcome="Throttling")
    assert await journal.open_intent("a", "assign") is None
    assert (await journal.begin("a", "assign", {"count": 5}, now=4.0)).token != first.token
    assert [row["outcome"] for row in await journal.recent()] == [None, "Throttling"]


async def test_facts_and_the_end_of_their_intent_are_one_write(journal):
    await journal.record([wanted("a", "10.0.0.1"), wanted("b", "10.0.0.5")], now=1.0)
    intent = await journal.begin("a", "create", {}, now=1.0)
    with pytest.raises(Conflict, match="has the id eni-b of b"):
        await journal.record([Made("a", EniId("eni-b"), Mac("x"), "v")], now=2.0, ends=intent)
    assert await journal.open_intent("a", "create") is not None
    assert (await journal.load())["a"].id == "eni-a"


async def test_what_ended_with_its_eni_leaves_no_open_intent(journal):
    await journal.record([wanted("a", "10.0.0.1")], now=1.0)
    await journal.begin("a", "assign", {"count": 1}, now=1.0)
    await journal.record([Moved("a", State.GONE, "deleted")], now=2.0)
    assert await journal.open_intent("a", "assign") is None
    assert await journal.load() == {}


async def test_old_intents_are_forgotten_open_ones_never(journal):
    kept = await journal.begin("old", "create", {}, now=0.0)
    for number in range(KEPT_INTENTS + 5):
        intent = await journal.begin("a", "assign", {"count": number}, now=1.0)
        await journal.record([], now=1.0, ends=intent)
    assert len(await journal.recent(10_000)) <= KEPT_INTENTS + 2
    assert (await journal.open_intent("old", "create")).token == kept.token


async def test_giving_back_and_plugging_exclude_each_other(journal):
    await journal.record([wanted("a", "10.0.0.1", "10.0.0.2", "10.0.0.3")], now=1.0)
    await journal.put_attachment(lease("c1", "10.0.0.2"), netns="/n")
    accepted, refused = await journal.give_back([Ip("10.0.0.2"), Ip("10.0.0.3"), Ip("10.9.9.9")])
    assert accepted == ["10.0.0.3", "10.9.9.9"]
    assert refused == {"10.0.0.2": "default/pod-c1 is attached with it"}
    with pytest.raises(Conflict, match=r"10\.0\.0\.3 was given back"):
        await journal.put_attachment(lease("c2", "10.0.0.3"), netns="/n")
    assert [one.lease.key.container_id for one in await journal.attachments()] == ["c1"]
    states = {item: slot.state for item, slot in (await journal.load())["a"].slots.items()}
    assert states == {"10.0.0.1": "valid", "10.0.0.2": "valid", "10.0.0.3": "returning"}


async def test_what_the_cloud_took_from_one_eni_may_be_on_another_of_ours(journal):
    await journal.record([wanted("a", "10.0.0.1", "10.0.0.2"), wanted("b", "10.0.0.2")], now=1.0)
    await journal.put_attachment(lease("c1", "10.0.0.2", eni="eni-b"), netns="/n")
    assert await journal.give_back([Ip("10.0.0.2")], of="a") == (["10.0.0.2"], {})
    enis = await journal.load()
    assert enis["a"].slots["10.0.0.2"].state is SlotState.RETURNING
    assert enis["b"].slots["10.0.0.2"].state is not SlotState.RETURNING
    accepted, refused = await journal.give_back([Ip("10.0.0.2")], of="b")
    assert (accepted, list(refused)) == ([], ["10.0.0.2"])


async def test_whichever_of_two_at_once_comes_first_wins(journal):
    await journal.record([wanted("a", "10.0.0.1", "10.0.0.2")], now=1.0)
    for number in range(20):
        ip = Ip("10.0.0.2")
        given, plugged = await asyncio.gather(
            journal.give_back([ip]), journal.put_attachment(lease(f"c{number}"), netns="/n"), return_exceptions=True
        )
        assert (ip in given[0]) == isinstance(plugged, Conflict)
        await journal.drop_attachment(lease(f"c{number}").key)
        await journal.record([SlotsMarked("a", (ip,), to=SlotState.VALID, frm=(SlotState.RETURNING,))], now=1.0)


async def test_attachments_are_kept_by_key(journal, tmp_path):
    one = lease()
    await journal.put_attachment(one, netns="/first")
    await journal.put_attachment(one, netns="/second", mtu=1400)
    (wired,) = await journal.attachments()
    assert (wired.lease, wired.netns, wired.mtu) == (one, "/second", 1400)
    assert await journal.drop_attachment(one.key) is True
    assert await journal.drop_attachment(one.key) is False
    assert await journal.attachments() == []


async def test_notes_are_kept(journal):
    assert await journal.noted("x") is None
    await journal.note("x", b'{"a":1}')
    await journal.note("x", b'{"a":2}')
    assert await journal.noted("x") == b'{"a":2}'


async def test_an_eni_that_contradicts_the_journal_is_refused_in_words(journal: Journal) -> None:
    ours = replace(wanted("eni-cni-1").eni, id=EniId("eni-1"), mac=Mac("00:16:3e:00:00:01"))
    await journal.record([Wanted(ours)], now=1.0)
    for other in (
        replace(ours, name="eni-2", id=EniId("eni-2")),
        replace(ours, name="eni-2", mac=Mac("00:16:3e:00:00:02")),
    ):
        with pytest.raises(Conflict, match=r"of another cloud or instance.*move its database away"):
            await journal.record([Wanted(other)], now=2.0)
    assert list(await journal.load()) == ["eni-cni-1"]
