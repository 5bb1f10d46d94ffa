"""What the events of a node say of an inventory (terway.md §11.4): each thing once, for as long as it lasts.

What may pass by itself, such as a throttled call, is said only when it has lasted: an event for every blip teaches
people to ignore events (terway.md §13 R25).
"""

from shared.contracts.eni import Inventory

LASTING_S = 10.0

Event = tuple[str, str]
"""(reason, message)"""


class NodeNews:
    """Remembers what has been said."""

    def __init__(self) -> None:
        self._since: dict[Event, float] = {}
        self._said: set[Event] = set()

    def heard(self, inventory: Inventory, now: float) -> list[Event]:
        """What is to be said now. `now` is in seconds; the same inventory may be heard again and again."""
        patience: dict[Event, float] = {("ResourceInvalid", text): 0.0 for text in sorted(inventory.warnings)}
        if inventory.blocked:
            patience["AllocResourceFailed", inventory.blocked] = LASTING_S
        patience.update({("DisposeResourceFailed", text): LASTING_S for text in sorted(inventory.releasing)})
        self._since = {event: self._since.get(event, now) for event in patience}
        due = [
            event for event, least in patience.items() if event not in self._said and now - self._since[event] >= least
        ]
        self._said = (self._said & patience.keys()) | set(due)
        return due
