"""The programs by which Services' backends see pods' own addresses: seen on their links, and put there.

Each is known by its filter's name, which has the program's digest in it, and the links' numbers and the pod's addresses
are in the program. Programs of one namespace share a map of flows. It is nowhere but in them: one that has to be put
again takes the map of one that is still there, so that the flows that it noted stay known.
"""

import errno
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import cache
from typing import Final

from services.eni_manager.adapters import bpf, kernel
from services.eni_manager.adapters.netlink_diversion import SeenFilter, put_clsact
from services.eni_manager.adapters.netlink_programs import get_programs, put_program, seen_program
from services.eni_manager.adapters.netlink_socket import RouteSocket
from services.eni_manager.adapters.netlink_wire import Request
from services.eni_manager.core.bpf.assembly import Program
from services.eni_manager.core.bpf.flows import KEY, LAYOUT, MAP, VALUE
from services.eni_manager.core.bpf.own_address import Part, program
from services.eni_manager.core.preflight import Kinds
from services.eni_manager.core.wiring.values import Classifier
from shared.crashpoint import crashpoint
from shared.model import Ip

MOST_FLOWS: Final = 16384
"""Of a pod at a time; 1.8 MB of kernel memory. When there are more, those that were silent longest are forgotten."""
_EXAMPLE: Final = (Ip("192.0.2.1"), Ip("2001:db8::1"))
_PARTS: Final = (Part.TURN, Part.ONWARD, Part.ANSWERS)
_LOADED_AS: Final = "terway_"


def seen(socket: RouteSocket, wanted: Iterable[Classifier], indices: Mapping[str, int]) -> list[Classifier]:
    """Those of the wanted that are there, just as they are wanted, and know the same flows."""
    there: list[Classifier] = []
    flows: set[int] = set()
    for each in wanted:
        if not {each.link, each.to or each.link} <= indices.keys():
            continue
        code = _program(each, indices)
        for found in _filters(socket, indices[each.link], each.part):
            if found.name != _name(each.part, code):
                continue
            maps = set(_maps_of(found.program)) if code.maps else set()
            if not maps or not flows or maps == flows:
                there.append(each)
                flows = flows or maps
            break
    return there


def put(socket: RouteSocket, wanted: Sequence[Classifier], indices: Mapping[str, int]) -> None:
    """Put these in their places; what is to be on a link that is not there is passed over."""
    fit = [each for each in wanted if {each.link, each.to or each.link} <= indices.keys()]
    if not fit:
        return
    with ExitStack() as opened:
        maps: dict[str, int] = {}
        for each in fit:
            code = _program(each, indices)
            if code.maps and not maps:
                maps[MAP] = opened.enter_context(bpf.closing(_flows(socket, indices)))
            loaded = opened.enter_context(bpf.closing(bpf.load_classifier(code.linked(maps), _LOADED_AS + each.part)))
            index, egress = indices[each.link], each.part is Part.TURN
            if egress:
                socket.batch((put_clsact(index),)).expect(errno.EEXIST)
            socket.batch((put_program(index, loaded, _name(each.part, code), egress=egress),)).expect(errno.ENODEV)
            crashpoint("eni.nic.after_classifier")


@cache
def able() -> bool:
    """Does the kernel have what the programs need, and does it let this process load them? Found out by trying."""
    if "bpf" not in kernel.known(Kinds(classifiers=("bpf",))).classifiers:
        return False
    bpf.lift_memory_limit()
    try:
        with ExitStack() as opened:
            flows = opened.enter_context(bpf.closing(_new_flows(MOST_FLOWS)))
            for part in _PARTS:
                code = program(part, 1, _EXAMPLE).linked({MAP: flows})
                opened.enter_context(bpf.closing(bpf.load_classifier(code, _LOADED_AS + part)))
    except OSError:
        return False
    return True


def _program(wanted: Classifier, indices: Mapping[str, int]) -> Program:
    return program(wanted.part, indices[wanted.to] if wanted.to else 0, wanted.own)


def _name(part: Part, code: Program) -> str:
    return f"{_kind(part)}{code.digest}"


def _kind(part: Part) -> str:
    return f"terway {part} {LAYOUT} "


def _flows(socket: RouteSocket, indices: Mapping[str, int]) -> int:
    """The map of the programs that are there, whatever their version; else a new one."""
    for index in indices.values():
        for part in (Part.ONWARD, Part.ANSWERS):
            for found in _filters(socket, index, part):
                if found.name.startswith(_kind(part)) and (known := _map_of(found.program)) is not None:
                    return known
    return _new_flows(MOST_FLOWS)


def _new_flows(most: int) -> int:
    return bpf.create_recent_map(key_size=KEY.size, value_size=VALUE.size, most=most)


def _map_of(number: int) -> int | None:
    try:
        maps = _maps_of(number)
        return bpf.map_by_id(maps[0]) if len(maps) == 1 else None
    except OSError as gone:
        if gone.errno != errno.ENOENT:
            raise
        return None


def _maps_of(number: int) -> list[int]:
    """The maps of a program, by number; none: it is gone."""
    try:
        with bpf.closing(bpf.program_by_id(number)) as loaded:
            return bpf.maps_of(loaded)
    except OSError as gone:
        if gone.errno != errno.ENOENT:
            raise
        return []


def _filters(socket: RouteSocket, index: int, part: Part) -> Iterator[SeenFilter]:
    request: Request = get_programs(index, egress=part is Part.TURN)
    try:
        frames = socket.dump(request)
    except OSError as refused:
        if refused.errno not in (errno.EINVAL, errno.ENODEV):  # no qdisc that could have filters, or no link
            raise
        return
    for frame in frames:
        if (found := seen_program(frame)) is not None:
            yield found
