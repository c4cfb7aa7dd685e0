"""Leases, retries, and when messages were asked for."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
# Where nothing better is known: a time long ago, so that the sweep looks at the row at once.
LONG_AGO = sa.text("'1970-01-01 00:00:00+00:00'")


# No batches here: on SQLite they may write a table anew, and dropping the old one takes all that refers to it along.
def upgrade():
    op.add_column("jobs", sa.Column("retries", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("queued_at", TIME, nullable=False, server_default=LONG_AGO))
    op.add_column("jobs", sa.Column("lease_expires_at", TIME, nullable=True))
    # Who runs a job of the version before renews nothing: the reaper takes it.
    op.execute("UPDATE jobs SET lease_expires_at = started_at WHERE state IN ('running', 'cancelling')")
    op.create_index(op.f("ix_jobs_state_lease_expires_at"), "jobs", ["state", "lease_expires_at"], unique=False)
    op.create_index(op.f("ix_jobs_state_queued_at"), "jobs", ["state", "queued_at"], unique=False)
    for table in ("models", "datasets"):
        op.add_column(table, sa.Column("asked_at", TIME, nullable=False, server_default=LONG_AGO))
    op.add_column("outbox", sa.Column("due_at", TIME, nullable=False, server_default=LONG_AGO))
    op.create_index(op.f("ix_outbox_due_at"), "outbox", ["due_at"], unique=False)


def downgrade():
    op.drop_index(op.f("ix_outbox_due_at"), "outbox")
    op.drop_column("outbox", "due_at")
    for table in ("datasets", "models"):
        op.drop_column(table, "asked_at")
    op.drop_index(op.f("ix_jobs_state_queued_at"), "jobs")
    op.drop_index(op.f("ix_jobs_state_lease_expires_at"), "jobs")
    for column in ("lease_expires_at", "queued_at", "retries"):
        op.drop_column("jobs", column)
