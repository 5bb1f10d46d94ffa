"""The RPC methods by which services meet, one module per serving service.

New fields get defaults and nothing is renamed, so that neighbours of different versions understand each other.
Every method is idempotent on its key.
"""
