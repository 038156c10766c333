"""What can be exchanged: nodes, storage, networks. Each kind's `port.py` is its contract."""
