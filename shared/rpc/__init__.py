"""MessagePack-RPC over Unix sockets: `method` types it, `wire` parses it without I/O, `client` and `server` carry it."""
