"""Samples of flows: the first packet of a connection, with who decided about it, to a group of nflog.

    A|pi-default/shop/knp.default.web|3    allowed by rule 3 of the policy's chain (Renderer.owners says whose it is)
    D|tw-shop/web-0|default                dropped at the end of the tier; `-`: no profile accepts it

A line of its own before the one that decides, since a limit that is used up must not change the verdict. Nothing is
rendered of it, and nothing costs, unless a group is set.
"""

from services.policy.core.nft.settings import Settings

_LONGEST = 127
"""What the kernel keeps of a prefix."""
_SNAPLEN = 96
"""Bytes of a packet: both headers, and options."""


def sample(settings: Settings, verdict: str, chain: str, what: str, *, where: str = "") -> tuple[str, ...]:
    """The line that samples what the next line decides about."""
    if settings.flow_log_group is None:
        return ()
    prefix = f"{verdict}|{chain}|{what}"[:_LONGEST]
    limited = f"limit rate {settings.flow_log_rate}/second"
    log = f'log prefix "{prefix}" group {settings.flow_log_group} snaplen {_SNAPLEN}'
    return (" ".join(part for part in (where, limited, log) if part),)
