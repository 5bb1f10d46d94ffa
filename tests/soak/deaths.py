"""kill -9 and restarts of a lab's services at random moments."""

import asyncio
import random
from contextlib import suppress

from compose.lab import services
from compose.lab.layout import Layout
from shared.errors import SuiteError
from tests.soak.tally import Tally

DOWN_S = (0.0, 0.0, 0.3, 1.0, 3.0)


class Deaths:
    """Each service of each node dies by itself; now and then all of a node's at once, as when it is upgraded."""

    def __init__(self, layout: Layout, nodes: list[str], tally: Tally, chance: random.Random) -> None:
        self._layout, self._nodes, self._tally, self._chance = layout, nodes, tally, chance
        self._locks = {(node, service.name): asyncio.Lock() for node in nodes for service in services.SERVICES}

    async def strike(self, stop: asyncio.Event) -> None:
        """Until `stop`; then every service runs again."""
        async with asyncio.TaskGroup() as tasks:
            while not stop.is_set():
                node = self._chance.choice(self._nodes)
                victims = services.SERVICES if self._chance.random() < 0.1 else [self._chance.choice(services.SERVICES)]
                for victim in victims:
                    tasks.create_task(self._one(node, victim), name=f"death-{node}-{victim.name}")
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._chance.uniform(0.5, 6.0)):
                        await stop.wait()

    async def _one(self, node: str, service: services.Service) -> None:
        async with self._locks[node, service.name]:
            corner, kill = self._layout.node(node), self._chance.random() < 0.8
            await services.stop(corner, service, kill=kill)
            self._tally.deaths[f"{service.name} {'kill -9' if kill else 'SIGTERM'}"] += 1
            await asyncio.sleep(self._chance.choice(DOWN_S))
            services.start(corner, service)


def unexpected(layout: Layout, nodes: list[str]) -> list[str]:
    """What services logged with a traceback: each is a bug, whatever the weather."""
    found = []
    for node in nodes:
        for service in services.SERVICES:
            with suppress(FileNotFoundError, SuiteError):
                text = layout.node(node).log(service.name).read_text(errors="replace")
                marks = ('"traceback"', "Traceback (most recent", '"code":"internal"')
                found += [f"{node}: {line[:2000]}" for line in text.splitlines() if any(mark in line for mark in marks)]
    return found
