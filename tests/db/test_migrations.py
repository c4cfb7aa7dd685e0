from sqlalchemy import inspect, text

from app.db import migrations
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
