"""One keeper per ENI carries out what the machine says and feeds back what it finds.

    RESUME ─► Do ─► intent ─► call ─► facts (journal, then fleet) ─► Event ─► step ─► Do ─► … ─► at rest: chores

A keeper is the only one that moves its ENI, so its calls never overlap. A call that fails in passing is made again
after a pause, with the same token; what that means for pods shows as a trouble in the inventory. Handlers, placement
and the comparison with the cloud only leave word (`poke`, `sight`). What each Do does is in steps.py.
"""

import asyncio
import random
from collections.abc import Iterator

from services.eni_manager.chores import Chores
from services.eni_manager.core.drift import CloudEni, judge
from services.eni_manager.core.machine import LEAVING, RESUME, Do, Event, State, step
from services.eni_manager.core.model import Eni, Moved
from services.eni_manager.steps import Outcome, Steps
from services.eni_manager.world import World
from shared import log as logs
from shared.backoff import Backoff

AFTER_A_BUG = Backoff(5.0, 2.0, 0.3, cap_s=300.0)

log = logs.get(__name__)


class Keeper:
    """See the module's docstring. `run` ends when the ENI is gone."""

    def __init__(self, name: str, world: World) -> None:
        self.name, self._world = name, world
        self._wake = asyncio.Event()
        self._steps = Steps(name, world)
        self._chores = Chores(name, world)
        self._sighting: tuple[Eni, CloudEni | None] | None = None
        self._doubts: frozenset[str] = frozenset()
        self.settled = asyncio.Event()
        """It has come to rest once, or failed once, since the start."""

    # ---- what others may do

    def poke(self) -> None:
        """Something may have to be done."""
        self._wake.set()

    def sight(self, before: Eni, seen: CloudEni | None) -> None:
        """How the cloud lists the ENI, in a listing begun when it was as in `before`; None: not at all."""
        self._sighting = (before, seen)
        self._wake.set()

    # ---- the life

    @property
    def _eni(self) -> Eni:
        return self._world.fleet.enis[self.name]

    async def run(self) -> None:
        """Live until GONE. A bug of ours stops this ENI for a while, not the node."""
        pauses = AFTER_A_BUG.delays(random.random)
        while self.name in self._world.fleet.enis:
            try:
                await self._live()
            except Exception as error:
                log.exception("keeper_failed", eni=self.name)
                self._world.fleet.set_trouble(self.name, f"{self.name}: {type(error).__name__}: {error}")
                self.settled.set()
                await asyncio.sleep(next(pauses))

    async def _live(self) -> None:
        state, do = RESUME[self._eni.state]
        if state is not self._eni.state:
            await self._world.record([Moved(self.name, state, "the service has started")])
        pauses = self._world.pauses()
        while True:
            outcome = await (self._at_rest() if do is None else self._carry_out(do))
            if outcome.event is Event.FAILED:
                await self._failed(outcome, pauses)
                continue
            pauses = self._world.pauses()
            self._world.fleet.set_trouble(self.name, "")
            state, do = step(self._eni.state, outcome.event, story=self._eni.story)
            facts = (*outcome.facts, Moved(self.name, state, outcome.note))
            await self._world.record(facts, ends=outcome.ends, outcome=outcome.code)
            log.info("eni_moved", eni=self.name, state=str(state), because=outcome.note)
            self._world.decide()
            if state is State.GONE:
                self.settled.set()
                return

    async def _failed(self, outcome: Outcome, pauses: Iterator[float]) -> None:
        if outcome.ends is not None:
            await self._world.record(outcome.facts, ends=outcome.ends, outcome=outcome.code)
        self._world.fleet.set_trouble(self.name, outcome.note)
        self.settled.set()
        pause = next(pauses)
        log.warning("eni_step_failed", eni=self.name, because=outcome.note, again_in_s=round(pause, 1))
        await asyncio.sleep(pause)

    async def _carry_out(self, do: Do) -> Outcome:
        if do in (Do.DETACH, Do.DELETE):
            return await self._steps.do(do)
        with self._world.bringing():
            return await self._steps.do(do)

    # ---- at rest

    async def _at_rest(self) -> Outcome:
        """Look after the addresses until the ENI has to move."""
        while True:
            if self._eni.state in LEAVING:
                raise AssertionError(f"{self.name} is {self._eni.state} and has nothing to do")
            self._wake.clear()
            if (outcome := await self._weigh_sighting()) is not None:
                return outcome
            if await self._chores.leave():
                return Outcome(Event.RELEASED, "all its addresses are given back")
            if not await self._chores.next():
                self.settled.set()
                await self._wake.wait()

    async def _weigh_sighting(self) -> Outcome | None:
        sighting, self._sighting = self._sighting, None
        if sighting is None or sighting[0] is not self._eni:  # it has changed since: the listing may be older
            return None
        world = self._world
        verdict = judge(self._eni, sighting[1], instance=world.node.instance, doubts=self._doubts, dual=world.dual)
        self._doubts = verdict.doubts
        for notice in verdict.notices:
            world.notice(self.name, notice)
        if verdict.facts:
            await world.record(verdict.facts)
            world.decide()
        if verdict.taken:
            await world.give_back(verdict.taken, of=self.name)
        return None if verdict.event is None else Outcome(verdict.event, verdict.notices[0])
