"""The renderer: messages in, the wanted table and what changed of it out."""

from collections.abc import Iterable, Mapping

from services.policy.core import messages as m
from services.policy.core.nft.model import Change, Table
from services.policy.core.nft.settings import Attachment, Settings


class Renderer:
    """The host's table. A flush costs what the messages since the last one name, never what there is."""

    def __init__(self, settings: Settings = Settings()) -> None:  # noqa: B008  frozen
        self.settings = settings

    def take(self, message: m.Message) -> None:
        """One message of the calculation, in its order. Cheap; kinds that no rule depends on are ignored."""
        raise NotImplementedError

    def attach(self, attachment: Attachment) -> None:
        """A sandbox is wired. Told again under the same link, the later holds."""
        raise NotImplementedError

    def detach(self, link: str) -> None:
        """The sandbox of this link is gone; unknown links are ignored."""
        raise NotImplementedError

    def interfaces(self, addresses: Mapping[str, Iterable[str]]) -> None:
        """The host's own interfaces with their addresses: which host endpoint without a name is which."""
        raise NotImplementedError

    def flush(self) -> Change:
        """What changed of the wanted table since the last flush; the first is from nothing."""
        raise NotImplementedError

    @property
    def table(self) -> Table:
        """What is wanted as of the last flush: a view, not a copy. It changes with the next flush."""
        raise NotImplementedError
