"""Issue by issue, what pools promise; see __main__.py."""
