"""Namespaces and service accounts, read back from the profiles that they became (felix.md §3.2, ProfileDecoder)."""

from collections.abc import Mapping

from services.policy.core import messages
from services.policy.core.sequencer import Sequencer


class Identities:
    """Profiles with labels in; namespaces and service accounts out. Other profiles are nobody."""

    def __init__(self, sequencer: Sequencer) -> None:
        self._sequencer = sequencer

    def on_labels(self, profile: str, labels: Mapping[str, str] | None) -> None:
        """None: it is gone."""
        if profile.startswith("kns."):
            name = profile.removeprefix("kns.")
            namespace_id = messages.NamespaceID(name)
            if labels is None:
                self._sequencer.namespaces.remove(name, messages.NamespaceRemove(namespace_id))
            else:
                update = messages.NamespaceUpdate(namespace_id, _without("pcns.", labels))
                self._sequencer.namespaces.update(name, update)
        elif profile.startswith("ksa."):
            namespace, _, name = profile.removeprefix("ksa.").partition(".")
            account_id = messages.ServiceAccountID(namespace, name)
            if labels is None:
                self._sequencer.accounts.remove(account_id, messages.ServiceAccountRemove(account_id))
            else:
                account = messages.ServiceAccountUpdate(account_id, _without("pcsa.", labels))
                self._sequencer.accounts.update(account_id, account)


def _without(prefix: str, labels: Mapping[str, str]) -> dict[str, str]:
    return {name.removeprefix(prefix): value for name, value in labels.items()}
