"""nftables by its own program: for the few rules that are set once, and not on a pod's way."""

import subprocess
from typing import Final

from shared.errors import Internal, Unavailable

_WITHIN_S: Final = 10.0


def apply(transaction: str) -> None:
    """Carry out a transaction in the calling thread's namespace; all of it or nothing.

    Unavailable: the node has no `nft`. Internal: it refuses.
    """
    try:
        done = subprocess.run(
            ["nft", "-f", "-"], input=transaction, capture_output=True, text=True, timeout=_WITHIN_S, check=False
        )
    except FileNotFoundError as missing:
        raise Unavailable("the node has no nft program (package nftables)") from missing
    except subprocess.TimeoutExpired as stuck:
        raise Unavailable(f"nft did not answer within {_WITHIN_S:g} s") from stuck
    if done.returncode != 0:
        raise Internal(f"nft refused: {done.stderr.strip()}")
