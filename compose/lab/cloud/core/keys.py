"""Who may call: lasting keys, and the temporary ones of instances' roles."""

import hashlib

from compose.lab.cloud.core.model import AccessKey

LIFETIME_S = 6 * 3600.0
"""Of a role's key."""


class Keys:
    """Every key of an account, by id."""

    def __init__(self) -> None:
        self.by_id: dict[str, AccessKey] = {}
        self._issued = 0

    def add(self, key: AccessKey) -> None:
        """Let its holder call."""
        self.by_id[key.id] = key

    def of_role(self, instance_id: str, now: float, *, lifetime: float = LIFETIME_S) -> AccessKey:
        """The key of the instance's role: the current one, or a new one in the last tenth of its life."""
        prefix = f"STS.{instance_id}."
        mine = [key for key in self.by_id.values() if key.id.startswith(prefix)]
        current = max(mine, key=lambda key: key.expires_at or 0.0, default=None)
        if current is not None and (current.expires_at or 0.0) - now > lifetime / 10:
            return current
        for key in mine:
            if (key.expires_at or 0.0) < now - lifetime:  # so old that even "expired" helps nobody
                del self.by_id[key.id]
        self._issued += 1
        seed = f"{instance_id} {self._issued} {now}"
        secret, token = (hashlib.sha256(f"{seed} {part}".encode()).hexdigest() for part in ("secret", "token"))
        key = AccessKey(f"{prefix}{self._issued}", secret[:40], f"CAIS{token}", now + lifetime)
        self.add(key)
        return key
