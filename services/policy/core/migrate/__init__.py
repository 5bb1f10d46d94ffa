"""Moving from Calico: what of a cluster's objects behaves the same here, what differs, and why. Judgement only."""
