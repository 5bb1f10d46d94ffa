"""Diversions on the node's ENIs: seen, and made so; by our BPF program, or by u32 where the kernel lacks cls_bpf.

The program stays while its ranges change. A restarted process finds it by its filter's name, which has the program's
digest in it, and the map by the program: nothing is pinned anywhere. Another version's program is replaced by one
message; no packet passes in between unseen.
"""

import errno
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
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
from services.eni_manager.adapters.netlink_programs import (
    drop_programs,
    get_programs,
    seen_program,
)
from services.eni_manager.adapters.netlink_programs import (
    put_program as put_back,
)
from services.eni_manager.core.bpf import eni_path, flows
from services.eni_manager.core.bpf.assembly import Program
from services.eni_manager.core.bpf.host_path import KEY, MAP, PROGRAM, VALUE, cidr, entries
from services.eni_manager.core.bpf.own_address import Part, program
from services.eni_manager.core.preflight import Kinds
from services.eni_manager.core.wiring.values import Diversion
from shared.model import Cidr

NAME: Final = f"terway host path {PROGRAM.digest}"
NAME_WITH_OWN: Final = f"terway host path, own address {eni_path.PROGRAM.digest}"
_LOADED_AS, _BACK_LOADED_AS = "terway_path", "terway_back"
_MOST_RANGES: Final = 1024
_MOST_PODS: Final = 4096
"""Addresses of pods whose frames' MACs are known, of an ENI; it has far fewer."""
_MOST_FLOWS: Final = 65536
"""Of an ENI's pods at a time; 6 MB of kernel memory."""


_NAMES: Final = (NAME, NAME_WITH_OWN)


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
        own = False
        if self.by_bpf:
            with self._maps(filters) as held:
                if KEY.size not in held or len(filters) != 1:
                    return None
                targets = {
                    cidr(key): int(VALUE.unpack(value)[0])
                    for key, value in bpf.items(held[KEY.size], key_size=KEY.size, value_size=VALUE.size).items()
                }
            if filters[0].name == NAME_WITH_OWN:
                own = self._leads_back(index, filters[0], targets.values())
        else:
            if any(each.range is None or not each.to for each in filters):
                return None
            targets = {each.range: each.to for each in filters if each.range is not None}
        return Diversion(link, self._name(set(targets.values())), frozenset(targets), own)

    def put(self, wanted: Diversion, index: int, to: int) -> None:
        """Divert so; `to`: the ifindex of the link of that name."""
        self._host.send(put_clsact(index)).expect(errno.EEXIST)
        if not self.by_bpf:
            self._put_ranges(wanted, index, to)
        elif wanted.own_address:
            with self._put_program(wanted, index, to, eni_path.PROGRAM, NAME_WITH_OWN) as held:
                self._put_back(index, to, held[flows.KEY.size])
        else:
            with self._put_program(wanted, index, to, PROGRAM, NAME):
                self._host.send(drop_programs(index, egress=False)).expect(*ABSENT)

    @contextmanager
    def _put_program(
        self, wanted: Diversion, index: int, to: int, code: Program, name: str
    ) -> Iterator[dict[int, int]]:
        """One that is there stays, and its ranges change; else a new one, with new maps. Its maps, by their keys."""
        filters = self._filters(index)
        with self._maps(filters) as held, ExitStack() as opened:
            if KEY.size in held and len(filters) == 1 and filters[0].name == name:
                present = bpf.items(held[KEY.size], key_size=KEY.size, value_size=VALUE.size)
                bpf.fill(held[KEY.size], entries(wanted.ranges, to), present)
                yield held
                return
            maps = {each: opened.enter_context(bpf.closing(_new_map(each))) for each in code.maps.values()}
            bpf.fill(maps[MAP], entries(wanted.ranges, to), {})
            loaded = opened.enter_context(bpf.closing(bpf.load_classifier(code.linked(maps), _LOADED_AS)))
            # Another kind of filter holds the priority for its protocol, and has to go first.
            others = {each.priority: each for each in filters if each.kind != "bpf"}
            self._host.send(*(drop_filter(index, each, all_of_priority=True) for each in others.values())).expect(
                *ABSENT
            )
            self._host.send(put_program(index, loaded, name)).expect()
            yield {bpf.key_size(each): each for each in maps.values()}

    def _put_back(self, index: int, to: int, known: int) -> None:
        code = program(Part.BACK, to)
        with bpf.closing(bpf.load_classifier(code.linked({flows.MAP: known}), _BACK_LOADED_AS)) as loaded:
            self._host.send(put_back(index, loaded, _back_name(to), egress=False)).expect()

    def _leads_back(self, index: int, egress: SeenFilter, targets: Collection[int]) -> bool:
        """Do answers go to where packets are diverted to, by the flows that the program on egress notes?"""
        found = [seen for frame in self._host.dump(get_programs(index, egress=False)) if (seen := seen_program(frame))]
        if len(found) != 1 or not any(found[0].name == _back_name(to) for to in set(targets)):
            return False
        with ExitStack() as opened:
            both = [opened.enter_context(bpf.closing(bpf.program_by_id(each.program))) for each in (egress, found[0])]
            return set(bpf.maps_of(both[1])) <= set(bpf.maps_of(both[0]))

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
    def _maps(self, filters: list[SeenFilter]) -> Iterator[dict[int, int]]:
        """The maps of our program by the length of their keys, if it is among the filters in this version of it."""
        number = next((each.program for each in filters if each.kind == "bpf" and each.name in _NAMES), 0)
        with ExitStack() as opened:
            held: dict[int, int] = {}
            if number:
                loaded = opened.enter_context(bpf.closing(bpf.program_by_id(number)))
                for each in bpf.maps_of(loaded):
                    found = opened.enter_context(bpf.closing(bpf.map_by_id(each)))
                    held[bpf.key_size(found)] = found
            yield held

    def _name(self, targets: set[int]) -> str:
        """The link that all lead to; several, or one that is gone: such as no link is called."""
        if not targets:
            return ""
        link = self._host.link(next(iter(targets))) if len(targets) == 1 else None
        return f"links {sorted(targets)}" if link is None else link.name


def _new_map(name: str) -> int:
    if name == MAP:
        return bpf.create_prefix_map(key_size=KEY.size, value_size=VALUE.size, most=_MOST_RANGES)
    if name == eni_path.MACS:
        size = eni_path.MACS_VALUE.size
        return bpf.create_recent_map(key_size=eni_path.MACS_KEY.size, value_size=size, most=_MOST_PODS)
    return bpf.create_recent_map(key_size=flows.KEY.size, value_size=flows.VALUE.size, most=_MOST_FLOWS)


def _back_name(to: int) -> str:
    return f"terway {Part.BACK} {flows.LAYOUT} {program(Part.BACK, to).digest}"


@cache
def can_keep_source() -> bool:
    """Can it have Services' backends see pods' own addresses, too?"""
    if not can_bpf():
        return False
    bpf.lift_memory_limit()
    try:
        with ExitStack() as opened:
            maps = {each: opened.enter_context(bpf.closing(_new_map(each))) for each in eni_path.PROGRAM.maps.values()}
            for code in (eni_path.PROGRAM, program(Part.BACK, 1)):
                opened.enter_context(bpf.closing(bpf.load_classifier(code.linked(maps), _LOADED_AS)))
    except OSError:
        return False
    return True


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
