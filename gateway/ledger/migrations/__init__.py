"""How the ledger of an older release becomes today's: one file per revision in versions/, run by Alembic.

`upgrade` runs inside the caller's transaction, so a ledger is of one release or the other, never between them.
A revision is written once and never edited; it names tables and columns itself, because tables.py moves on.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from jiffy.contract.errors import Unavailable


def upgrade(connection: Connection, known: str, wanted: str) -> None:
    """From revision `known` to `wanted`; "" is an empty database. Raises Unavailable for a newer release's."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    if known and known not in {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}:
        raise Unavailable(f"the ledger was written by a newer release (its schema is {known}); use that one")
    if known == "1":  # the first release kept no note of it
        connection.execute(text("CREATE TABLE IF NOT EXISTS alembic_version (version_num VARCHAR(32) PRIMARY KEY)"))
        connection.execute(text("DELETE FROM alembic_version"))
        connection.execute(text("INSERT INTO alembic_version VALUES ('1')"))
    command.upgrade(config, wanted)
