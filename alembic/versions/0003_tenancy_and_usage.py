"""Projects that can be closed, the audit trail, and answers kept for idempotency."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

ID = sa.String(length=40)
TIME = sa.DateTime(timezone=True)


# No batches here: on SQLite they may write a table anew, and dropping the old one takes all that refers to it along.
def upgrade():
    op.add_column("projects", sa.Column("revoked_at", TIME, nullable=True))
    op.drop_index(op.f("ix_api_keys_project_id"), "api_keys")
    op.create_index(op.f("ix_api_keys_project_id_id"), "api_keys", ["project_id", "id"], unique=False)
    op.create_table(
        "audit",
        sa.Column("id", ID, nullable=False),
        sa.Column("project_id", ID, nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("key_id", ID, nullable=True),
        sa.Column("request_id", ID, nullable=True),
        sa.Column("action", ID, nullable=False),
        sa.Column("object_id", ID, nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_audit_project_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
    )
    op.create_index(op.f("ix_audit_project_id_id"), "audit", ["project_id", "id"], unique=False)
    op.create_table(
        "idempotency",
        sa.Column("project_id", ID, nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("token", sa.String(length=64), nullable=False),
        sa.Column("scopes", sa.JSON(), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=True),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("headers", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("body", sa.LargeBinary(), nullable=True),
        sa.Column("expires_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_idempotency_project_id")),
        sa.PrimaryKeyConstraint("project_id", "key", name=op.f("pk_idempotency")),
    )
    op.create_index(op.f("ix_idempotency_expires_at"), "idempotency", ["expires_at"], unique=False)


def downgrade():
    op.drop_table("idempotency")
    op.drop_table("audit")
    op.drop_index(op.f("ix_api_keys_project_id_id"), "api_keys")
    op.create_index(op.f("ix_api_keys_project_id"), "api_keys", ["project_id"], unique=False)
    op.drop_column("projects", "revoked_at")
