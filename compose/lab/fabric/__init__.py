"""A VPC of real links: namespaces, bridges as vSwitches' routers, and a filter that knows who owns which address.

      tw-LAB-node1          tw-LAB-vpc                                    tw-LAB-out
      eth0 ═══════════ eni-…01 ┐                                             eth0
      eth1 ═══════════ eni-…02 ┼─ bridge vsw-a (gateway) ─┐               203.0.113.10
      tw-LAB-node2             │                          ├─ routes ─ out0 ══╛
      eth0 ═══════════ eni-…03 ┴─ bridge vsw-b (gateway) ─┘  lo: metadata, OpenAPI, Kubernetes API

An "ENI" is a veth whose one end, named after the ENI, is an isolated port of its vSwitch's bridge, and whose
other end appears in the node with the ENI's MAC. The bridge answers ARP for everyone (proxy_arp_pvlan), so that
every packet is routed, even within a vSwitch. Two things are known per private address, and only while it is
assigned: a route with a permanent neighbour, which is all that makes it reachable, and an element of the
filter's sets, which lets its ENI, and no other, send from it. Everything else falls into a black hole or is dropped and
counted. Read `script.py` for what the kernel is told, then `vpc.py`.
"""
