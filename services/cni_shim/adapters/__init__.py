"""The gateway's outside: the shim's socket, the three neighbours, the spool, namespaces."""
