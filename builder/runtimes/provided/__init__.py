"""Programs that bring all they need: the check of their executable, and a base layer of its shared libraries."""
