"""Sends datagrams to many addresses for ever: `flood.py PORT ADDRESS…`. A line on stdout per thousand."""

import socket
import sys
import time


def main(port: int, addresses: list[str]) -> None:
    four = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    six = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) if any(":" in address for address in addresses) else four
    sent = 0
    while True:
        for address in addresses:
            try:
                (six if ":" in address else four).sendto(b"flood", (address, port))
            except OSError:
                pass  # nobody has the address right now
            sent += 1
            if sent % 1000 == 0:
                print(sent, flush=True)
        time.sleep(0.001)  # two processors are for all


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
