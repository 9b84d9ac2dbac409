"""`Elastic`, the network that runs at every width, and what it knows of its model."""
