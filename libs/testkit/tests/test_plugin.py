import asyncpg
import redis


async def test_gives_an_empty_database(database_url: str) -> None:
    """A test's database answers and holds no table."""
    connection = await asyncpg.connect(database_url)
    try:
        found = await connection.fetchval(
            "SELECT count(*) FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        )
    finally:
        await connection.close()
    assert found == 0


async def test_gives_each_test_its_own_database(database_url: str) -> None:
    """What a test leaves behind is not seen by the next one: the name differs each time."""
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute("CREATE TABLE leftover (n int)")
    finally:
        await connection.close()


def test_gives_an_empty_valkey(valkey_url: str) -> None:
    """Valkey answers and holds no key."""
    with redis.Redis.from_url(valkey_url) as client:
        assert client.dbsize() == 0
        client.set("leftover", "1")


def test_gives_an_empty_valkey_again(valkey_url: str) -> None:
    """Keys of the test before are gone."""
    with redis.Redis.from_url(valkey_url) as client:
        assert client.dbsize() == 0
