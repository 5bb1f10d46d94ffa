"""eni_manager as ipam sees it: an inventory that changes, a total it is told, items it is given back."""

from collections.abc import Iterable

from shared.contracts import eni
from shared.contracts.ipam import Bandwidth
from shared.errors import SuiteError, Unavailable
from shared.model import AttachmentKey, Ip
from shared.rpc.client import Client

ANSWER_WITHIN_S = 10.0
"""What the neighbour may take beyond the time that it was asked to wait."""


class Enis:
    """Calls to eni_manager. Every SuiteError may come out of each, Unavailable while nobody is there."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.absent = ""
        """Why eni_manager is known not to be there; empty: it is there, or nobody has tried yet."""

    async def watch(self, epoch: str, generation: int, wait_s: float) -> eni.Inventory:
        """The inventory as soon as it differs from (epoch, generation), at the latest after about `wait_s`."""
        question = eni.Watch(epoch, generation, wait_s)
        try:
            inventory = await self._client.call(eni.WATCH, question, deadline_s=wait_s + ANSWER_WITHIN_S)
        except SuiteError as error:
            self.absent = error.message if isinstance(error, Unavailable) else self.absent
            raise
        self.absent = ""
        return inventory

    async def demand(self, total: int, waiting: int, pairs: dict[Ip, Ip]) -> None:
        """Say how many items the node should hold, and which addresses of leases are pairs."""
        await self._client.call(eni.DEMAND, eni.Demand(total, waiting, pairs))

    async def give_back(self, items: list[Ip]) -> eni.GivenBack:
        """Hand items over for good; they must be marked durably before."""
        return await self._client.call(eni.GIVE_BACK, eni.GiveBack(items))

    async def limit(self, key: AttachmentKey, bandwidth: Bandwidth) -> None:
        """Have a sandbox that is plugged limited so. NotFound: it is not (yet, or any more)."""
        await self._client.call(eni.LIMIT, eni.Limit(key, bandwidth))

    async def attachments(self) -> list[eni.Attachment]:
        """Everything that is wired, or was and has not been cleared away."""
        return (await self._client.call(eni.ATTACHMENTS, eni.ListAttachments())).attachments

    async def connected(self) -> frozenset[AttachmentKey]:
        """The attachments of which something is alive."""
        return alive(await self.attachments())

    async def clear(self, key: AttachmentKey) -> None:
        """Clear away what is left of a dead sandbox: rules, routes, the record. Conflict: it lives."""
        await self._client.call(eni.UNPLUG, eni.Unplug(key, unless_alive=True))


def alive(attachments: Iterable[eni.Attachment]) -> frozenset[AttachmentKey]:
    """Those of which something is alive."""
    return frozenset(attachment.key for attachment in attachments if attachment.alive)
