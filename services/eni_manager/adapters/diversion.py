"""Diversions on the node's ENIs: seen, and made so; by our BPF program, or by u32 where the kernel lacks cls_bpf.

The program stays while its ranges change. A restarted process finds it by its filter's name, which has the program's
digest in it, and the map by the program: nothing is pinned anywhere. Another version's program is replaced by one
message; no packet passes in between unseen.
"""

import errno
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from services.eni_manager.adapters import bpf, kernel
from services.eni_manager.adapters.netlink import ABSENT, Stack
from services.eni_manager.adapters.netlink_diversion import (
    SeenFilter,
    drop_filter,
    get_filters,
    put_clsact,
    put_program,
    put_range,
    seen_filter,
)
from services.eni_manager.core.bpf.host_path import KEY, MAP, PROGRAM, VALUE, cidr, entries
from services.eni_manager.core.preflight import Kinds
from services.eni_manager.core.wiring.values import Diversion
from shared.model import Cidr

NAME: Final = f"terway host path {PROGRAM.digest}"
_LOADED_AS: Final = "terway_path"
_MOST_RANGES: Final = 1024


class Diverter:
    """Of one node; use it in the thread that `host` belongs to. `by_bpf` None: as the kernel can."""

    def __init__(self, host: Stack, *, by_bpf: bool | None = None) -> None:
        self._host = host
        self._by_bpf = by_bpf

    @property
    def by_bpf(self) -> bool:
        """Which of the two forms; found out by trying, once."""
        if self._by_bpf is None:
            self._by_bpf = can_bpf()
        return self._by_bpf

    def seen(self, link: str, index: int) -> Diversion | None:
        """What is diverted from a link now, if that is done as it would be done here."""
        filters = self._filters(index)
        if self.by_bpf:
            with self._map(filters) as held:
                if held is None or len(filters) != 1:
                    return None
                targets = {
                    cidr(key): int(VALUE.unpack(value)[0])
                    for key, value in bpf.items(held, key_size=KEY.size, value_size=VALUE.size).items()
                }
        else:
            if any(each.range is None or not each.to for each in filters):
                return None
            targets = {each.range: each.to for each in filters if each.range is not None}
        return Diversion(link, self._name(set(targets.values())), frozenset(targets))

    def put(self, wanted: Diversion, index: int, to: int) -> None:
        """Divert so; `to`: the ifindex of the link of that name."""
        self._host.send(put_clsact(index)).expect(errno.EEXIST)
        if self.by_bpf:
            self._put_program(wanted, index, to)
        else:
            self._put_ranges(wanted, index, to)

    def _put_program(self, wanted: Diversion, index: int, to: int) -> None:
        filters = self._filters(index)
        with self._map(filters) as held, ExitStack() as opened:
            if held is not None and len(filters) == 1:
                present = bpf.items(held, key_size=KEY.size, value_size=VALUE.size)
                bpf.fill(held, entries(wanted.ranges, to), present)
                return
            fresh = bpf.create_prefix_map(key_size=KEY.size, value_size=VALUE.size, most=_MOST_RANGES)
            opened.enter_context(bpf.closing(fresh))
            bpf.fill(fresh, entries(wanted.ranges, to), {})
            program = opened.enter_context(bpf.closing(bpf.load_classifier(PROGRAM.linked({MAP: fresh}), _LOADED_AS)))
            # Another kind of filter holds the priority for its protocol, and has to go first.
            others = {each.priority: each for each in filters if each.kind != "bpf"}
            self._host.send(*(drop_filter(index, each, all_of_priority=True) for each in others.values())).expect(
                *ABSENT
            )
            self._host.send(put_program(index, program, NAME)).expect()

    def _put_ranges(self, wanted: Diversion, index: int, to: int) -> None:
        missing: set[Cidr] = set(wanted.ranges)
        unwanted: list[SeenFilter] = []
        for each in self._filters(index):
            if each.range in missing and each.to == to:
                missing.remove(each.range)
            else:
                unwanted.append(each)
        programs = [drop_filter(index, each, all_of_priority=True) for each in unwanted if each.kind != "u32"]
        self._host.send(*programs).expect(*ABSENT)
        self._host.send(*(put_range(index, each, to) for each in sorted(missing))).expect()
        self._host.send(*(drop_filter(index, each) for each in unwanted if each.kind == "u32")).expect(*ABSENT)

    def _filters(self, index: int) -> list[SeenFilter]:
        try:
            frames = self._host.dump(get_filters(index))
        except OSError as refused:
            if refused.errno != errno.EINVAL:  # no qdisc that could have filters
                raise
            return []
        return [seen for frame in frames if (seen := seen_filter(frame)) is not None]

    @contextmanager
    def _map(self, filters: list[SeenFilter]) -> Iterator[int | None]:
        """The map of our program, if that is among the filters in this version of it."""
        program = next((each.program for each in filters if each.kind == "bpf" and each.name == NAME), 0)
        with ExitStack() as opened:
            held: int | None = None
            if program:
                loaded = opened.enter_context(bpf.closing(bpf.program_by_id(program)))
                maps = bpf.maps_of(loaded)
                if len(maps) == 1:
                    held = opened.enter_context(bpf.closing(bpf.map_by_id(maps[0])))
            yield held

    def _name(self, targets: set[int]) -> str:
        """The link that all lead to; several, or one that is gone: such as no link is called."""
        if not targets:
            return ""
        link = self._host.link(next(iter(targets))) if len(targets) == 1 else None
        return f"links {sorted(targets)}" if link is None else link.name


def can_bpf() -> bool:
    """Does the kernel have BPF classifiers, and does it let this process load one?"""
    if "bpf" not in kernel.known(Kinds(classifiers=("bpf",))).classifiers:
        return False
    try:
        with ExitStack() as opened:
            made = bpf.create_prefix_map(key_size=KEY.size, value_size=VALUE.size, most=1)
            opened.enter_context(bpf.closing(made))
            opened.enter_context(bpf.closing(bpf.load_classifier(PROGRAM.linked({MAP: made}), _LOADED_AS)))
    except OSError:
        return False
    return True
