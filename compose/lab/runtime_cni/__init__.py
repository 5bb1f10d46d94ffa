"""A container runtime's half of CNI, without containers: the lab's `--runtime cni`.

    conflist.py      what a runtime makes of a network configuration list; pure
    capabilities.py  what containerd makes of a pod's annotations; pure
    invoke.py        one plugin run: environment and stdin in, result or error out
    runtime.py       ADD, DEL, CHECK, GC, STATUS on a network, with stored results and locks
    pods.py          pods that are a namespace, on top of it

It keeps every rule that the specification binds a runtime by (cni.md "runtime side", R1-R13), and asks for
what containerd asks for, in containerd's way: CNI_ARGS in random order, DEL twice.
"""
