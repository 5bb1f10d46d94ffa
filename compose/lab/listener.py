"""A pod's servers: `lab pod add --serve 80/tcp,81/udp`. Run as a program of its own, one for each pod.

The sockets are made and bound by whoever starts this (see `serve.py`) and handed over as descriptors 3, 4, …; the
arguments are the name to answer with, then `tcp` or `udp` for each. A TCP client reads one line with the name;
a datagram is answered with the name and its own content. Only light modules are imported: labs run many of these.
"""

import selectors
import socket
import sys


def main(name: str, kinds: list[str]) -> None:
    """Answer for ever."""
    greeting = name.encode() + b"\n"
    selector = selectors.DefaultSelector()
    for descriptor, kind in enumerate(kinds, start=3):
        server = socket.socket(fileno=descriptor)
        server.setblocking(False)
        selector.register(server, selectors.EVENT_READ, kind)
    while True:
        for key, _ in selector.select():
            assert isinstance(key.fileobj, socket.socket)
            try:
                if key.data == "tcp":
                    client, _ = key.fileobj.accept()
                    with client:
                        client.send(greeting)
                        client.shutdown(socket.SHUT_WR)
                else:
                    data, peer = key.fileobj.recvfrom(2048)
                    key.fileobj.sendto(greeting + data, peer)
            except OSError:
                continue  # the client has gone, or no route leads back to it: its loss


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
