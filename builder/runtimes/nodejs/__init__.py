"""Node.js: its executable on the host, its base layer, its agent and server inside, a function's packages."""
