"""The life of one ENI, as data.

    WANTED ─► CREATED ─► ATTACHING ─► ATTACHED ─► READY ◄─► DRAINING
      │          │           │            │         │  REJOINING │
      │          │           └─► DETACHING ◄────────┴────────────┘
      ▼          ▼                   │
     GONE ◄── DELETING ◄─────────────┘

A state says what is known and written down; the Do beside it is the one thing that its keeper does next, None means
"at rest: look after the addresses". An event is a fact that the keeper has established.

Until READY no pod can have used the ENI, so a failure on the way up disposes of it at once. Once READY, pods may use
it: whatever happens, it leaves only after ipam has given back every address (RELEASED). LOST therefore leads to
DRAINING, in which nothing is done but wait; and a restart leads from READY to REJOINING, which checks and wires it
again without the right to dispose of it.

FAILED is a failure that passes (throttling, no answer): the same Do again after a pause. REFUSED is a definite one.
"""

from enum import StrEnum, unique


@unique
class State(StrEnum):
    """Where an ENI is in its life; journalled."""

    WANTED = "wanted"
    """Written down with its client token; the call may have been made, its answer is not known."""
    CREATED = "created"
    """It exists in the cloud, unattached; id, MAC and addresses are known."""
    ATTACHING = "attaching"
    """The cloud has accepted the attachment."""
    ATTACHED = "attached"
    """In use by this instance as the cloud says; not yet seen and wired here."""
    READY = "ready"
    """Wired; its valid addresses may be given to pods."""
    REJOINING = "rejoining"
    """It was READY once, pods may use it; being checked and wired again."""
    DRAINING = "draining"
    """The cloud no longer has it here, or its device is gone; waits for ipam to give its addresses back."""
    DETACHING = "detaching"
    """Every address is given back; being detached."""
    DELETING = "deleting"
    """Detached; being deleted."""
    GONE = "gone"
    """Nothing is left of it."""


@unique
class Event(StrEnum):
    """What a keeper has found out."""

    CREATED = "created"
    ACCEPTED = "accepted"
    IN_USE = "in_use"
    CONFIGURED = "configured"
    REFUSED = "refused"
    FAILED = "failed"
    LOST = "lost"
    FOUND = "found"
    RELEASED = "released"
    DETACHED = "detached"
    DELETED = "deleted"


@unique
class Do(StrEnum):
    """What a keeper does next."""

    CREATE = "create"
    ATTACH = "attach"
    AWAIT_IN_USE = "await_in_use"
    CONFIGURE = "configure"
    DETACH = "detach"
    DELETE = "delete"


S, E = State, Event

TRANSITIONS: dict[tuple[State, Event], tuple[State, Do | None]] = {
    (S.WANTED, E.CREATED): (S.CREATED, Do.ATTACH),
    (S.WANTED, E.REFUSED): (S.GONE, None),
    (S.WANTED, E.FAILED): (S.WANTED, Do.CREATE),
    (S.CREATED, E.ACCEPTED): (S.ATTACHING, Do.AWAIT_IN_USE),
    (S.CREATED, E.IN_USE): (S.ATTACHED, Do.CONFIGURE),
    (S.CREATED, E.REFUSED): (S.DELETING, Do.DELETE),
    (S.CREATED, E.LOST): (S.DELETING, Do.DELETE),
    (S.CREATED, E.FAILED): (S.CREATED, Do.ATTACH),
    (S.ATTACHING, E.IN_USE): (S.ATTACHED, Do.CONFIGURE),
    (S.ATTACHING, E.REFUSED): (S.DETACHING, Do.DETACH),
    (S.ATTACHING, E.LOST): (S.DETACHING, Do.DETACH),
    (S.ATTACHING, E.FAILED): (S.ATTACHING, Do.AWAIT_IN_USE),
    (S.ATTACHED, E.CONFIGURED): (S.READY, None),
    (S.ATTACHED, E.REFUSED): (S.DETACHING, Do.DETACH),
    (S.ATTACHED, E.LOST): (S.DETACHING, Do.DETACH),
    (S.ATTACHED, E.FAILED): (S.ATTACHED, Do.CONFIGURE),
    (S.READY, E.LOST): (S.DRAINING, None),
    (S.READY, E.RELEASED): (S.DETACHING, Do.DETACH),
    (S.REJOINING, E.CONFIGURED): (S.READY, None),
    (S.REJOINING, E.REFUSED): (S.DRAINING, None),
    (S.REJOINING, E.LOST): (S.DRAINING, None),
    (S.REJOINING, E.FAILED): (S.REJOINING, Do.CONFIGURE),
    (S.DRAINING, E.FOUND): (S.REJOINING, Do.CONFIGURE),
    (S.DRAINING, E.RELEASED): (S.DETACHING, Do.DETACH),
    (S.DETACHING, E.DETACHED): (S.DELETING, Do.DELETE),
    (S.DETACHING, E.FAILED): (S.DETACHING, Do.DETACH),
    (S.DELETING, E.DELETED): (S.GONE, None),
    (S.DELETING, E.IN_USE): (S.DETACHING, Do.DETACH),
    (S.DELETING, E.FAILED): (S.DELETING, Do.DELETE),
}
"""Every pair that can happen; any other is a bug and raises IllegalStep."""

RESUME: dict[State, tuple[State, Do | None]] = {
    S.WANTED: (S.WANTED, Do.CREATE),
    S.CREATED: (S.CREATED, Do.ATTACH),
    S.ATTACHING: (S.ATTACHING, Do.AWAIT_IN_USE),
    S.ATTACHED: (S.ATTACHED, Do.CONFIGURE),
    S.READY: (S.REJOINING, Do.CONFIGURE),
    S.REJOINING: (S.REJOINING, Do.CONFIGURE),
    S.DRAINING: (S.DRAINING, None),
    S.DETACHING: (S.DETACHING, Do.DETACH),
    S.DELETING: (S.DELETING, Do.DELETE),
    S.GONE: (S.GONE, None),
}
"""What a restart makes of each journalled state, and does again. Total."""

ON_THE_WAY = frozenset({S.WANTED, S.CREATED, S.ATTACHING, S.ATTACHED})
"""No pod has had an address of it yet."""

LEAVING = frozenset({S.DETACHING, S.DELETING, S.GONE})
"""No address of it comes back."""

HOLDS_A_SLOT = frozenset(State) - {S.GONE}
"""Counts against the instance type's number of ENIs."""


class IllegalStep(Exception):
    """A pair that cannot happen did; carries the ENI's story."""

    def __init__(self, state: State, event: Event, story: tuple[str, ...]) -> None:
        super().__init__(f"{event} cannot happen to an ENI that is {state}; its story: {' | '.join(story) or 'none'}")
        self.state, self.event, self.story = state, event, story


def step(state: State, event: Event, *, story: tuple[str, ...] = ()) -> tuple[State, Do | None]:
    """The next state and what to do in it."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise IllegalStep(state, event, story) from None
