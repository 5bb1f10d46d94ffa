"""eni_manager: which ENIs and addresses the cloud has given this node, and every link, route and rule of its pods.

    demand (ipam) ─► placement ─► one keeper per ENI ─► OpenAPI, metadata, dataplane
                         ▲              │ facts
    cloud listing ─► drift              ▼
                              journal, then fleet (memory) ─► inventory ─► ipam

Read service.py, then core/machine.py (an ENI's life), driver.py (the keeper), steps.py (what it does) and
core/placement.py (who grows).
"""
