"""What a sweep drew that a job would have been refused for."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade():
    op.add_column("sweeps", sa.Column("refused", sa.JSON(), nullable=True))


def downgrade():
    op.drop_column("sweeps", "refused")
