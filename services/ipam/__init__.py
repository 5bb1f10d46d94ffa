"""ipam: owns which pod holds which address on this node.

    eni.watch ─► pool ◄─ ipam.acquire / ipam.release          the pool decides, SQLite makes it durable,
                  │                                            then memory changes, then the caller hears of it
                  ├─► eni.demand      how many addresses the node should hold
                  └─► eni.give_back   which it may return to the cloud

Read service.py, then core/pool.py, then driver.py. DESIGN.md has the invariants.
"""
