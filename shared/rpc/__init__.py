"""MessagePack-RPC over Unix sockets.

`method` types a call, `wire` parses it without I/O, `address` makes and finds sockets, `client` and `server` carry it.
"""
