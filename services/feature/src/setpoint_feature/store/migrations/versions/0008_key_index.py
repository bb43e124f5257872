"""Look-ups by key fit one index alone, so that statistics which lag behind cannot lead them astray."""

import sqlalchemy
from alembic import op

revision = "0008"
down_revision = "0007"

_OLD = "history_entity"
_NEW = "history_key"


def upgrade() -> None:
    op.create_index(_NEW, "history", [sqlalchemy.text("(view + 0)"), "entity_key", "event_time"])
    op.drop_index(_OLD, "history")


def downgrade() -> None:
    op.create_index(_OLD, "history", ["view", "entity_key", "event_time"])
    op.drop_index(_NEW, "history")
