"""The gate and the loop behind it: what an answer to the gateway promises about the kernel."""

import asyncio
import itertools
import time
from collections.abc import Callable

import pytest

from services.policy.core.nft.model import Table
from shared.contracts.policy import Attached, CheckAttached, Detach
from shared.errors import Internal, Unavailable
from tests.policy.apply.node import PlayedNode, attach, deny_all, lease, node, pod

WEB = attach("shop/web", "10.0.0.1")
PATIENCE_S = 20.0


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not true():  # noqa: ASYNC110  what is waited for has no event
            await asyncio.sleep(0)


async def gone_round() -> None:
    """Everybody who could go on has gone on."""
    for _ in range(50):
        await asyncio.sleep(0)


async def test_attach_answers_when_the_rules_are_in_the_kernel() -> None:
    async with node() as made:
        made.begin()
        made.says(pod("shop/web"))  # as a kubelet has it before the sandbox: without an address
        made.kernel.open.clear()
        answer = asyncio.create_task(made.gate.attach(WEB))
        await gone_round()
        assert not answer.done()
        made.kernel.open.set()
        assert await answer == Attached(enforced=True)
        assert made.kernel.rules_of(WEB.host_link) == "goto tw-shop/web"
        assert made.asked == []
        [standing] = made.gate.standing(WEB.pod)
        assert standing.enforced_at >= standing.attached_at > 0
        assert not standing.pending
        assert standing.profiles == ("kns.shop",)


async def test_the_labels_are_the_objects_own_and_the_address_the_leases() -> None:
    async with node() as made:
        made.begin()
        made.says(deny_all("shop"))
        made.says(pod("shop/web", app="web"))
        await made.gate.attach(WEB)
        endpoint = next(iter(made.live.cluster.state.workloads.values()))
        assert endpoint.ipv4_nets == ("10.0.0.1/32",)
        assert made.gate.standing(WEB.pod)[0].policies == ("shop/knp.default.deny",)
        made.says(pod("shop/web", address="10.0.0.99"))  # a status that is older than the sandbox
        made.live.flush()
        assert next(iter(made.live.cluster.state.workloads.values())).ipv4_nets == ("10.0.0.1/32",)


async def test_the_watch_is_late_so_the_api_server_is_asked() -> None:
    async with node() as made:
        made.begin()
        made.api[WEB.pod] = pod("shop/web")
        assert (await made.gate.attach(WEB)).enforced
        assert made.asked == [WEB.pod]
        await made.gate.detach(Detach(WEB.key))
        assert made.live.cluster.state.workloads == {}, "nobody would ever have said that it went"


async def test_an_object_of_a_namesake_is_not_the_pods() -> None:
    async with node(bound_s=1.0) as made:
        made.begin()
        made.says(pod("shop/web", uid="older"))
        with pytest.raises(Unavailable, match="knows no pod shop/web"):
            await made.gate.attach(WEB)
        made.says(pod("shop/web"))
        assert (await made.gate.attach(WEB)).enforced


@pytest.mark.parametrize("known", ["nothing", "no leases"])
async def test_nothing_is_written_before_everything_is_known(known: str) -> None:
    async with node(bound_s=0.2) as made:
        made.says(pod("shop/web"))
        if known == "no leases":
            made.live.in_sync()
            made.live.flush()
        with pytest.raises(Unavailable, match=r"not within 0\.2 s"):
            await made.gate.attach(WEB)
        assert made.kernel.changes == [], "old rules stay until all is known that the new ones depend on"
        assert made.outcomes == ["retry"]


async def test_unready_closed_starts_the_pod_and_lets_nothing_pass() -> None:
    async with node(bound_s=0.2, unready="closed") as made:
        made.begin()
        assert await made.gate.attach(WEB) == Attached(enforced=False)
        await made.enforcer.in_force()
        assert made.kernel.rules_of(WEB.host_link) is None, "a pod's link that is in no map drops everything"
        made.says(pod("shop/web"))
        made.live.flush()
        await made.enforcer.in_force()
        assert made.kernel.rules_of(WEB.host_link) == "goto tw-shop/web"


async def test_unready_open_starts_the_pod_and_lets_everything_pass() -> None:
    async with node(bound_s=0.2, unready="open") as made:
        made.begin()
        assert await made.gate.attach(WEB) == Attached(enforced=False)
        assert made.kernel.rules_of(WEB.host_link) == "accept"
        made.says(pod("shop/web"))
        made.live.flush()
        await made.enforcer.in_force()
        assert made.kernel.rules_of(WEB.host_link) == "goto tw-shop/web"
        assert made.outcomes == ["open"]


async def test_detach_answers_when_the_link_is_nobodys() -> None:
    async with node() as made:
        made.begin()
        made.says(pod("shop/web", address="10.0.0.1"))
        await made.gate.attach(WEB)
        made.kernel.rules_now = lambda: made.kernel.rules_of(WEB.host_link)
        made.kernel.open.clear()
        answer = asyncio.create_task(made.gate.detach(Detach(WEB.key)))
        await gone_round()
        assert not answer.done()
        made.kernel.open.set()
        await answer
        assert made.kernel.rules_of(WEB.host_link) is None
        assert made.kernel.forgotten == ["10.0.0.1", "10.0.0.1"], "what an earlier owner had, and what this one had"
        assert made.live.cluster.state.workloads == {}, "its address may be another pod's, whatever its status says"
        await made.gate.detach(Detach(WEB.key))  # unknown by now


async def test_a_new_sandbox_of_the_same_pod_outlives_the_end_of_the_old() -> None:
    again = attach("shop/web", "10.0.0.2", sandbox="s2")
    async with node() as made:
        made.begin()
        made.says(pod("shop/web"))
        await made.gate.attach(WEB)
        await made.gate.attach(again)
        await made.gate.detach(Detach(WEB.key))
        assert made.kernel.rules_of(WEB.host_link) is None
        assert made.kernel.rules_of(again.host_link) == "goto tw-shop/web"
        assert next(iter(made.live.cluster.state.workloads.values())).ipv4_nets == ("10.0.0.2/32",)


async def test_what_is_wired_is_known_again_after_a_restart() -> None:
    async with node() as made:
        made.says(pod("shop/web"))
        made.begin(lease(WEB))
        await made.enforcer.in_force()
        made.gate.in_force()
        assert made.kernel.rules_of(WEB.host_link) == "goto tw-shop/web"
        assert len(made.kernel.changes) == 1, "all at once"
        assert made.gate.standing(WEB.pod)[0].enforced_at > 0
        assert (await made.gate.check(CheckAttached(WEB.key))).problems == []


async def test_leases_say_what_nobody_detached() -> None:
    async with node() as made:
        made.says(pod("shop/web"))
        made.begin(lease(WEB))
        made.adopt()
        assert made.gate.count() == 1, "once may be a list that is older than the lease"
        made.adopt()
        assert made.gate.count() == 0
        await made.enforcer.in_force()
        assert made.kernel.rules_of(WEB.host_link) is None


async def test_a_lease_that_is_still_held_after_detach_brings_nothing_back() -> None:
    async with node() as made:
        made.begin()
        made.says(pod("shop/web"))
        await made.gate.attach(WEB)
        await made.gate.detach(Detach(WEB.key))
        made.adopt(lease(WEB))
        assert made.gate.count() == 0
        assert "does not know it" in (await made.gate.check(CheckAttached(WEB.key))).problems[0]
        await made.gate.attach(WEB)  # the runtime tries the same ADD once more
        made.adopt(lease(WEB))
        assert made.gate.count() == 1


async def test_a_list_that_is_older_than_the_sandbox_decides_nothing() -> None:
    async with node() as made:
        made.begin()
        made.says(pod("shop/web"))
        asked_at = time.monotonic()
        await made.gate.attach(WEB)
        await made.gate.detach(Detach(WEB.key))
        made.gate.adopt([], asked_at)  # from before the lease
        made.adopt(lease(WEB))  # which is held until the link is gone
        assert made.gate.count() == 0
        made.adopt()
        made.adopt(lease(WEB))  # the same key again, after its end
        assert made.gate.count() == 1


async def test_check_says_what_is_not_as_it_should_be() -> None:
    async with node() as made:
        made.begin()
        made.says(pod("shop/web"))
        await made.gate.attach(WEB)
        assert (await made.gate.check(CheckAttached(WEB.key))).problems == []
        made.kernel.foreign(Table())
        assert "not as they should be" in (await made.gate.check(CheckAttached(WEB.key))).problems[0]
        await until(lambda: made.kernel.rules_of(WEB.host_link))
        assert made.enforcer.state().repairs == 1


async def test_what_the_kernel_refuses_is_tried_again_from_what_is_there() -> None:
    async with node() as made:
        made.begin()
        await made.enforcer.in_force()
        made.kernel.refuses = [Internal("not now"), Internal("nor now")]
        made.says(pod("shop/web"))
        assert (await made.gate.attach(WEB)).enforced
        assert made.kernel.rules_of(WEB.host_link) == "goto tw-shop/web"
        assert made.enforcer.trouble == ""


async def test_a_foreign_change_is_mended_at_once() -> None:
    async with node() as made:
        made.says(pod("shop/web"))
        made.begin(lease(WEB))
        await made.enforcer.in_force()
        made.kernel.foreign(Table())
        made.enforcer.suspect()
        await until(lambda: made.kernel.rules_of(WEB.host_link))
        assert made.enforcer.state().last_repair


async def test_changes_that_come_while_one_is_written_are_one() -> None:
    async with node() as made:
        made.begin()
        await made.enforcer.in_force()
        before = len(made.kernel.changes)
        made.kernel.open.clear()
        answers = []
        for number in range(20):
            name = f"shop/web{number}"
            made.says(pod(name))
            answers.append(asyncio.create_task(made.gate.attach(attach(name, f"10.0.1.{number}", sandbox=name))))
            await gone_round()
        made.kernel.open.set()
        assert all(answer.enforced for answer in await asyncio.gather(*answers))
        assert len(made.kernel.changes) - before == 2, "the first, and all the others"


async def test_any_order_of_what_happens_ends_in_the_same() -> None:
    """The object, the sandbox, the status and the lease list come as they like."""

    def by_watch(made: PlayedNode) -> None:
        made.says(pod("shop/web"))

    def by_status(made: PlayedNode) -> None:
        made.says(pod("shop/web", address="10.0.0.1"))

    def by_lease(made: PlayedNode) -> None:
        made.adopt(lease(WEB))

    def by_attach(made: PlayedNode) -> None:
        attaching.append(asyncio.create_task(made.gate.attach(WEB)))

    tables = []
    for order in itertools.permutations((by_watch, by_status, by_lease, by_attach)):
        async with node() as made:
            attaching: list[asyncio.Task[Attached]] = []
            made.begin()
            for act in order:
                act(made)
                made.live.flush()
                await gone_round()
            made.says(pod("shop/web", address="10.0.0.1"))
            made.live.flush()
            made.adopt(lease(WEB))
            assert [answer.enforced for answer in await asyncio.gather(*attaching)] == [True]
            await made.enforcer.in_force()
            tables.append(made.kernel.table)
    assert all(table == tables[0] for table in tables)
