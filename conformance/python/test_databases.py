"""Database drivers: their clients of protocols, of `add_reader` and of threads, against real databases."""

import asyncio
import contextlib
import io
import sqlite3
import ssl

import pytest

import postgres
from harness import pattern, scaled

asyncpg = pytest.importorskip("asyncpg", reason="asyncpg is not installed here")
aiosqlite = pytest.importorskip("aiosqlite", reason="aiosqlite is not installed here")
try:
    import psycopg
except ImportError as exc:  # without the C library it cannot be imported
    psycopg, WHY_NO_PSYCOPG = None, str(exc)

ROWS = scaled(20_000)


@pytest.fixture(scope="module")
def database(certificates):
    with contextlib.ExitStack() as stack:
        try:
            yield stack.enter_context(postgres.server(certificates.leaf))
        except postgres.Missing as exc:
            pytest.skip(str(exc))


@pytest.fixture
def connection(database):
    """Opens connections of asyncpg; to be used with `async with`."""

    @contextlib.asynccontextmanager
    async def connection(**options):
        options = {**database.options, "database": postgres.DATABASE, "ssl": False, **options}
        conn = await asyncpg.connect(**options)
        try:
            yield conn
        finally:
            await conn.close()

    return connection


@pytest.fixture
def psycopg_connect(database):
    """The same for psycopg, which waits for its socket by `add_reader` and `add_writer`."""
    if psycopg is None:
        pytest.skip(f"psycopg cannot be imported: {WHY_NO_PSYCOPG}")

    def connection(**options):
        options = {**database.options, "dbname": postgres.DATABASE, "sslmode": "disable", **options}
        return psycopg.AsyncConnection.connect(**options)

    return connection


# asyncpg: protocols on the loop's transports


def test_values_and_errors(run, connection):
    async def main():
        async with connection() as conn:
            row = await conn.fetchrow("select $1::int + 1 as a, $2::text as b, null as c", 1, "ä")
            assert tuple(row) == (2, "ä", None)
            await conn.execute("create temp table t (id int primary key)")
            with pytest.raises(asyncpg.UniqueViolationError):
                async with conn.transaction():
                    await conn.execute("insert into t values (1), (2)")
                    await conn.execute("insert into t values (1)")
            assert await conn.fetchval("select count(*) from t") == 0
            with pytest.raises(asyncpg.PostgresSyntaxError):
                await conn.execute("selec 1")
            assert await conn.fetchval("select 3") == 3

    run(main())


def test_megabytes_there_and_back(run, connection):
    """Larger than every buffer on the way, so that both sides wait for room."""

    async def main():
        async with connection() as conn:
            data = pattern(5_000_000)
            assert await conn.fetchval("select $1::bytea", data) == data

    run(main())


def test_copy(run, connection):
    async def main():
        async with connection() as conn:
            await conn.execute("create temp table t (id int, name text)")
            rows = [(number, f"name {number}") for number in range(ROWS)]
            assert await conn.copy_records_to_table("t", records=rows) == f"COPY {ROWS}"
            out = io.BytesIO()
            await conn.copy_from_table("t", output=out)
            assert out.getvalue() == b"".join(b"%d\t%s\n" % (a, b.encode()) for a, b in rows)
            seen = 0
            async with conn.transaction():
                async for row in conn.cursor("select id from t order by id", prefetch=997):
                    assert row["id"] == seen
                    seen += 1
            assert seen == ROWS

    run(main())


def test_a_pool_that_many_share(run, database):
    async def client(pool, number):
        for turn in range(scaled(20)):
            async with pool.acquire() as conn:
                found = await conn.fetch(
                    "select $1::int, generate_series(1, $2::int)", number, turn
                )
            assert [tuple(row) for row in found] == [(number, n) for n in range(1, turn + 1)]

    async def main():
        options = {**database.options, "database": postgres.DATABASE, "ssl": False}
        async with asyncpg.create_pool(**options, min_size=2, max_size=8) as pool:
            await asyncio.gather(*(client(pool, number) for number in range(30)))

    run(main())


def test_an_answer_that_takes_too_long(run, connection):
    """asyncpg then asks the server to cancel, by a second connection, and goes on with the first."""

    async def main():
        async with connection() as conn:
            with pytest.raises(TimeoutError):
                await conn.execute("select pg_sleep(20)", timeout=0.05)
            assert await conn.fetchval("select 1") == 1
            task = asyncio.create_task(conn.execute("select pg_sleep(20)"))
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await conn.fetchval("select 2") == 2

    run(main())


def test_what_the_server_says_unasked(run, connection):
    async def main():
        async with connection() as listener, connection() as speaker:
            heard = asyncio.Queue()
            await listener.add_listener("channel", lambda *args: heard.put_nowait(args[-1]))
            for number in range(20):
                await speaker.execute("select pg_notify('channel', $1)", str(number))
            assert [await heard.get() for _ in range(20)] == [str(n) for n in range(20)]
            await listener.remove_listener("channel", print)
            await listener.reset()

    run(main())


def test_a_connection_that_the_server_ends(run, connection):
    async def main():
        async with connection() as victim, connection() as killer:
            waiting = asyncio.create_task(victim.execute("select pg_sleep(20)"))
            await asyncio.sleep(0.05)
            pid = victim.get_server_pid()
            assert await killer.fetchval("select pg_terminate_backend($1)", pid)
            with pytest.raises(asyncpg.PostgresError, match="administrator command"):
                await waiting
            with pytest.raises((asyncpg.InterfaceError, asyncpg.PostgresConnectionError)):
                await victim.execute("select 1")
            assert victim.is_closed()

    run(main())


def test_a_unix_socket(run, connection, database):
    async def main():
        async with connection(host=str(database.folder)) as conn:
            assert await conn.fetchval("select inet_client_addr()") is None

    run(main())


def test_encrypted(engine, run, connection, certificates):
    """PostgreSQL speaks in the clear until the client asks for TLS: `start_tls`."""

    async def main():
        async with connection(host="localhost", ssl=certificates.client()) as conn:
            query = "select ssl, version from pg_stat_ssl where pid = pg_backend_pid()"
            assert tuple(await conn.fetchrow(query)) == (True, "TLSv1.3")
            data = pattern(3_000_000)
            assert await conn.fetchval("select $1::bytea", data) == data

    run(main())


def test_encrypted_by_somebody_else(engine, run, connection):
    async def main():
        with pytest.raises(ssl.SSLCertVerificationError):
            async with connection(host="localhost", ssl=ssl.create_default_context()):
                pass

    run(main())


# psycopg: the C library's socket, watched by the loop


def test_psycopg(run, psycopg_connect):
    async def main():
        async with await psycopg_connect() as conn, conn.cursor() as cursor:
            await cursor.execute("select %s::int + 1, %s::text", (1, "ä"))
            assert await cursor.fetchone() == (2, "ä")
            data = pattern(3_000_000)
            await cursor.execute("select %s::bytea", (data,), binary=True)
            assert (await cursor.fetchone())[0] == data
            await cursor.execute("create temp table t (id int, name text)")
            async with cursor.copy("copy t from stdin") as copy:
                for number in range(ROWS):
                    await copy.write_row((number, f"name {number}"))
            await cursor.execute("select count(*), sum(id) from t")
            assert await cursor.fetchone() == (ROWS, ROWS * (ROWS - 1) // 2)

    run(main())


def test_psycopg_is_cancelled(run, psycopg_connect):
    async def main():
        async with await psycopg_connect(autocommit=True) as conn:
            task = asyncio.create_task(conn.execute("select pg_sleep(20)"))
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            found = await conn.execute("select 1")
            assert await found.fetchone() == (1,)

    run(main())


def test_psycopg_in_a_crowd(run, psycopg_connect):
    async def client(number):
        async with await psycopg_connect(autocommit=True) as conn:
            await conn.execute("listen channel")
            for turn in range(scaled(10)):
                found = await conn.execute("select %s::int", (number + turn,))
                assert await found.fetchone() == (number + turn,)
            everybody.append(number)
            if len(everybody) == 20:
                await conn.execute("notify channel, 'all'")
            async for notice in conn.notifies(stop_after=1):
                assert notice.payload == "all"

    everybody = []

    async def main():
        await asyncio.gather(*map(client, range(20)))

    run(main())


# aiosqlite: a thread for each connection, which hands its results to the loop


def test_sqlite(run, tmp_path):
    async def client(number):
        async with aiosqlite.connect(tmp_path / "file", timeout=15) as db:
            await db.execute("pragma synchronous = off")
            for turn in range(scaled(10)):
                await db.execute("insert into t values (?, ?)", (number, turn))
                await db.commit()

    async def main():
        async with aiosqlite.connect(tmp_path / "file") as db:
            await db.execute("create table t (client int, turn int, unique (client, turn))")
            await db.commit()
            await asyncio.gather(*map(client, range(4)))
            async with db.execute("select count(*) from t") as cursor:
                assert await cursor.fetchone() == (4 * scaled(10),)
            with pytest.raises(sqlite3.IntegrityError):
                await db.execute("insert into t values (0, 0)")

    run(main())
