"""Real clients -> Postrider -> aiosmtpd and Debian's Postfix, found by MX in a test zone; what arrives is compared with what
was sent, octet for octet, and its signatures are verified by dkimpy and opendkim. Called by `run`.

Each cell of the table is one message to two recipients, one at each peer. It passes if both copies arrive once, over TLS
where the peer can tell, equal to what the client handed in below the fields that the relay adds (a line over 998 octets:
equal after decoding), with the RSA and the Ed25519 signature both good.
"""

import argparse
import email
import email.policy
import os
import pathlib
import re
import shutil
import signal
import smtplib
import socket
import ssl
import subprocess
import sys
import time

import argon2
import dkim
import dnslib
import dnslib.server
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP as Server

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "lib"))
import instances  # noqa: E402

SENDER = "shop@example.com"
PASSWORD = "correct horse battery staple"
KINDS = ["text", "html", "eight-bit", "smtputf8", "long-line", "blank-end", "space-end"]
ARRIVAL_SECONDS = 60

# What the relay and the peers put on top.
ADDED = {b"dkim-signature", b"received", b"return-path", b"x-original-to", b"delivered-to", b"feedback-id", b"x-postrider-ref"}


# --- the test zone and the peers -------------------------------------------------------------------------------------


class Zone(dnslib.server.BaseResolver):
    """A zone file's worth of records; NXDOMAIN for the rest."""

    def __init__(self, text):
        self.records = dnslib.RR.fromZone(text)

    def resolve(self, request, handler):
        reply = request.reply()
        name, kind = request.q.qname, dnslib.QTYPE[request.q.qtype]
        known = [record for record in self.records if record.rname == name]
        reply.add_answer(*[record for record in known if dnslib.QTYPE[record.rtype] == kind])
        if not known:
            reply.header.rcode = dnslib.RCODE.NXDOMAIN
        return reply


class TestDns:
    def __init__(self, text):
        self.port = instances.free_port()
        quiet = dnslib.server.DNSLogger(log="-request,-reply,-truncated,-error", logf=lambda _: None)
        self.servers = [dnslib.server.DNSServer(Zone(text), address="127.0.0.1", port=self.port, tcp=tcp, logger=quiet)
                        for tcp in (False, True)]
        for server in self.servers:
            server.start_thread()

    def txt(self, name, timeout=5):
        """dkimpy's dnsfunc: asks this server over UDP like anybody else."""
        question = dnslib.DNSRecord.question(name.decode() if isinstance(name, bytes) else name, "TXT")
        answer = dnslib.DNSRecord.parse(question.send("127.0.0.1", self.port, timeout=timeout))
        for record in answer.rr:
            return b"".join(record.rdata.data)
        return None

    def stop(self):
        for server in self.servers:
            server.stop()


class Catcher:
    """aiosmtpd's handler: keeps what comes, by case id."""

    def __init__(self):
        self.arrived = []

    async def handle_DATA(self, server, session, envelope):
        self.arrived.append((envelope.mail_from, list(envelope.rcpt_tos), bytes(envelope.content), bool(session.ssl)))
        return "250 2.0.0 Ok: caught"


class AioPeer:
    def __init__(self, host, port, certificates):
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificates / "fullchain.pem", certificates / "privkey.pem")
        self.catcher = Catcher()
        factory = lambda: Server(self.catcher, tls_context=context, enable_SMTPUTF8=True, hostname="mx.aio.test")  # noqa: E731

        class Peer(Controller):
            def factory(self):
                return factory()

        self.controller = Peer(self.catcher, hostname=host, port=port)
        self.controller.start()

    def messages(self):
        return [content for _, _, content, _ in self.catcher.arrived]

    def in_clear(self):
        return [content for _, _, content, tls in self.catcher.arrived if not tls]

    def stop(self):
        self.controller.stop()


class PostfixPeer:
    """Postfix delivers to a maildir, where LF stands for CRLF."""

    def __init__(self, directory, host, port, certificates):
        self.maildir = directory / "mail"
        self.maildir.mkdir(parents=True)
        nobody = 65534
        os.chown(self.maildir, nobody, nobody)
        self.postfix = instances.Postfix(directory / "postfix", {
            "virtual_mailbox_domains": "pf.test",
            "virtual_mailbox_maps": "static:all/",
            "virtual_mailbox_base": self.maildir,
            "virtual_uid_maps": f"static:{nobody}",
            "virtual_gid_maps": f"static:{nobody}",
            "smtpd_tls_security_level": "may",
            "smtpd_tls_chain_files": f"{certificates}/privkey.pem, {certificates}/fullchain.pem",
            "smtpd_tls_received_header": "yes",
            "maillog_file": directory / "postfix.log",
            "maillog_file_prefixes": directory,
        }, host=host, port=port, name="mx.pf.test").start()

    def messages(self):
        return [path.read_bytes().replace(b"\n", b"\r\n") for path in sorted(self.maildir.glob("all/new/*"))]

    def in_clear(self):
        # Its own Received field, the topmost, says `(using TLSv1.3 …`.
        return [content for content in self.messages() if b"(using TLS" not in content.split(b"DKIM-Signature")[0]]

    def stop(self):
        self.postfix.stop()


# --- the messages ----------------------------------------------------------------------------------------------------


def sample(kind, case, recipients):
    """One message as bytes, with CRLF."""
    head = [f"From: Shop <{SENDER}>", f"To: {', '.join(recipients)}", f"Subject: {kind}", f"X-Case: {case}",
            "Date: Sun, 22 Nov 2026 06:00:00 +0000", f"Message-ID: <{case}@example.com>", "MIME-Version: 1.0"]
    plain = "Content-Type: text/plain; charset="
    if kind == "html":
        import base64
        attachment = base64.encodebytes(os.urandom(3000)).decode().replace("\n", "\r\n")
        head.append('Content-Type: multipart/mixed; boundary="=_part"')
        body = ("--=_part\r\nContent-Type: text/html; charset=us-ascii\r\n\r\n<p>Hello <b>there</b>.</p>\r\n--=_part\r\n"
                "Content-Type: application/octet-stream\r\nContent-Transfer-Encoding: base64\r\n"
                f'Content-Disposition: attachment; filename="a.bin"\r\n\r\n{attachment}--=_part--\r\n')
    elif kind in ("eight-bit", "smtputf8"):
        head += [plain + "utf-8", "Content-Transfer-Encoding: 8bit"]
        if kind == "smtputf8":
            head[2] = "Subject: Grüße 世界"
        body = "Grüße, 世界\r\n.\r\n..x\r\n"
    else:
        head.append(plain + "us-ascii")
        body = {"text": "Hello.\r\n.\r\n..two dots\r\n. one and a blank\r\n", "long-line": "0123456789" * 500 + "\r\n",
                "blank-end": "text\r\n\r\n\r\n\r\n", "space-end": "text\r\n \t\r\n  \r\n"}[kind]
    return ("\r\n".join(head) + "\r\n\r\n" + body).encode()


class Relay:
    """What a client must know of Postrider."""

    def __init__(self, submission, submissions, ca, key):
        self.host, self.submission, self.submissions, self.ca, self.key = "127.0.0.1", submission, submissions, ca, key


def without_smtputf8(raw, recipients):
    """The same for a client that does not know RFC 6531: ASCII addresses, and the subject in an encoded word."""
    raw = raw.replace("jürgen@".encode(), b"jurgen@").replace("Subject: Grüße 世界".encode(), b"Subject: =?utf-8?Q?Gr=C3=BC=C3=9Fe?=")
    return raw, [recipient.replace("jürgen@", "jurgen@") for recipient in recipients]


def is_8bit(kind):
    return kind in ("eight-bit", "smtputf8")


# --- the clients: each sends one message and returns the bytes that it handed in --------------------------------------


def smtplib_send(server, kind, raw, recipients):
    options = (["BODY=8BITMIME"] if is_8bit(kind) else []) + (["SMTPUTF8"] if kind == "smtputf8" else [])
    if kind == "smtputf8":
        server.ehlo_or_helo_if_needed()
        server.command_encoding = "utf-8"
    refused = server.sendmail(SENDER, recipients, raw, options)
    assert not refused, refused
    server.quit()
    return raw


def smtplib_starttls(relay, kind, raw, recipients, case, work):
    server = smtplib.SMTP(relay.host, relay.submission, timeout=30)
    server.starttls(context=ssl.create_default_context(cafile=relay.ca))
    server.login("shop", PASSWORD)
    return smtplib_send(server, kind, raw, recipients)


def smtplib_implicit(relay, kind, raw, recipients, case, work):
    context = ssl.create_default_context(cafile=relay.ca)
    server = smtplib.SMTP_SSL(relay.host, relay.submissions, timeout=30, context=context)
    server.login("shop", PASSWORD)
    return smtplib_send(server, kind, raw, recipients)


def smtplib_loopback(relay, kind, raw, recipients, case, work):
    """The sample that stands in a hundred manuals: no TLS, `apikey` and the key."""
    server = smtplib.SMTP(relay.host, relay.submission, timeout=30)
    server.login("apikey", relay.key)
    return smtplib_send(server, kind, raw, recipients)


def run(argv, **keywords):
    done = subprocess.run(argv, capture_output=True, timeout=60, **keywords)
    if done.returncode:
        raise RuntimeError(f"{argv[0]} ended with {done.returncode}: {(done.stderr + done.stdout)[-1500:].decode(errors='replace')}")
    return done.stdout


def phpmailer(relay, kind, raw, recipients, case, work):
    _, recipients = without_smtputf8(raw, recipients)
    return run(["php", str(HERE / "phpmailer.php"), relay.host, str(relay.submission), str(relay.ca), "shop", PASSWORD,
                kind, case, SENDER, *recipients])


def nodemailer(relay, kind, raw, recipients, case, work):
    file = work / f"{case}.eml"
    file.write_bytes(raw)
    return run(["node", str(HERE / "nodemailer.js"), relay.host, str(relay.submission), str(relay.ca), "shop", PASSWORD,
                kind, case, SENDER, str(file), *recipients])


def swaks(*options):
    def send(relay, kind, raw, recipients, case, work):
        raw, recipients = without_smtputf8(raw, recipients)
        file = work / f"{case}.eml"
        # swaks writes the last line end and the dot itself, and reads tokens such as %DATE%: there are none in ours.
        file.write_bytes(raw.replace(b"\r\n", b"\n").removesuffix(b"\n"))
        port = relay.submissions if "--tls-on-connect" in options else relay.submission
        run(["swaks", "--server", relay.host, "--port", str(port), "--from", SENDER, "--to", ",".join(recipients),
             "--auth-user", "shop", "--auth-password", PASSWORD, "--tls-ca-path", str(relay.ca), "--tls-verify",
             "--data", f"@{file}", *options])
        return raw
    return send


def msmtp(relay, kind, raw, recipients, case, work):
    raw, recipients = without_smtputf8(raw, recipients)
    config = work / f"{case}.msmtprc"
    config.write_text(f"account default\nhost {relay.host}\nport {relay.submission}\ntls on\ntls_trust_file {relay.ca}\n"
                      f"auth on\nuser shop\npassword {PASSWORD}\nfrom {SENDER}\n")
    config.chmod(0o600)
    run(["msmtp", "-C", str(config), "-f", SENDER, "--", *recipients], input=raw.replace(b"\r\n", b"\n"))
    return raw


def curl(relay, kind, raw, recipients, case, work):
    file = work / f"{case}.eml"
    file.write_bytes(raw)
    to = [word for recipient in recipients for word in ("--mail-rcpt", recipient)]
    run(["curl", "--silent", "--show-error", "--ssl-reqd", "--cacert", str(relay.ca), "--user", f"shop:{PASSWORD}",
         "--mail-from", SENDER, *to, "--upload-file", str(file), f"smtp://{relay.host}:{relay.submission}/client.example"])
    return raw


def bdat(relay, kind, raw, recipients, case, work):
    """RFC 3030 by hand: MAIL, RCPT and a chunk in one write, chunks cut between CR and LF, an empty last one."""
    server = smtplib.SMTP(relay.host, relay.submission, timeout=30)
    server.starttls(context=ssl.create_default_context(cafile=relay.ca))
    server.login("shop", PASSWORD)
    server.ehlo()
    assert server.has_extn("chunking") and server.has_extn("pipelining"), server.esmtp_features
    parameters = (" BODY=8BITMIME" if is_8bit(kind) else "") + (" SMTPUTF8" if kind == "smtputf8" else "")
    commands = f"MAIL FROM:<{SENDER}>{parameters}\r\n" + "".join(f"RCPT TO:<{r}>\r\n" for r in recipients)
    cut = raw.index(b"\r\n\r\n") + 1
    server.sock.sendall(commands.encode() + b"BDAT %d\r\n" % cut + raw[:cut])
    for _ in range(2 + len(recipients)):
        code, text = server.getreply()
        assert code == 250, text
    server.sock.sendall(b"BDAT %d\r\n" % len(raw[cut:]) + raw[cut:] + b"BDAT 0 LAST\r\n")
    for _ in range(2):
        code, text = server.getreply()
        assert code == 250, text
    assert re.search(rb"\b[0-9B-Zb-z]{10,16}$", text), text
    server.quit()
    return raw


CLIENTS = {
    "smtplib STARTTLS": smtplib_starttls,
    "smtplib 465": smtplib_implicit,
    "smtplib loopback, API key": smtplib_loopback,
    "PHPMailer": phpmailer,
    "nodemailer": nodemailer,
    "swaks PLAIN": swaks("--tls", "--auth", "PLAIN"),
    "swaks LOGIN": swaks("--tls", "--auth", "LOGIN"),
    "swaks 465": swaks("--tls-on-connect", "--auth", "PLAIN"),
    "swaks pipelining": swaks("--tls", "--auth", "PLAIN", "--pipeline"),
    "BDAT": bdat,
    "msmtp": msmtp,
    "curl": curl,
}


# --- the checks ------------------------------------------------------------------------------------------------------


def split_fields(head):
    """A header block as [(lower-case name, whole field)]."""
    fields = []
    for line in head.splitlines(keepends=True):
        if line[:1] in b" \t" and fields:
            fields[-1][1] += line
        else:
            fields.append([line.split(b":")[0].strip().lower(), line])
    return fields


def own_part(arrived):
    """The message without what was put on top of it."""
    head, blank, body = arrived.partition(b"\r\n\r\n")
    fields = split_fields(head + b"\r\n")
    while fields and fields[0][0] in ADDED:
        fields.pop(0)
    return b"".join(field for _, field in fields) + b"\r\n" + body if blank else arrived


def same(sent, arrived, kind):
    """Whether `arrived` is `sent`; a reason if not."""
    own = own_part(arrived)
    if max(map(len, arrived.split(b"\r\n"))) > 998:
        return "a line over 998 octets arrived"
    if own == sent:
        return None
    if kind == "long-line" and max(map(len, sent.split(b"\r\n"))) > 998:
        # Documented: a body with lines over 998 octets becomes quoted-printable, and its header says so.
        parsed = [email.message_from_bytes(b, policy=email.policy.SMTP) for b in (sent, own)]
        bodies = [message.get_payload(decode=True) for message in parsed]
        names = [[(n, v) for n, v in m.items() if n.lower() != "content-transfer-encoding"] for m in parsed]
        if bodies[0] == bodies[1] and sorted(names[0]) == sorted(names[1]):
            return None
        return "decoded, it differs"
    place = next((i for i, (a, b) in enumerate(zip(own, sent)) if a != b), min(len(own), len(sent)))
    return f"differs at {place}: sent {sent[max(0, place - 20):place + 40]!r}, arrived {own[max(0, place - 20):place + 40]!r}"


def signatures(arrived):
    """The message once for each signature, with that one alone."""
    head, _, body = arrived.partition(b"\r\n\r\n")
    fields = split_fields(head + b"\r\n")
    places = [i for i, (name, _) in enumerate(fields) if name == b"dkim-signature"]
    for place in places:
        kept = [field for i, (_, field) in enumerate(fields) if i not in places or i == place]
        kind = re.search(rb"\ba=([\w-]+)", fields[place][1])
        yield (kind.group(1).decode() if kind else "?"), b"".join(kept) + b"\r\n" + body


def verify(arrived, dns, opendkim, case):
    """Reasons why the signatures are not both good."""
    troubles, kinds = [], []
    for number, (kind, message) in enumerate(signatures(arrived)):
        kinds.append(kind)
        try:
            if not dkim.DKIM(message).verify(dnsfunc=dns.txt):
                troubles.append(f"dkimpy: {kind} is bad")
        except dkim.DKIMException as trouble:
            troubles.append(f"dkimpy: {kind}: {trouble}")
        if trouble := opendkim.verify(message, f"{case}-{number}"):
            troubles.append(f"opendkim: {kind}: {trouble}")
    if sorted(kinds) != ["ed25519-sha256", "rsa-sha256"]:
        troubles.append(f"signatures: {kinds}")
    return troubles


class OpenDkim:
    """`opendkim -t`: verifies a file, with keys from a file instead of the DNS that only port 53 could serve."""

    def __init__(self, directory, records):
        self.directory = directory
        keys = directory / "opendkim.keys"
        keys.write_text("".join(f"{name} {value}\n" for name, value in records.items()))
        self.config = directory / "opendkim.conf"
        self.config.write_text(f"Mode v\nTestDNSData file:{keys}\nSyslog no\n")

    def verify(self, message, name):
        file = self.directory / f"{name}.eml"
        file.write_bytes(message.replace(b"\r\n", b"\n"))
        done = subprocess.run(["opendkim", "-x", str(self.config), "-t", str(file)], capture_output=True, text=True)
        said = done.stdout + done.stderr
        file.unlink()
        return None if done.returncode == 0 and "succeeded" in said else said.strip()[-300:] or f"status {done.returncode}"


def judge(sent, arrivals, kind, dns, opendkim, case):
    """Why one cell fails; empty if it passes."""
    troubles = []
    for peer, found in arrivals.items():
        if len(found) != 1:
            troubles.append(f"{peer}: arrived {len(found)} times")
            continue
        if trouble := same(sent, found[0], kind):
            troubles.append(f"{peer}: {trouble}")
        troubles += [f"{peer}: {t}" for t in verify(found[0], dns, opendkim, case)]
    return troubles


# --- the run ---------------------------------------------------------------------------------------------------------

CONFIG = """\
hostname = "relay.example.com"
data_dir = "{work}/data"
postmaster = "ops@example.com"

[tls]
certificate = "{work}/tls/fullchain.pem"
private_key = "{work}/tls/privkey.pem"

[[listener]]
bind = "127.0.0.1:{submission}"
mode = "submission"
[[listener]]
bind = "127.0.0.1:{submissions}"
mode = "submissions"

[[credential]]
name = "shop"
password_hash = "{hash}"
stream = "transactional"
from_domains = ["example.com"]

[[sending_domain]]
name = "example.com"
dkim = [{{ selector = "r1", key = "{work}/r1.pem" }}, {{ selector = "e1", key = "{work}/e1.pem" }}]

[delivery]
port = {port}
allow_private_peers = true

[dns]
nameservers = ["127.0.0.1:{dns}"]
"""

ZONE = """\
$TTL 60
aio.test. IN MX 10 mx.aio.test.
mx.aio.test. IN A 127.0.0.10
pf.test. IN MX 10 mx.pf.test.
mx.pf.test. IN A 127.0.0.11
"""


class World:
    """Zone, peers and relay; ended in reverse order."""

    def __init__(self, work):
        self.work, self.started = work, []

    def start(self):
        work = self.work
        records = {f"{s}._domainkey.example.com": instances.make_dkim_key(work / f"{s}.pem", kind)
                   for s, kind in (("r1", "rsa"), ("e1", "ed25519"))}
        self.opendkim = OpenDkim(work, records)
        quoted = {name: " ".join(f'"{value[i:i + 200]}"' for i in range(0, len(value), 200)) for name, value in records.items()}
        self.dns = self.keep(TestDns(ZONE + "".join(f"{name}. IN TXT {value}\n" for name, value in quoted.items())))
        relay_tls = instances.make_certificates(work / "tls", ["localhost", "127.0.0.1"])
        peer_tls = instances.make_certificates(work / "peer-tls", ["mx.aio.test", "mx.pf.test"])
        self.port = instances.free_port("127.0.0.10")
        self.peers = {"aiosmtpd": self.keep(AioPeer("127.0.0.10", self.port, peer_tls)),
                      "postfix": self.keep(PostfixPeer(work, "127.0.0.11", self.port, peer_tls))}
        self.relay = self.start_relay(relay_tls)

    def keep(self, thing):
        self.started.append(thing)
        return thing

    def start_relay(self, tls):
        submission, submissions = instances.free_port(), instances.free_port()
        values = dict(work=self.work, submission=submission, submissions=submissions, port=self.port, dns=self.dns.port,
                      hash=argon2.PasswordHasher().hash(PASSWORD))
        server = instances.Postrider(self.work, CONFIG.format(**values), ("127.0.0.1", submission))
        self.keep(server)
        server.start()
        key = new_api_key(server)
        return Relay(submission, submissions, tls / "ca.pem", key)

    def stop(self):
        for thing in reversed(self.started):
            thing.stop()


def new_api_key(server):
    """A key of the credential, made as an operator makes one."""
    done = server.run("credential", "key", "new", "shop")
    key = re.search(r"prk_[a-z0-9]+_[a-z0-9]+", done.stdout)
    if done.returncode or not key:
        raise RuntimeError(f"credential key new: {done.stdout}{done.stderr}")
    return key.group(0)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="clients, by the start of their names, with commas between")
    parser.add_argument("--keep", action="store_true", help="keep the temporary directory and print its path")
    options = parser.parse_args()
    wanted = [name.strip().lower() for name in options.only.split(",")] if options.only else [""]
    clients = {name: send for name, send in CLIENTS.items() if name.lower().startswith(tuple(wanted))}

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    work = instances.work_directory("postrider-clients-")
    world = World(work)
    try:
        world.start()
        failed = report(clients, *send_all(world, clients), world)
    finally:
        world.stop()
        if options.keep:
            print(f"kept: {work}")
        else:
            shutil.rmtree(work, ignore_errors=True)
    sys.exit(1 if failed else 0)


def send_all(world, clients):
    """Sends every cell; what was sent, by case, and what could not be."""
    sent, troubles = {}, {}
    for number, (name, send) in enumerate(clients.items()):
        start = time.monotonic()
        for kind in KINDS:
            case = f"c{number}-{kind}"
            local = "jürgen" if kind == "smtputf8" else "user"
            recipients = [f"{local}@aio.test", f"{local}@pf.test"]
            try:
                raw = send(world.relay, kind, sample(kind, case, recipients), recipients, case, world.work)
                sent[case] = re.sub(rb"\r?\n", b"\r\n", raw)
            except Exception as trouble:  # A client that fails is a failed cell, whatever it raised.
                troubles[case] = [f"sending: {type(trouble).__name__}: {trouble}"]
        print(f"{name}: sent in {time.monotonic() - start:.1f} s", flush=True)
    return sent, troubles


def collect(world, sent):
    """Waits until each peer has each case, or time is up: {case: {peer: [messages]}}."""
    deadline = time.monotonic() + ARRIVAL_SECONDS
    while True:
        arrivals = {case: {peer: [] for peer in world.peers} for case in sent}
        for peer, server in world.peers.items():
            for message in server.messages():
                case = re.search(rb"^X-Case: (\S+)\r$", message, re.M | re.I)
                if case and (name := case.group(1).decode()) in arrivals:
                    arrivals[name][peer].append(message)
        if all(found for peers in arrivals.values() for found in peers.values()) or time.monotonic() > deadline:
            return arrivals
        time.sleep(0.1)


def report(clients, sent, troubles, world):
    arrivals = collect(world, sent)
    for number, name in enumerate(clients):
        for kind in KINDS:
            case = f"c{number}-{kind}"
            if case in sent:
                troubles[case] = judge(sent[case], arrivals[case], kind, world.dns, world.opendkim, case)
    width = max(map(len, clients))
    print(f"{'':<{width}}  " + "  ".join(KINDS))
    for number, name in enumerate(clients):
        cells = [("ok" if not troubles[f"c{number}-{kind}"] else "FAIL").ljust(len(kind)) for kind in KINDS]
        print(f"{name:<{width}}  " + "  ".join(cells))
    for number, name in enumerate(clients):
        for kind in KINDS:
            for trouble in troubles[f"c{number}-{kind}"]:
                print(f"{name}, {kind}: {trouble}")
    clear = {peer: len(server.in_clear()) for peer, server in world.peers.items()}
    passed = sum(not found for found in troubles.values())
    failed = len(troubles) - passed
    # The transport is one more check for each peer: both offer STARTTLS, so nothing may have come in clear.
    for peer, count in clear.items():
        print(f"to {peer}: {'everything under TLS' if not count else f'{count} messages in clear'}")
        passed, failed = (passed + 1, failed) if not count else (passed, failed + 1)
    print(f"{passed} passed, {failed} failed")
    return failed


if __name__ == "__main__":
    main()
