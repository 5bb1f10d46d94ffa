"""From what clusters hold to the v1 model: Kubernetes objects by way of Calico's, Calico's by its own rules."""
