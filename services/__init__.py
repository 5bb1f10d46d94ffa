"""The four services of a node; `python -m services` runs them all, `python -m services.<name>` one."""
