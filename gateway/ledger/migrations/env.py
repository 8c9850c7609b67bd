"""What Alembic runs around the revisions: they go to the connection, and into the transaction, that upgrade() gave."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], transactional_ddl=True)
context.run_migrations()
