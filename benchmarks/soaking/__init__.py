"""The parts of the soak test: the server, its clients, what they ask, and the account at the end."""
