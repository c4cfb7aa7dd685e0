"""Sweeps, and the jobs that are their trials."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade():
    op.create_table(
        "sweeps",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("project_id", sa.String(length=40), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(length=40), nullable=False),
        sa.Column("launched", sa.Integer(), nullable=False),
        sa.Column("best_job_id", sa.String(length=40), nullable=True),
        sa.Column("failure", sa.JSON(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_sweeps_project_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sweeps")),
    )
    op.create_index(op.f("ix_sweeps_project_id_id"), "sweeps", ["project_id", "id"])
    op.create_index(op.f("ix_sweeps_project_id_state_id"), "sweeps", ["project_id", "state", "id"])
    op.create_index(op.f("ix_sweeps_state"), "sweeps", ["state"])
    op.add_column("jobs", sa.Column("sweep_id", sa.String(length=40), nullable=True))
    op.add_column("jobs", sa.Column("trial", sa.JSON(), nullable=True))
    op.create_index(op.f("ix_jobs_project_id_sweep_id_id"), "jobs", ["project_id", "sweep_id", "id"])


def downgrade():
    op.drop_index(op.f("ix_jobs_project_id_sweep_id_id"), "jobs")
    op.drop_column("jobs", "trial")
    op.drop_column("jobs", "sweep_id")
    op.drop_table("sweeps")
