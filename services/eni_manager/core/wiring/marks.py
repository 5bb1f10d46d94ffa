"""How everything of ours is known again after a restart, and told from everything foreign.

A link by its alias (or, in the instant before the alias is set, by its MAC), a rule by its protocol number and
priority, a link on its way out by its group.
"""

import hashlib

from shared.errors import Invalid
from shared.model import AttachmentKey, Mac

ALIAS_PREFIX = "terway "
MAX_ALIAS_BYTES = 255
"""IFALIASZ, less the closing zero."""

PROTOCOL = 84
"""`proto` of our routes and rules; nobody else is known to use it (the letter T)."""

RETIRED_GROUP = 0x7E12A7
"""Links in this group are ours and are to be deleted; one message deletes them all."""


def alias_of(key: AttachmentKey) -> str:
    """The alias of the key's host link. Raises Invalid when the CNI key is too long to be one."""
    alias = f"{ALIAS_PREFIX}{key}"
    if len(alias.encode()) > MAX_ALIAS_BYTES:
        raise Invalid(f"network name, container id and interface name are together too long: {key}")
    return alias


def key_of(alias: str) -> AttachmentKey | None:
    """Whose link an alias says it is; None: not ours."""
    if not alias.startswith(ALIAS_PREFIX):
        return None
    parts = alias.removeprefix(ALIAS_PREFIX).split("/")
    return AttachmentKey(*parts) if len(parts) == 3 else None


def mac_of(key: AttachmentKey, end: str) -> Mac:
    """A locally administered unicast MAC that is the same each time for this key and end (`host`, `pod`)."""
    digest = bytearray(hashlib.sha256(f"{end} {key}".encode()).digest()[:6])
    digest[0] = digest[0] & 0xFC | 0x02
    return Mac(digest.hex(":"))


def retired_name(index: int) -> str:
    """What a retired host link is called, so that its old name is free at once. Unique: an ifindex is."""
    return f"gone{index}"
