"""`make soak`: pods come and go on two nodes with real services while everything goes wrong; then nothing may be left.

    churn (kubelets)  +  weather (faults on every action)  +  deaths (kill -9, restarts)      SOAK_S seconds
    ─► calm: all services up, no faults ─► audit with the last pods alive ─► all deleted ─► audit of nothing

The seed decides what is tried when; how the machine's threads fall between is not repeated.
"""

import asyncio
import os
import random
import sys
import time
from collections.abc import Sequence

import click
import msgspec

from compose.lab import audit, lab, services
from compose.lab.layout import Layout
from compose.lab.pods import Pods
from compose.lab.reach import reach
from compose.lab.record import Options, Record, Stack
from compose.lab.serve import Port
from shared.errors import SuiteError
from shared.model import PodKey
from tests.soak import books
from tests.soak.churn import NAMESPACE, Churn
from tests.soak.deaths import Deaths, unexpected
from tests.soak.tally import Tally
from tests.soak.weather import Weather

STREAMS = 10
"""Pods at a time on each node: with those that wait for their pod, more than two ENIs' addresses."""
CALM_WITHIN_S = 120.0
QUICK_GARBAGE = {"garbage_period_s": 5.0, "garbage_confirm_s": 2.0, "garbage_min_age_s": 20.0, "sticky_s": 20.0}
OPTIONS = Options(nodes=2, pool=(1, 4), runtime="cni", processes=True, delays="fast", cooldown_s=2.0, pool_sync_s=10.0)


def say(line: str) -> None:
    """Progress, with the time since the start."""
    click.echo(f"[{time.monotonic() - BEGAN:6.1f}s] {line}")


BEGAN = time.monotonic()


async def soak(layout: Layout, *, seconds: float, seed: int, stack: Stack = "ipv4") -> list[str]:
    """Everything; the problems that were found."""
    tally, chance = Tally(), random.Random(seed)  # repeatable, no secret
    async with lab.temporary(layout, msgspec.structs.replace(OPTIONS, stack=stack), say=say) as record:
        nodes = [facts.name for facts in record.nodes]
        await _quicken(layout, nodes)
        async with Pods(layout, dict.fromkeys(nodes, OPTIONS.runtime)) as pods:
            await pods.ensure_namespace(NAMESPACE)
            found = await _storm(layout, nodes, pods, tally, chance, seconds)
            found += await _aftermath(layout, record, nodes, pods, tally)
            for line in tally.lines():
                say(line)
        if found:
            keep = f"/tmp/soak-{seed}"  # for a person, who is told
            os.system(f"mkdir -p {keep} && cp -r {layout.folder} {keep}")  # noqa: ASYNC221
            say(f"logs and databases are kept in {keep}")
    return found


async def _quicken(layout: Layout, nodes: Sequence[str]) -> None:
    """Garbage and promises end within the soak."""
    for node in nodes:
        corner = layout.node(node)
        config = msgspec.json.decode(corner.config.read_bytes())
        config["ipam"].update(QUICK_GARBAGE)
        services.write_config(corner, config)
        await services.restart(corner, services.named("ipam"))
        await services.wait_ready(corner)


async def _storm(
    layout: Layout, nodes: list[str], pods: Pods, tally: Tally, chance: random.Random, seconds: float
) -> list[str]:
    churn = Churn(layout, pods, tally, chance)
    weather, deaths = Weather(layout, nodes, tally, chance), Deaths(layout, nodes, tally, chance)
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        streams = [tasks.create_task(churn.stream(node, number)) for node in nodes for number in range(STREAMS)]
        bad = [tasks.create_task(weather.blow(stop)), tasks.create_task(deaths.strike(stop))]
        ends = time.monotonic() + seconds
        while (left := ends - time.monotonic()) > 0:
            await asyncio.sleep(min(30.0, left))
            say(
                f"{tally.adds['ok']} pods ran, {sum(tally.deaths.values())} deaths, {sum(tally.faults.values())} faults"
            )
        stop.set()
        await asyncio.wait(bad)
        await weather.clear()
        churn.closing.set()
        say("the weather has cleared; waiting for what is under way")
        _, late = await asyncio.wait(streams, timeout=CALM_WITHIN_S)
        for stream in late:
            stream.cancel()
    return [f"{len(late)} pods neither ran nor ended within {CALM_WITHIN_S:g} s of calm"] if late else []


async def _aftermath(layout: Layout, record: Record, nodes: list[str], pods: Pods, tally: Tally) -> list[str]:
    """All agree on the pods that are left, these reach each other, and then all agree on nothing."""
    found: list[str] = []
    for node in nodes:
        await services.wait_ready(layout.node(node), within_s=CALM_WITHIN_S)
    found += await _audited("pods alive", layout, record, nodes, pods)
    alive = [PodKey(*info.pod.split("/")) for info in await pods.list()]
    say(f"{len(alive)} pods are alive")
    for node in nodes:
        await pods.add(PodKey(NAMESPACE, f"server-{node}"), node=node, ports=[Port(80, "udp")])
    for source in alive:
        for node in nodes:
            answer = await reach(layout, record, pods, source=str(source), target=f"{NAMESPACE}/server-{node}:80/udp")
            if not answer.reached:
                found.append(f"{source} does not reach the pod on {node}: {answer.reason}")
    churn = Churn(layout, pods, tally, random.Random(0))
    for info in await pods.list():
        await churn.delete(PodKey(*info.pod.split("/")))
    found += await _audited("all pods deleted", layout, record, nodes, pods)
    left = {name: node.leases for name, node in (await audit.audit(layout, record)).nodes.items() if node.leases}
    found += [f"{name}: leases are left: {leases}" for name, leases in left.items()]
    found += unexpected(layout, nodes)
    return found


async def _audited(when: str, layout: Layout, record: Record, nodes: list[str], pods: Pods) -> list[str]:
    try:
        await audit.until_clean(layout, record, within_s=CALM_WITHIN_S)
        say(f"{when}: clean")
    except SuiteError as error:
        return [f"{when}: {error.message}"]
    return [f"{when}: {problem}" for problem in await books.problems(layout, nodes, pods)]


@click.command()
@click.option("--seconds", type=float, default=1800.0, show_default=True, help="Of bad weather.")
@click.option("--seed", type=int, help="Of an earlier run; else a new one, which is printed.")
@click.option("--name", default=f"soak{os.getpid() % 100000}", help="Of the lab.")
@click.option("--stack", type=click.Choice(["ipv4", "dual"]), default="ipv4", show_default=True)
def main(seconds: float, seed: int | None, name: str, stack: Stack) -> None:
    """Run a soak; exits with 1 when something leaked, doubled or died of a bug."""
    seed = random.SystemRandom().randrange(1 << 32) if seed is None else seed
    say(f"soak of {seconds:g} s, seed {seed}")
    found = asyncio.run(soak(Layout.of(name), seconds=seconds, seed=seed, stack=stack))
    for problem in found:
        click.echo(f"PROBLEM: {problem}", err=True)
    say(f"seed {seed}: {'clean' if not found else f'{len(found)} problems'}")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
