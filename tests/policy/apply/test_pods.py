"""Tables in pods' own namespaces: what an answer to the gateway promises about them, and who is told what."""

import asyncio
from collections.abc import Callable

import pytest
from msgspec.structs import replace

from services.policy.adapters.sandboxes import Where
from services.policy.adapters.visits import AT_ONCE, Before, nothing
from services.policy.core.nft.model import Table
from services.policy.pods import Beside, Inside
from shared.contracts.policy import Attach, Attached, CheckAttached, Detach
from shared.errors import Internal, Refused, Unavailable
from shared.model import AttachmentKey, Ip, Mode
from tests.policy.apply.node import PlayedNode, attach, deny_all, lease, node, pod

WEB = attach("shop/web", "10.0.0.1", mode=Mode.EXCLUSIVE_ENI)
PATH = WEB.netns
PATIENCE_S = 20.0


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not true():  # noqa: ASYNC110  what is waited for has no event
            await asyncio.sleep(0)


async def gone_round() -> None:
    """Everybody who could go on has gone on."""
    for _ in range(50):
        await asyncio.sleep(0)


def rules(made: PlayedNode, chain: str, path: str = PATH) -> tuple[str, ...]:
    return made.sandboxes.tables[path].chains[chain].rules


async def test_attach_answers_when_the_rules_are_in_the_pod_and_on_the_node() -> None:
    async with node() as made:
        made.begin()
        made.says(deny_all("shop"))
        made.says(pod("shop/web"))
        made.sandboxes.open.clear()
        answer = asyncio.create_task(made.gate.attach(WEB))
        await gone_round()
        assert not answer.done()
        made.sandboxes.open.set()
        assert await answer == Attached(enforced=True)
        # What passes by the node is judged there.
        assert made.kernel.rules_of(WEB.host_link) == "goto tw-shop/web"
        assert rules(made, "input")[-2:] == ('iifname "veth1" accept', "goto tw-shop/web")
        assert rules(made, "output")[-2:] == ('oifname "veth1" accept', "goto fw-shop/web")
        assert rules(made, "output")[1].startswith("ip saddr != 10.0.0.1 counter goto silent")
        assert made.restored == []
        assert (await made.gate.check(CheckAttached(WEB.key))).problems == []


async def test_a_pod_of_a_shared_eni_has_no_table_of_its_own() -> None:
    async with node() as made:
        made.begin()
        made.says(pod("shop/web"))
        await made.gate.attach(attach("shop/web", "10.0.0.1"))
        assert made.sandboxes.tables == {}
        assert len(made.pods) == 0


async def test_a_policy_reaches_the_pods_that_it_selects() -> None:
    other = attach("shop/db", "10.0.0.2", sandbox="s2", uid="u2", mode=Mode.EXCLUSIVE_ENI)
    async with node() as made:
        made.begin()
        made.says(pod("shop/web"))
        made.says(pod("shop/db", uid="u2"))
        await made.gate.attach(WEB)
        second = "/run/netns/y"
        await made.gate.attach(replace(other, netns=second))
        made.says(deny_all("shop"))
        made.live.flush()
        await made.enforcer.in_force()
        assert "jump pi-default/shop/knp.default.deny" in rules(made, "tw-shop/db", second)
        assert made.restored == []


async def test_what_somebody_removed_is_put_back_and_said() -> None:
    async with node() as made:
        made.begin()
        made.says(pod("shop/web"))
        await made.gate.attach(WEB)
        wanted = made.sandboxes.tables[PATH]
        made.sandboxes.foreign(PATH, Table())
        assert (await made.gate.check(CheckAttached(WEB.key))).problems
        made.pods.heard(0)
        await until(lambda: made.restored)
        assert made.sandboxes.tables[PATH] == wanted
        assert made.restored == ["shop/web"]
        assert made.pods.restorations == 1
        made.pods.heard(0)  # ourselves
        await gone_round()
        assert made.pods.restorations == 1
        state = made.enforcer.state()
        assert (state.pods, state.restored, state.pods_trouble) == (1, 1, ())
        made.sandboxes.foreign(PATH, Table())
        made.pods.heard(-1)  # too much at once
        await until(lambda: made.pods.restorations == 2)


async def test_what_somebody_removed_while_a_policy_changes_is_put_back() -> None:
    async with node() as made:
        made.begin()
        made.says(pod("shop/web"))
        await made.gate.attach(WEB)
        made.sandboxes.foreign(PATH, Table())
        made.says(deny_all("shop"))
        made.live.flush()
        await made.enforcer.in_force()
        assert "jump pi-default/shop/knp.default.deny" in rules(made, "tw-shop/web")
        assert made.restored == ["shop/web"], "the change does not hide it"


async def test_what_a_pod_does_with_rules_of_its_own_is_no_event() -> None:
    async with node() as made:
        made.begin()
        made.says(pod("shop/web"))
        await made.gate.attach(WEB)
        made.sandboxes.foreign(PATH, made.sandboxes.tables[PATH])  # of another table, so ours is as it was
        made.says(deny_all("shop"))
        made.live.flush()
        await made.enforcer.in_force()
        assert "jump pi-default/shop/knp.default.deny" in rules(made, "tw-shop/web")
        assert made.restored == []


async def test_our_own_writes_are_known_by_their_generation() -> None:
    async with node() as made:
        made.begin()
        made.says(pod("shop/web"))
        await made.gate.attach(WEB)
        kept = made.sandboxes.kept
        now = made.sandboxes.generations[PATH]
        for generation in (now - 1, now):
            made.pods.heard(0, generation)
        await gone_round()
        assert made.sandboxes.kept == kept, "nobody looked"
        made.sandboxes.foreign(PATH, Table())
        made.pods.heard(0, now + 1)
        await until(lambda: made.restored)


@pytest.mark.parametrize("heard", [0, 1, 2])
async def test_what_is_heard_while_a_pod_is_written_is_judged_when_it_is(heard: int) -> None:
    async with node() as made:
        made.begin()
        made.says(pod("shop/web"))
        await made.gate.attach(WEB)
        before = made.sandboxes.generations[PATH]
        made.sandboxes.open.clear()
        made.says(deny_all("shop"))
        made.live.flush()
        await until(lambda: made.sandboxes.waiting)
        made.pods.heard(0, before + heard)
        kept = made.sandboxes.kept
        made.sandboxes.open.set()
        await made.enforcer.in_force()
        await gone_round()
        assert made.sandboxes.generations[PATH] == before + 1
        assert made.sandboxes.kept - kept == int(heard == 2), "ours is the next generation, not the one after"


def many(made: PlayedNode, number: int) -> list[Attach]:
    found = []
    for one in range(number):
        made.says(pod(f"shop/p{one}", uid=f"u{one}"))
        asked = attach(f"shop/p{one}", f"10.0.1.{one}", sandbox=f"s{one}x", uid=f"u{one}", mode=Mode.EXCLUSIVE_ENI)
        found.append(replace(asked, netns=f"/run/netns/p{one}"))
    return found


async def test_pods_are_written_side_by_side_and_not_all_at_once() -> None:
    async with node() as made:
        made.begin()
        for asked in many(made, 20):
            await made.gate.attach(asked)
        made.sandboxes.open.clear()
        made.says(deny_all("shop"))
        made.live.flush()
        await until(lambda: made.sandboxes.waiting == AT_ONCE)
        await gone_round()
        assert made.sandboxes.waiting == AT_ONCE
        assert made.enforcer.pending, "not all are written"
        made.sandboxes.open.set()
        await made.enforcer.in_force()
        assert all(
            "jump pi-default/shop/knp.default.deny" in rules(made, f"tw-shop/p{one}", f"/run/netns/p{one}")
            for one in range(20)
        )


async def test_a_pod_that_starts_waits_for_no_other() -> None:
    """A policy of all pods is being written, and goes nowhere."""
    async with node() as made:
        made.begin()
        for asked in many(made, 20):
            await made.gate.attach(asked)
            made.sandboxes.hangs.add(asked.netns)
        made.says(deny_all("shop"))
        made.live.flush()
        await until(lambda: made.sandboxes.waiting == AT_ONCE)
        made.says(pod("shop/web"))
        assert (await made.gate.attach(WEB)).enforced
        assert "jump pi-default/shop/knp.default.deny" in rules(made, "tw-shop/web")
        assert made.sandboxes.order[-1] == PATH
        made.sandboxes.hangs.clear()
        made.sandboxes.moved.set()
        await made.enforcer.in_force()


async def test_a_namespace_that_refuses_is_tried_again_by_itself() -> None:
    async with node() as made:
        made.begin()
        made.says(pod("shop/web"))
        await made.gate.attach(WEB)
        made.sandboxes.refuses[PATH] = Internal("the kernel refused")
        made.says(deny_all("shop"))
        made.live.flush()
        await made.enforcer.in_force()
        assert made.pods.trouble(WEB.key) == "the kernel refused"
        made.sandboxes.refuses.clear()
        await until(lambda: not made.pods.trouble(WEB.key))
        assert made.restored == [], "what could not be written is nobody else's doing"
        assert "jump pi-default/shop/knp.default.deny" in rules(made, "tw-shop/web")


async def test_one_pods_trouble_is_its_own() -> None:
    broken = attach("shop/db", "10.0.0.2", sandbox="s2", uid="u2", mode=Mode.EXCLUSIVE_ENI)
    broken = replace(broken, netns="/run/netns/y")
    async with node(bound_s=1.0) as made:
        made.begin()
        made.says(pod("shop/web"))
        made.says(pod("shop/db", uid="u2"))
        made.sandboxes.refuses["/run/netns/y"] = Internal("the kernel refused")
        with pytest.raises(Unavailable, match="the kernel refused"):
            await made.gate.attach(broken)
        assert (await made.gate.attach(WEB)).enforced
        [standing] = made.gate.standing(broken.pod)
        assert standing.trouble == "the kernel refused"
        assert made.enforcer.state().pods_trouble == ("shop/db: the kernel refused",)
        made.sandboxes.refuses.clear()
        assert (await made.gate.attach(broken)).enforced


async def test_a_namespace_that_ends_is_no_error() -> None:
    async with node() as made:
        made.begin()
        made.says(pod("shop/web"))
        await made.gate.attach(WEB)
        made.sandboxes.gone.add(PATH)
        made.pods.look()
        made.says(deny_all("shop"))
        made.live.flush()
        await made.enforcer.in_force()
        assert made.enforcer.trouble == ""
        assert made.pods.trouble(WEB.key) == "its network namespace has ended"
        await made.gate.detach(Detach(WEB.key))
        assert len(made.pods) == 0


async def test_after_a_restart_namespaces_are_searched_for() -> None:
    async with node() as made:
        made.says(pod("shop/web"))
        made.sandboxes.found["10.0.0.1"] = "/proc/7/ns/net"
        made.begin(lease(WEB))
        await made.enforcer.in_force()
        assert "tw-shop/web" in made.sandboxes.tables["/proc/7/ns/net"].chains
        assert made.sandboxes.searches == 1
        assert made.restored == []


async def test_what_is_not_found_is_not_searched_for_all_the_time() -> None:
    async with node() as made:
        made.says(pod("shop/web"))
        made.begin(lease(WEB))
        for _ in range(5):
            made.says(deny_all("shop"))
            made.live.flush()
            await made.enforcer.in_force()
        assert made.sandboxes.searches == 1
        assert "10.0.0.1" in made.pods.trouble(WEB.key)


@pytest.mark.parametrize("unready, last", [("open", "accept"), ("closed", "drop")])
async def test_a_pod_that_is_not_known_in_time_starts_as_configured(unready: str, last: str) -> None:
    async with node(bound_s=0.3, unready=unready) as made:  # type: ignore[arg-type]
        made.begin()
        assert await made.gate.attach(WEB) == Attached(enforced=False)
        await made.enforcer.in_force()
        assert last in rules(made, "input")[-1]
        made.says(pod("shop/web"))
        made.live.flush()
        await made.enforcer.in_force()
        assert rules(made, "input")[-1] == "goto tw-shop/web"


async def test_pods_that_come_and_go_while_others_are_written() -> None:
    async with node() as made:
        made.begin()
        made.says(pod("shop/web"))
        await made.gate.attach(WEB)
        for number in range(20):
            inside = Inside(
                attach("shop/web", "10.0.0.1", sandbox=f"other{number}").key,
                WEB.pod,
                "u1",
                (Ip(f"10.0.1.{number}"),),
                made.pods._held[WEB.key].inside.workload,
                f"/run/netns/{number}",
            )
            made.pods.attach(inside)
            made.enforcer.again()
            await asyncio.sleep(0)
            if number % 3 == 0:
                made.pods.detach(inside.key)
        await made.enforcer.in_force()
        assert len(made.pods) == 1 + 20 - 7


async def test_a_second_interface_of_a_sandbox_is_refused() -> None:
    async with node() as made:
        made.begin()
        made.says(pod("shop/web"))
        await made.gate.attach(WEB)
        with pytest.raises(Refused, match="one beside net1 already"):
            await made.gate.attach(replace(WEB, key=replace(WEB.key, ifname="net1")))
        assert (await made.gate.attach(WEB)).enforced, "a repetition is none"


async def test_a_slaves_pod_is_known_by_its_address_and_leaves_to_the_node_what_the_node_judges() -> None:
    web = attach("shop/web", "10.0.0.1", mode=Mode.SHARED_IPVLAN)
    async with node() as made:
        made.begin()
        made.says(pod("shop/web"))
        made.pods.beside(Beside(("192.168.0.1",), ("172.21.0.0/20", "169.254.20.10/32")))
        assert (await made.gate.attach(web)).enforced
        assert made.kernel.rules_of(web.host_link) is None
        assert made.kernel.table.elements["to-address4"] == {("10.0.0.1", "goto tw-shop/web")}
        assert made.kernel.table.elements["from-address4"] == {("10.0.0.1", "goto fw-shop/web")}
        assert rules(made, "input")[-2:] == ("ip saddr 192.168.0.1 accept", "goto tw-shop/web")
        assert rules(made, "output")[-2] == "ip daddr { 169.254.20.10, 172.21.0.0/20 } accept"
        # The node is known anew: the same sandbox, other rules, and nobody changed anything by hand.
        made.pods.beside(Beside(("192.168.0.2",), ("172.21.0.0/20",)))
        made.enforcer.again()
        await made.enforcer.in_force()
        assert rules(made, "input")[-2] == "ip saddr 192.168.0.2 accept"
        await made.gate.detach(Detach(web.key))
        assert "to-address4" not in made.kernel.table.elements


class Told:
    """Who watches tables; `made` lasts while `open` is not set."""

    def __init__(self) -> None:
        self.there: list[str] = []
        self.open = asyncio.Event()
        self.open.set()
        self.entered = 0

    async def made(self, inside: Inside, where: Where) -> None:
        self.entered += 1
        await self.open.wait()
        self.there.append(where.path)

    def ended(self, key: AttachmentKey) -> None:
        self.there.clear()

    def filled(self, key: AttachmentKey) -> Before:
        return nothing


async def test_who_watches_is_told_before_the_attach_is_answered_and_when_the_table_goes() -> None:
    async with node() as made:
        watching = Told()
        made.pods.watching.append(watching)
        made.begin()
        made.says(pod("shop/web"))
        watching.open.clear()
        answer = asyncio.create_task(made.gate.attach(WEB))
        await until(lambda: watching.entered)
        await gone_round()
        assert not answer.done()
        watching.open.set()
        assert (await answer).enforced
        assert watching.there == [PATH]
        made.says(deny_all("shop"))
        made.live.flush()
        await made.enforcer.in_force()
        assert watching.entered == 1, "once per namespace"
        made.sandboxes.gone.add(PATH)
        made.pods.look()
        await until(lambda: not watching.there)


async def test_a_pod_that_goes_while_watchers_are_told_leaves_nothing() -> None:
    async with node() as made:
        watching = Told()
        made.pods.watching.append(watching)
        made.begin()
        made.says(pod("shop/web"))
        watching.open.clear()
        answer = asyncio.create_task(made.gate.attach(WEB))
        await until(lambda: watching.entered)
        made.pods.detach(WEB.key)
        watching.open.set()
        await until(lambda: not made.pods.pending())
        assert watching.there == []
        answer.cancel()


async def test_a_pod_that_starts_open_is_written_where_its_add_said() -> None:
    async with node(bound_s=0.3, unready="open") as made:
        made.begin()
        assert await made.gate.attach(WEB) == Attached(enforced=False)
        assert made.sandboxes.searches == 0
