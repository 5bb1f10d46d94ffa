"""PID 1 of the guest: mounts, modules, one command, power-off. Runs with the standard library alone (-I -S).

Argument: the job, a JSON file of machine.py's. What the command prints goes out by a serial line as it comes; its
status is a file beside the job, which this machine sees too.
"""

import ctypes
import json
import os
import platform
import subprocess
import sys
import termios
from contextlib import suppress
from pathlib import Path
from typing import Any

_BIND = 4096
_POWER_OFF = 0x4321FEDC
_FINIT_MODULE = 313
_PACKED = 4
_EEXIST = 17
_OPTIONS = {"dummy": b"numdummies=0", "ifb": b"numifbs=0"}
"""Without links of their own in every namespace."""
_libc = ctypes.CDLL(None, use_errno=True)


def main(job: dict[str, Any]) -> None:
    """Everything up to the command's end."""
    for folder in job["kept"]:
        mount(job["machine"] + folder, folder, None, _BIND)
    mount("proc", "/proc", "proc")
    mount("sysfs", "/sys", "sysfs")
    mount("run", "/run", "tmpfs")
    for folder in ("/run/netns", "/run/lock", "/dev/shm", "/dev/pts"):  # noqa: S108 the guest's own, empty
        os.makedirs(folder, exist_ok=True)
    mount("shm", "/dev/shm", "tmpfs")  # noqa: S108
    mount("devpts", "/dev/pts", "devpts")
    if os.path.isdir("/sys/fs/bpf"):
        mount("bpf", "/sys/fs/bpf", "bpf")
    if os.path.isdir("/sys/fs/cgroup"):
        mount("cgroup", "/sys/fs/cgroup", "cgroup2")
    for name, target in (("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        if not os.path.lexists(f"/dev/{name}"):
            os.symlink(target, f"/dev/{name}")
    load(job["modules"])
    _libc.sethostname(b"guest", 5)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=False)
    status = run(job)
    part = Path(job["status"] + ".part")
    part.write_text(json.dumps({"status": status, "kernel": platform.release(), "memory_mib": memory_mib()}))
    part.rename(job["status"])


def run(job: dict[str, Any]) -> int:
    """The command's status, as a shell would say it. It sees a pipe, no terminal."""
    line = os.open(job["line"], os.O_WRONLY | os.O_NOCTTY)
    with suppress(termios.error):
        settings = termios.tcgetattr(line)
        settings[1] &= ~termios.OPOST
        termios.tcsetattr(line, termios.TCSANOW, settings)
    try:
        command = subprocess.Popen(
            job["command"],
            cwd=job["folder"],
            env=job["environment"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
    except OSError as refused:
        os.write(line, f"guest: {refused}\n".encode())
        return 127
    assert command.stdout is not None
    while said := os.read(command.stdout.fileno(), 1 << 16):
        while said:
            said = said[os.write(line, said) :]
    status = command.wait()
    with suppress(termios.error):
        termios.tcdrain(line)
    return status if status >= 0 else 128 - status


def mount(source: str, target: str, kind: str | None, flags: int = 0) -> None:
    """mount(2); a failure is said, and shows in what comes after."""
    if _libc.mount(source.encode(), target.encode(), kind.encode() if kind else None, flags, None):
        say(f"mount of {source} on {target}: {os.strerror(ctypes.get_errno())}")


def load(modules: list[str]) -> None:
    """Load modules by their files; one that is loaded already is well."""
    for path in modules:
        name = os.path.basename(path).partition(".ko")[0]
        module = os.open(path, os.O_RDONLY)
        refused = _libc.syscall(_FINIT_MODULE, module, _OPTIONS.get(name, b""), _PACKED if path.endswith(".xz") else 0)
        code = ctypes.get_errno()
        os.close(module)
        if refused and code != _EEXIST:
            say(f"module {name}: {os.strerror(code)}")


def memory_mib() -> int:
    """What is in use."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    sizes = {name: int(size.split()[0]) for name, _, size in (line.partition(":") for line in lines)}
    return (sizes["MemTotal"] - sizes["MemAvailable"]) // 1024


def say(what: str) -> None:
    """To the guest's console, which machine.py shows when a guest fails."""
    os.write(2, f"guest: {what}\n".encode())


if __name__ == "__main__":
    try:
        main(json.loads(Path(sys.argv[1]).read_text()))
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os.sync()
        _libc.reboot(_POWER_OFF)
