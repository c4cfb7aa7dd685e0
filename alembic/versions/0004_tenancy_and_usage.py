"""Projects that can be closed, the audit trail, answers kept for idempotency, and what projects use."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
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
    op.create_table(
        "usage",
        sa.Column("project_id", ID, nullable=False),
        sa.Column("jobs", sa.BigInteger(), nullable=False),
        sa.Column("cpu_seconds", sa.Double(), nullable=False),
        sa.Column("gpu_seconds", sa.Double(), nullable=False),
        sa.Column("stored_bytes", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_usage_project_id")),
        sa.PrimaryKeyConstraint("project_id", name=op.f("pk_usage")),
    )
    op.create_table(
        "contents",
        sa.Column("project_id", ID, nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_contents_project_id")),
        sa.PrimaryKeyConstraint("project_id", "sha256", name=op.f("pk_contents")),
    )
    # Each content once, whatever refers to it; that of rejected uploads is gone. Seconds are counted from now on.
    op.execute("""
        INSERT INTO contents (project_id, sha256, size_bytes)
        SELECT project_id, sha256, max(size_bytes) FROM (
            SELECT project_id, sha256, size_bytes FROM models WHERE state <> 'rejected'
            UNION SELECT project_id, sha256, size_bytes FROM datasets WHERE state <> 'rejected'
            UNION SELECT project_id, sha256, size_bytes FROM artifacts
        ) AS referred GROUP BY project_id, sha256
    """)
    op.execute("""
        INSERT INTO usage (project_id, jobs, cpu_seconds, gpu_seconds, stored_bytes)
        SELECT id, (SELECT count(*) FROM jobs WHERE jobs.project_id = projects.id), 0, 0,
            (SELECT coalesce(sum(size_bytes), 0) FROM contents WHERE contents.project_id = projects.id)
        FROM projects
    """)


def downgrade():
    op.drop_table("contents")
    op.drop_table("usage")
    op.drop_table("idempotency")
    op.drop_table("audit")
    op.drop_index(op.f("ix_api_keys_project_id_id"), "api_keys")
    op.create_index(op.f("ix_api_keys_project_id"), "api_keys", ["project_id"], unique=False)
    op.drop_column("projects", "revoked_at")
