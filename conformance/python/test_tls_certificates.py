"""TLS: negotiation and certificates, of both sides."""

import asyncio
import ssl

import pytest

from harness import (
    HOST,
    close_writer,
    echo,
    silent,
    tls_server,
)

pytestmark = pytest.mark.usefixtures("engine")


def test_alpn(run, certificates):
    seen = []

    async def handler(reader, writer):
        seen.append(writer.get_extra_info("ssl_object").selected_alpn_protocol())

    async def main():
        server, client = certificates.server(), certificates.client()
        server.set_alpn_protocols(["h2", "http/1.1"])
        async with tls_server(handler, server) as port:
            for offered in (["h2"], ["http/1.1"], ["nonsense"], []):
                if offered:
                    client.set_alpn_protocols(offered)
                else:
                    client = certificates.client()
                reader, writer = await asyncio.open_connection(HOST, port, ssl=client)
                await reader.read()
                seen.append(writer.get_extra_info("ssl_object").selected_alpn_protocol())
                await close_writer(writer)

    run(main())
    assert seen == ["h2", "h2", "http/1.1", "http/1.1", None, None, None, None]


def test_server_name_indication(run, certificates):
    other = certificates.ca.issue_cert("other.example")
    names = []

    async def main():
        server = certificates.server()
        contexts = {"other.example": certificates.server(other)}

        def choose(ssl_object, name, context):
            names.append(name)
            ssl_object.context = contexts.get(name, server)

        server.sni_callback = choose
        async with tls_server(echo, server) as port:
            for name in ("localhost", "other.example"):
                _, writer = await asyncio.open_connection(
                    HOST, port, ssl=certificates.client(), server_hostname=name
                )
                certificate = writer.get_extra_info("peercert")
                assert ("DNS", name) in certificate["subjectAltName"]
                await close_writer(writer)

    run(main())
    assert names == ["localhost", "other.example"]


def test_an_untrusted_certificate(run, reports, certificates):
    async def main():
        async with tls_server(silent, certificates.server()) as port:
            with pytest.raises(ssl.SSLCertVerificationError) as caught:
                await asyncio.open_connection("localhost", port, ssl=True)
            await asyncio.sleep(0.005)
            return caught.value

    exc = run(main())
    assert exc.reason == "CERTIFICATE_VERIFY_FAILED"
    assert exc.verify_code in (18, 19, 20)
    assert "unable to get local issuer" in exc.verify_message or "self-signed" in exc.verify_message
    assert exc.library == "SSL"
    reports.messages()


def every_field(exc):
    names = ("reason", "library", "verify_code", "verify_message", "errno", "strerror")
    return type(exc), str(exc), exc.args, *(getattr(exc, name) for name in names)


@pytest.mark.parametrize("name", ["wrong.example", "127.0.0.2", "self-signed"])
def test_every_field_of_a_refused_certificate(compare, certificates, name):
    """The exception is Python's own, of the session at hand: nothing in it is translated."""

    def scenario(loop, reports):
        async def main():
            context = certificates.client()
            if name == "self-signed":
                context = ssl.create_default_context()
            async with tls_server(silent, certificates.server()) as port:
                with pytest.raises(ssl.SSLCertVerificationError) as caught:
                    await asyncio.open_connection(
                        HOST,
                        port,
                        ssl=context,
                        server_hostname=name.replace("self-signed", "localhost"),
                    )
                await asyncio.sleep(0.005)
                return every_field(caught.value)

        found = loop.run_until_complete(main())
        reports.messages()
        return found

    code = {"wrong.example": 62, "127.0.0.2": 64}.get(name)
    found = compare(scenario)
    assert found[5] in ([code] if code else (18, 19, 20))


def test_an_expired_certificate(run, reports, certificates):
    import datetime

    expired = certificates.ca.issue_cert(
        "localhost", not_after=datetime.datetime(2001, 1, 1, tzinfo=datetime.UTC)
    )

    async def main():
        async with tls_server(silent, certificates.server(expired)) as port:
            with pytest.raises(ssl.SSLCertVerificationError, match="expired") as caught:
                await asyncio.open_connection("localhost", port, ssl=certificates.client())
            await asyncio.sleep(0.005)
            return caught.value

    assert run(main()).verify_code == 10
    reports.messages()


def test_no_verification(run, certificates):
    async def main():
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        async with tls_server(echo, certificates.server()) as port:
            reader, writer = await asyncio.open_connection(HOST, port, ssl=context)
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
            await close_writer(writer)

    run(main())


def test_client_certificates(run, certificates):
    seen = []

    async def handler(reader, writer):
        seen.append(writer.get_extra_info("peercert"))
        writer.write(b"x")

    async def main():
        server, client = certificates.server(), certificates.client()
        server.verify_mode = ssl.CERT_REQUIRED
        certificates.ca.configure_trust(server)
        certificates.ca.issue_cert("client@example.org").configure_cert(client)
        async with tls_server(handler, server) as port:
            reader, writer = await asyncio.open_connection(HOST, port, ssl=client)
            assert await reader.read() == b"x"
            await close_writer(writer)

    run(main())
    assert ("email", "client@example.org") in seen[0]["subjectAltName"]


def test_a_missing_client_certificate(run, reports, certificates):
    async def main():
        server = certificates.server()
        server.verify_mode = ssl.CERT_REQUIRED
        certificates.ca.configure_trust(server)
        async with tls_server(silent, server) as port:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                reader, writer = await asyncio.open_connection(
                    HOST, port, ssl=certificates.client()
                )
                try:
                    if not await reader.read():
                        raise ConnectionResetError("ended instead of failing")
                finally:
                    await close_writer(writer)
            await asyncio.sleep(0.005)

    run(main())
    reports.messages()
