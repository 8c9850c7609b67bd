"""Python: its interpreter on the host, its base layer, its agent and server inside, the check of a function's code."""
