"""An index, built without blocking writers.

Alone in its migration, and repeatable: it does not run in a transaction, and a try that failed
leaves an invalid index behind.
"""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.drop_index("children_parent", if_exists=True, postgresql_concurrently=True)
        op.create_index("children_parent", "children", ["parent"], postgresql_concurrently=True)


def downgrade() -> None:
    op.drop_index("children_parent")
