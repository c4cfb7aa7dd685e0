from alembic import command
from sqlalchemy import inspect, text

from app.db import migrations
from app.db.engine import make_engine
from app.db.tables import Base


def test_the_migrations_make_the_tables_of_the_code(engine):
    migrations.check(engine)
    assert set(inspect(engine).get_table_names()) == {*Base.metadata.tables, "alembic_version"}


def test_a_database_says_whether_it_is_of_this_version(engine):
    assert migrations.at_head(engine)
    with engine.begin() as connection:
        version = connection.scalar(text("SELECT version_num FROM alembic_version"))
        connection.execute(text("UPDATE alembic_version SET version_num = '0000'"))
    assert not migrations.at_head(engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :version"), {"version": version})


def test_an_upgrade_of_a_current_database_changes_nothing(engine):
    migrations.upgrade(engine)
    assert migrations.at_head(engine)


def test_what_projects_use_is_counted_at_the_upgrade(tmp_path):
    engine = make_engine(f"sqlite:///{tmp_path}/winnow.db")
    with engine.connect() as connection:
        command.upgrade(migrations._config(connection), "0002")
    with engine.begin() as connection:
        connection.execute(
            text("INSERT INTO projects VALUES ('prj_1', 'one', '2026-01-01'), ('prj_2', 'two', '2026-01-01')")
        )
        for number, sha256, size, state in ((1, "a", 10, "ready"), (2, "a", 10, "ready"), (3, "b", 5, "rejected")):
            connection.execute(
                text(
                    "INSERT INTO models (id, project_id, name, format, state, size_bytes, sha256, created_at)"
                    " VALUES (:id, 'prj_1', 'm', 'pt2', :state, :size, :sha256, '2026-01-01')"
                ),
                {"id": f"mdl_{number}", "state": state, "size": size, "sha256": sha256},
            )
    migrations.upgrade(engine)
    with engine.connect() as connection:
        found = connection.execute(text("SELECT project_id, jobs, stored_bytes FROM usage ORDER BY project_id")).all()
        assert [tuple(row) for row in found] == [("prj_1", 0, 10), ("prj_2", 0, 0)]
        command.downgrade(migrations._config(connection), "0002")
    engine.dispose()
