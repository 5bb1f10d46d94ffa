"""The outside world of ipam: its database, eni_manager, and the API server. Their errors become ours here."""
