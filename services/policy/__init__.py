"""Policy: owns who may talk to whom.

    API server -> adapters/kube -> core/graph (Felix's calculation) -> messages -> renderer -> nftables
    gateway    -> handlers      -> attach: the pod's rules are in the kernel before the pod starts

NetworkPolicy is off by default, and then nothing of this loads the API server: `attach` answers at once and nothing
is watched. Read service.py, then handlers.py, then core/.
"""
