"""What services share: values, contracts, and the thin shell around every core. It knows no service."""
