"""A private containerd per lab node, driven through its CRI as a kubelet would.

image.py   a 1 MB OCI image made from Debian's static busybox, since no registry is needed or used
daemon.py  one containerd in a node's network namespace: its configuration, its start, its remains
proto.py   the hand-written subset of the CRI (`cri.proto`) as protobuf messages, without a compiler
client.py  sandboxes and containers: run, exec, list, remove
"""
