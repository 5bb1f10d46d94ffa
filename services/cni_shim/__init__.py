"""The CNI plugin, in two halves: `shim.py`, which the runtime execs, and the resident gateway, which knows CNI.

    runtime -> exec shim -> (Unix socket) -> handlers.py -> pipeline.py -> ipam, eni_manager, policy
                  |                              |                             |
                  +- stdout <--- bytes <---------+ core/reply.py <- a lease and what was plugged

The gateway speaks CNI 0.3.0 to 1.1.0 and knows the order in which a pod is connected; it holds no state but the
spool of DELs that had to wait. Read pipeline.py first, then core/request.py, then handlers.py.
"""
