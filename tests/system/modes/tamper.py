"""`tamper (add|drop) ENI RANGE`: change the map of the program on an ENI's egress, behind the back of its filter.

Run in the node's namespace; what somebody with bpftool could do.
"""

import sys
from contextlib import ExitStack
from socket import if_nametoindex

from services.eni_manager.adapters import bpf
from services.eni_manager.adapters.netlink_diversion import get_filters, seen_filter
from services.eni_manager.adapters.netlink_socket import RouteSocket
from services.eni_manager.core.bpf.host_path import KEY, VALUE, key
from shared.model import Cidr


def main(what: str, eni: str, cidr: Cidr) -> None:
    with RouteSocket() as route:
        seen = [seen_filter(frame) for frame in route.dump(get_filters(if_nametoindex(eni)))]
    [program] = {each.program for each in seen if each is not None and each.program}
    with ExitStack() as opened:
        loaded = opened.enter_context(bpf.closing(bpf.program_by_id(program)))
        maps = [opened.enter_context(bpf.closing(bpf.map_by_id(number))) for number in bpf.maps_of(loaded)]
        [held] = [one for one in maps if bpf.key_size(one) == KEY.size]
        there = bpf.items(held, key_size=KEY.size, value_size=VALUE.size)
        if what == "drop":
            assert key(cidr) in there
            bpf.drop(held, key(cidr))
        else:
            bpf.put(held, key(cidr), next(iter(there.values())))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Cidr(sys.argv[3]))
