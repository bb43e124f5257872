"""Everything about PostgreSQL: tables, migrations, SQL."""
