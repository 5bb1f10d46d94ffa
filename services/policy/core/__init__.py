"""Felix's calculation, pure: updates go in, messages for the dataplane come out. `graph` draws it; read that first."""
