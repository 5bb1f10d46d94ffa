"""From the calculation's messages to nftables: what the kernel should hold, and the transaction that gets it there.

    messages --> render.Renderer --> model.Table (wanted now) and model.Change (what a flush does) --> an adapter

Nothing here speaks to a kernel. Read render.py first, then static.py, which draws a packet's way.
"""
