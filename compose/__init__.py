"""Development: the lab (a VPC made of real packets) and the containers of the services."""
