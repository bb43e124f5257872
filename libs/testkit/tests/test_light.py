import subprocess
import sys


def test_loads_without_what_its_fixtures_need() -> None:
    """A run that uses no fixture of ours imports neither gRPC nor a database driver."""
    script = (
        "import sys\n"
        "import setpoint_testkit.plugin\n"
        "heavy = {'grpc', 'sqlalchemy', 'asyncpg', 'redis', 'alembic', 'pydantic'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
