"""CNI as pure functions: bytes and variables to a request, values to the bytes of a reply."""
