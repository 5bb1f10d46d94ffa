"""The decisions of ipam: pure and synchronous, so each is atomic on the event loop. Start with pool.py."""
