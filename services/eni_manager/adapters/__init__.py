"""The outside world, one thing per file; raw errors become ours here."""
