"""A guest kernel that has what this machine's may lack (IPvlan, VLAN, every tc action), with this machine's files.

    python -m compose.guest -- .venv/bin/pytest tests/kernel
    python -m compose.guest --processors 2 -- sh -c '.venv/bin/terwayctl lab up --mode shared-ipvlan && …'

    kernel.py     Debian's cloud kernel and a static busybox, fetched and unpacked, never installed
    initramfs.py  what mounts the machine's / (virtiofs) under an overlay that forgets
    machine.py    QEMU without KVM, virtiofsd beside it; the command's output and status
    inside.py     PID 1 in the guest: mounts, modules, the command, power-off

A guest boots in about six seconds. Native code runs some fifteen times slower there than here.
"""
