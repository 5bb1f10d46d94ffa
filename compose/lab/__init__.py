"""The development cloud: a VPC made of real packets, the cloud's and Kubernetes' APIs, and nodes in namespaces."""
