"""A VPC of real links: namespaces, a router with a port per ENI, and filters that know who owns which address.

      tw-LAB-node1          tw-LAB-vpc                                    tw-LAB-out
      eth0 ═══════════ eni-…01 ┐                                             eth0
      eth1 ═══════════ eni-…02 ┼─ routes ─ security groups ─ routes ─ out0 ══╛  203.0.113.10
      tw-LAB-node2             │    lo: gateways, metadata, OpenAPI,            2001:db8:113::10
      eth0 ═══════════ eni-…03 ┘        Kubernetes API

An "ENI" is a veth whose one end, named after the ENI, is a port of the VPC's router, and whose other end appears in
the node with the ENI's MAC. Every packet is routed, even within a vSwitch: the router answers for everyone, ARP by
its kernel, IPv6 neighbour discovery by `neighbours.py`.

Everything about an ENI is one value, `port.Port`, and what the kernel is told is the difference between two of them:
`script.py` routes (all that makes an address, a prefix or an entry of the VPC's route table reachable),
`firewall.py` who may send from what, with counters, and `groups.py` what security groups let through.
Everything else falls into a black hole or is dropped and counted. Then read `vpc.py`;
`survey.py` reads back what there is.
"""
