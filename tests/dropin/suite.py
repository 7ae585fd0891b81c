"""Postfix, then Postrider in its place, under the same clients: what arrives must be the same. Called by `run`, as root, in
network, mount and process namespaces of its own.

For each typical configuration (the inputs of the importer's golden tests) a copy of a Debian root is mounted; its Postfix is
configured, started and used; then our package is installed over it, the configuration imported, our daemon started and used
by the same clients. Peers (a smarthost with AUTH and TLS, and MX hosts found by DNS) keep what arrives. Compared for each
message: recipients, envelope sender, the names of its header fields, its body.
"""

import argparse
import base64
import collections
import json
import os
import pathlib
import re
import shutil
import signal
import ssl
import subprocess
import sys
import textwrap
import time
import warnings

import dnslib
import dnslib.server
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, SMTP as Server

warnings.filterwarnings("ignore", category=DeprecationWarning)
HOME = pathlib.Path(__file__).resolve().parents[2] / "target/dropin"
ROOT = pathlib.Path(os.environ["ROOT"])
PACKAGE = pathlib.Path(os.environ["PACKAGE"])
ARRIVAL_SECONDS = 60
SMARTHOST, MX, RESOLVER, MYSELF = "192.0.2.25", "192.0.2.26", "192.0.2.53", "192.0.2.1"
INSIDE = ["ip", "netns", "exec", "machine"]
USER, PASSWORD = "apikey", "S3cret-key"

ZONE = f"""
$TTL 60
one.example.      MX 10 mx.one.example.
two.example.      MX 10 mx.one.example.
corp.example.     MX 10 mx.one.example.
orange.fr.        MX 10 mx.one.example.
wanadoo.com.      MX 10 mx.one.example.
mx.one.example.   A {MX}
smtp.sendgrid.net. A {SMARTHOST}
relay.corp.example. A {SMARTHOST}
host.corp.example. A {MYSELF}
"""

# What our relay may add or leave out of the header, and why (docs/FROM-POSTFIX.md, "What differs").
MORE = {
    "dkim-signature",  # it signs
    "feedback-id", "x-postrider-ref",  # it says what a complaint would be about
}


# --- the world ---------------------------------------------------------------------------------------------------------


class Zone(dnslib.server.BaseResolver):
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


Arrived = collections.namedtuple("Arrived", "peer sender recipients message login tls")


class Peer:
    """Keeps what it is sent."""

    def __init__(self, name, address, port, tls=None, login=False):
        self.name, self.arrived = name, []
        peer = self

        class Handler:
            async def handle_DATA(self, server, session, envelope):
                who = session.auth_data.login.decode() if getattr(session, "auth_data", None) else None
                peer.arrived.append(Arrived(peer.name, envelope.mail_from, tuple(envelope.rcpt_tos), envelope.original_content,
                                            who, session.ssl is not None))
                return "250 2.0.0 Ok: taken"

        def authenticate(server, session, envelope, mechanism, data):
            good = data.login == USER.encode() and data.password == PASSWORD.encode()
            return AuthResult(success=good, auth_data=data)

        extra = dict(authenticator=authenticate, auth_required=login, auth_require_tls=True) if login else {}
        self.controller = Controller(Handler(), hostname=address, port=port, tls_context=tls, require_starttls=bool(tls),
                                     server_hostname=name, decode_data=False, enable_SMTPUTF8=True, **extra)
        self.controller.start()


def certificate(directory):
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=smtp.sendgrid.net",
               "-addext", "subjectAltName=DNS:smtp.sendgrid.net,DNS:relay.corp.example",
               "-keyout", directory / "key.pem", "-out", directory / "cert.pem"]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "cert.pem", directory / "key.pem")
    return context


# --- typical configurations ----------------------------------------------------------------------------------------------

MYNETWORKS = "mynetworks = 127.0.0.0/8 [::ffff:127.0.0.0]/104 [::1]/128\n"
DEBIAN = """\
smtpd_banner = $myhostname ESMTP $mail_name (Debian/GNU)
biff = no
append_dot_mydomain = no
readme_directory = no
compatibility_level = 3.6
smtpd_tls_cert_file=/etc/ssl/certs/ssl-cert-snakeoil.pem
smtpd_tls_key_file=/etc/ssl/private/ssl-cert-snakeoil.key
smtpd_tls_security_level=may
smtp_tls_CApath=/etc/ssl/certs
smtp_tls_security_level=may
smtp_tls_session_cache_database = btree:${data_directory}/smtp_scache
smtpd_relay_restrictions = permit_mynetworks permit_sasl_authenticated defer_unauth_destination
myhostname = host.corp.example
alias_maps = hash:/etc/aliases
alias_database = hash:/etc/aliases
mailbox_size_limit = 0
recipient_delimiter = +
inet_protocols = ipv4
""" + MYNETWORKS

Input = collections.namedtuple("Input", "about main master files domains")


def inputs():
    return {
        "a": Input("Debian satellite system", DEBIAN + """\
            myorigin = /etc/mailname
            mydestination = $myhostname, localhost.localdomain, localhost
            relayhost = relay.corp.example
            inet_interfaces = loopback-only
            """, "", {}, ["one.example"]),
        "b": Input("Debian Internet Site", DEBIAN + """\
            myorigin = /etc/mailname
            mydestination = $myhostname, localhost.localdomain, localhost
            relayhost =
            inet_interfaces = all
            """, "", {}, ["one.example", "two.example"]),
        "c": Input("null client", """\
            compatibility_level = 3.6
            myhostname = host.corp.example
            mydomain = corp.example
            myorigin = $mydomain
            relayhost = [relay.$mydomain]
            inet_interfaces = loopback-only
            inet_protocols = ipv4
            mydestination =
            """, "", {}, ["one.example"]),
        "d": Input("SendGrid", DEBIAN + """\
            myorigin = /etc/mailname
            mydestination = localhost
            inet_interfaces = loopback-only
            smtp_sasl_auth_enable = yes
            smtp_sasl_password_maps = static:%s:%s
            smtp_sasl_security_options = noanonymous
            smtp_sasl_tls_security_options = noanonymous
            smtp_tls_security_level = encrypt
            header_size_limit = 4096000
            relayhost = [smtp.sendgrid.net]:587
            """.replace("%s", USER, 1).replace("%s", PASSWORD, 1), "", {}, ["one.example"]),
        "e": Input("bulk role", DEBIAN + """\
            myorigin = /etc/mailname
            mydestination = $myhostname, localhost
            relayhost =
            inet_interfaces = loopback-only
            default_destination_concurrency_limit = 5
            default_destination_rate_delay = 0s
            smtp_destination_concurrency_limit = 5
            maximal_queue_lifetime = 8h
            bounce_queue_lifetime = 8h
            queue_run_delay = 20m
            minimal_backoff_time = 10m
            maximal_backoff_time = 1h
            """, "", {}, ["one.example", "two.example"]),
        "f": Input("a transport for each provider", DEBIAN + """\
            myorigin = /etc/mailname
            mydestination = $myhostname, localhost
            relayhost =
            inet_interfaces = loopback-only
            transport_maps = hash:/etc/postfix/transport
            polite_destination_concurrency_limit = 3
            polite_destination_rate_delay = 0
            polite_destination_recipient_limit = 5
            turtle_destination_concurrency_limit = 2
            turtle_destination_rate_delay = 0s
            turtle_destination_recipient_limit = 2
            """, """\
            polite unix - - n - - smtp
            turtle unix - - n - - smtp
                -o smtp_bind_address=192.0.2.1
            """, {"transport": "orange.fr polite:\nwanadoo.com turtle:\n"}, ["one.example", "orange.fr", "wanadoo.com"]),
        "g": Input("boky's image", """\
            compatibility_level = 3.6
            maillog_file = /var/log/mail-postfix.log
            myhostname = host.corp.example
            myorigin = corp.example
            mydestination = localhost
            inet_interfaces = all
            inet_protocols = ipv4
            mynetworks = 127.0.0.0/8,10.0.0.0/8,172.16.0.0/12,192.168.0.0/16
            relayhost = [smtp.sendgrid.net]:587
            smtp_sasl_auth_enable = yes
            smtp_sasl_password_maps = hash:/etc/postfix/sasl_passwd
            smtp_sasl_security_options = noanonymous
            smtp_tls_security_level = encrypt
            message_size_limit = 26214400
            smtp_header_checks = regexp:/etc/postfix/smtp_header_checks
            smtpd_sender_restrictions = check_sender_access hash:/etc/postfix/allowed_senders, reject
            smtpd_helo_required = yes
            alias_maps = hash:/etc/aliases
            """, "587 inet n - n - - smtpd\n", {
            "sasl_passwd": f"[smtp.sendgrid.net]:587 {USER}:{PASSWORD}\n",
            "smtp_header_checks": "/^X-Internal-.*/ IGNORE\n",
            "allowed_senders": "corp.example OK\n",
        }, ["one.example"]),
        "h": Input("every kind of rewriting", DEBIAN + """\
            myorigin = corp.example
            mydestination = $myhostname, localhost
            relayhost = [relay.corp.example]
            canonical_maps = hash:/etc/postfix/canonical
            sender_canonical_maps = hash:/etc/postfix/sender_canonical
            recipient_canonical_maps = hash:/etc/postfix/recipient_canonical
            virtual_alias_maps = hash:/etc/postfix/virtual
            smtp_generic_maps = hash:/etc/postfix/generic
            masquerade_domains = mail.corp.example !keep.mail.corp.example
            masquerade_exceptions = root
            sender_bcc_maps = hash:/etc/postfix/sender_bcc
            recipient_bcc_maps = hash:/etc/postfix/recipient_bcc
            """, "", {
            "canonical": "old@legacy.example new@corp.example\n@legacy.example @corp.example\nboth@corp.example first.last@corp.example\n",
            "sender_canonical": "robot@corp.example no-reply@corp.example\n",
            "recipient_canonical": "typo@one.example jo@one.example\n",
            "virtual": "v.example anything\nvirt@v.example jo@one.example\nmulti@v.example jo@one.example, li@two.example\n"
                       "all.example anything\n@all.example mo@one.example\nnested@v.example virt@v.example\nhelp@corp.example virt@v.example\n",
            "generic": "inner@corp.example outer@public.example\n@host.corp.example @public.example\n",
            "sender_bcc": "audited@corp.example archive@two.example\n",
            "recipient_bcc": "watched@one.example keeper@two.example\n",
        }, ["one.example"]),
    }


# Senders and recipients of input h: each with each. Not the bare `postmaster`, who is this host's here and the origin's there
# (docs/FROM-POSTFIX.md).
SENDERS = ["app@corp.example", "robot@corp.example", "old@legacy.example", "other@legacy.example", "both@corp.example",
           "inner@corp.example", "a@host.corp.example", "b@mail.corp.example", "c@deep.mail.corp.example", "d@keep.mail.corp.example",
           "e@x.keep.mail.corp.example", "root@deep.mail.corp.example", "app", "root", "audited@corp.example", "inner+tag@corp.example",
           "Both@Corp.Example", "", "o'brien@corp.example", "both+x@corp.example"]
RECIPIENTS = ["jo@one.example", "typo@one.example", "virt@v.example", "multi@v.example", "whoever@all.example", "nested@v.example",
              "help@corp.example", "watched@one.example", "virt+ext@v.example", "unknown@v.example", "both@corp.example", "watched+x@one.example"]
ENVELOPES = """
import json, smtplib
codes, senders, recipients = {}, %r, %r
for s, sender in enumerate(senders):
    with smtplib.SMTP('127.0.0.1', 25, timeout=60) as server:
        server.helo('localhost')
        for r, recipient in enumerate(recipients):
            name = f'envelope {s}-{r}'
            said = [server.mail(sender)[0], server.rcpt(recipient)[0]]
            if said == [250, 250]:
                author = sender or 'MAILER-DAEMON'
                said.append(server.data(f'From: {author}\\r\\nTo: {recipient}\\r\\nSubject: {name} case\\r\\n\\r\\nHello\\r\\n')[0])
            else:
                server.rset()
            codes[name] = said
print(json.dumps(codes))
"""



# --- clients -------------------------------------------------------------------------------------------------------------

FROM = "app@corp.example"


def clients(domains, submission):
    """Name, argv in the root, standard input."""
    to = [f"{name}@{domain}" for name, domain in zip(("jo", "li", "mo"), domains)]
    first, all_to = to[0], ", ".join(to)
    headers = f"From: App <{FROM}>\nTo: {all_to}\nSubject: %s\nX-Internal-Host: secret\n\n"
    php = "<?php require '/usr/share/php/libphp-phpmailer/autoload.php'; $m = new PHPMailer\\PHPMailer\\PHPMailer(true); %s" \
          f"$m->setFrom('{FROM}', 'App'); $m->Sender = '{FROM}';" + "".join(f"$m->addAddress('{address}');" for address in to) + \
          "$m->Subject = '%s'; $m->Body = \"Hello\\n.\\n..dots\\n\"; $m->send();"
    python = "import smtplib\ns = smtplib.SMTP('127.0.0.1', %d)\n" \
             f"s.sendmail('{FROM}', {to!r}, 'From: App <{FROM}>\\r\\nTo: {all_to}\\r\\nSubject: %s\\r\\n\\r\\nHello\\r\\n')\ns.quit()\n"
    node = "const n = require('/opt/node_modules/nodemailer');" \
           "const t = n.createTransport({sendmail: true, path: '/usr/sbin/sendmail', newline: 'unix'});" \
           f"t.sendMail({{from: 'App <{FROM}>', to: {json.dumps(to)}, bcc: 'hidden@{domains[0]}', subject: '%s', text: 'Hello\\n'}})" \
           ".then(() => process.exit(0), e => {{ console.error(e); process.exit(1) }});"
    dialogue = "EHLO localhost\nMAIL FROM:<{f}>\n{r}DATA\nFrom: App <{f}>\nTo: {t}\nSubject: %s\n\nHello\n.\nQUIT\n".format(
        f=FROM, r="".join(f"RCPT TO:<{address}>\n" for address in to), t=all_to)
    patch = f"From 0123456789012345678901234567890123456789 Mon Sep 17 00:00:00 2001\nFrom: App <{FROM}>\nDate: Sat, 21 Nov 2026 10:00:00 +0000\n" \
            "Subject: %s\n\nHello\n---\n"
    table = [
        ("php-mail", ["php", "-r", f"exit(mail('{all_to}', '%s', \"Hello\\r\\n.\\r\\nend\\n\", \"From: App <{FROM}>\\r\\nX-Internal-Host: secret\", '-f{FROM}') ? 0 : 1);"], None),
        ("phpmailer-mail", ["php", "-r", (php % ("$m->isMail();", "%s"))[6:]], None),
        ("phpmailer-sendmail", ["php", "-r", (php % ("$m->isSendmail();", "%s"))[6:]], None),
        ("phpmailer-smtp", ["php", "-r", (php % ("$m->isSMTP(); $m->Host = 'localhost'; $m->Port = 25;", "%s"))[6:]], None),
        ("sendmail-t", ["sendmail", "-t", "-i", "-f", FROM], headers + "Hello\n.\nend\n"),
        ("cron", ["sendmail", "-i", "-FCronDaemon", "-B8BITMIME", "-oem", "-f", FROM, first], f"From: {FROM}\nTo: {first}\nSubject: %s\n\nHello\n"),
        ("cronie", ["sendmail", "-FCronDaemon", "-i", "-odi", "-oem", "-oi", "-t", "-f", FROM], headers + "Hello\n"),
        ("mail", ["bsd-mailx", "-a", f"From: {FROM}", "-s", "%s", "--", first, "-f", FROM], "Hello\n"),
        ("git", ["git", "-c", f"user.email={FROM}", "-c", "user.name=App", "send-email", "--quiet", "--confirm=never", "--suppress-cc=all",
                 "--envelope-sender", FROM, "--from", f"App <{FROM}>", "--to", first, "--smtp-server", "/usr/sbin/sendmail", "/tmp/mail.patch"], patch),
        ("laravel-bs", ["sendmail", "-bs", "-i"], dialogue),
        ("msmtp-like", ["sendmail", "-i", "-f", FROM, "--", *to], headers + "Hello\n"),
        ("nodemailer", ["node", "-e", node], None),
        ("smtplib-25", ["python3", "-c", python % (25, "%s")], None),
    ]
    if submission:
        table.append(("smtplib-587", ["python3", "-c", python % (587, "%s")], None))
    return table


def fill(text, subject):
    return text.replace("%s", subject) if text is not None else None


class Machine:
    """A copy of the root, with one configuration."""

    def __init__(self, directory, world, given):
        self.world, self.given = world, given
        directory.mkdir()
        for name in ("upper", "work", "root"):
            (directory / name).mkdir()
        self.root = directory / "root"
        options = f"lowerdir={ROOT},upperdir={directory}/upper,workdir={directory}/work"
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, self.root], check=True)
        for kind, at in (("proc", "proc"), ("devtmpfs", "dev")):
            subprocess.run(["mount", "-t", kind, kind, self.root / at], check=True)
        self.write("/etc/resolv.conf", f"nameserver {RESOLVER}\n")
        self.write("/etc/hosts", f"127.0.0.1 localhost\n{MYSELF} host.corp.example host\n")
        self.write("/etc/mailname", "corp.example\n")
        self.write("/etc/aliases", "postmaster: root\nroot: ops@corp.example\n")
        shutil.copy(world.certificate, self.root / "usr/local/share/ca-certificates/test.crt")
        self.run(["update-ca-certificates"])
        shutil.copytree(os.environ["NODE_MODULES"], self.root / "opt/node_modules", dirs_exist_ok=True)
        self.run(["useradd", "--create-home", "web"])

    def write(self, path, text):
        target = self.root / path.lstrip("/")
        if target.is_symlink():
            target.unlink()
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(textwrap.dedent(text))

    def run(self, argv, stdin=None, user=None, check=True, seconds=60):
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/tmp", "LANG": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
        command = [*INSIDE, "chroot", *(["--userspec", user] if user else []), str(self.root), *argv]
        done = subprocess.run(command, input=stdin, text=True, capture_output=True, env=environment, timeout=seconds)
        if check and done.returncode:
            raise SystemExit(f"{argv[:6]}: exit {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
        return done

    def configure_postfix(self):
        # Each line begins where it begins, whatever the table above is indented by.
        main = "\n".join(line.strip() for line in self.given.main.splitlines()) + "\n"
        self.write("/etc/postfix/main.cf", main)
        if self.given.master:
            stock = (self.root / "etc/postfix/master.cf").read_text()
            (self.root / "etc/postfix/master.cf").write_text(stock + textwrap.dedent(self.given.master))
        for name, text in self.given.files.items():
            self.write(f"/etc/postfix/{name}", text)
            self.run(["postmap", f"hash:/etc/postfix/{name}"], check=False)
        self.run(["newaliases"])

    def send_all(self):
        """What each client got through: exit status by name."""
        submission = self.given.master.startswith("587")
        statuses = {}
        for name, argv, stdin in clients(self.given.domains, submission):
            subject, text = f"{name} case", None
            if name == "git":
                self.write("/tmp/mail.patch", fill(stdin, subject))
            else:
                text = fill(stdin, subject)
            done = self.run([fill(word, subject) for word in argv], text, user="web", check=False)
            statuses[name] = done.returncode
            if done.returncode:
                print(f"    {name}: exit {done.returncode}: {(done.stderr or done.stdout).strip()[:600]}")
        if "canonical" in self.given.files:
            said = json.loads(self.run(["python3", "-c", ENVELOPES % (SENDERS, RECIPIENTS)], seconds=240).stdout)
            # Refused is a status of its own; which code it is may differ.
            statuses.update({name: 0 if codes[-1] == 250 and len(codes) == 3 else 1 for name, codes in said.items()})
        return statuses

    def close(self):
        for at in ("proc", "dev", ""):
            subprocess.run(["umount", "--lazy", self.root / at if at else self.root], check=False)


class World:
    def __init__(self, directory):
        # The machine has a network of its own beside ours, where the peers and DNS are.
        inner = ["ip", "-n", "machine"]
        commands = [
            ["mount", "--make-rprivate", "/"], ["mount", "-t", "proc", "proc", "/proc"], ["mount", "-t", "tmpfs", "tmpfs", "/run"],
            ["ip", "netns", "add", "machine"], ["ip", "link", "add", "peers", "type", "veth", "peer", "name", "eth0", "netns", "machine"],
            *[["ip", "addr", "add", f"{address}/24", "dev", "peers"] for address in (SMARTHOST, MX, RESOLVER)],
            ["ip", "link", "set", "lo", "up"], ["ip", "link", "set", "peers", "up"],
            [*inner, "addr", "add", f"{MYSELF}/24", "dev", "eth0"], [*inner, "link", "set", "lo", "up"], [*inner, "link", "set", "eth0", "up"],
            # Our daemon runs as its own user, without systemd to give it the port.
            [*INSIDE, "sysctl", "-q", "-w", "net.ipv4.ip_unprivileged_port_start=25"],
        ]
        for command in commands:
            subprocess.run(command, check=True)
        tls = certificate(directory)
        self.certificate = directory / "cert.pem"
        quiet = dnslib.server.DNSLogger(log="-request,-reply,-truncated,-error", logf=lambda _: None)
        for tcp in (False, True):
            dnslib.server.DNSServer(Zone(ZONE), address=RESOLVER, port=53, tcp=tcp, logger=quiet).start_thread()
        self.peers = [Peer("smarthost:25", SMARTHOST, 25), Peer("smarthost:587", SMARTHOST, 587, tls=tls, login=True), Peer("mx:25", MX, 25)]

    def gather(self, expected):
        """All that arrived, by subject, once nothing has come for a while."""
        until, quiet, count = time.monotonic() + ARRIVAL_SECONDS, time.monotonic() + 3, -1
        while time.monotonic() < until and (time.monotonic() < quiet or self.subjects() < expected):
            now = sum(len(peer.arrived) for peer in self.peers)
            if now != count:
                count, quiet = now, time.monotonic() + 3
            time.sleep(0.1)
        found = collections.defaultdict(list)
        for peer in self.peers:
            for arrived in peer.arrived:
                found[subject_of(arrived.message)].append(arrived)
            peer.arrived = []
        return found

    def subjects(self):
        return {subject_of(arrived.message) for peer in self.peers for arrived in peer.arrived}


def subject_of(message):
    found = re.search(rb"^Subject: (.*?)\r?$", message, re.M)
    return found.group(1).decode(errors="replace") if found else ""


# --- what is compared ------------------------------------------------------------------------------------------------------


def header_names(message):
    head = message.split(b"\r\n\r\n", 1)[0]
    return [line.split(b":")[0].decode().lower() for line in re.split(rb"\r\n(?![ \t])", head) if b":" in line]


def body(message):
    return message.split(b"\r\n\r\n", 1)[-1]


def field(message, name):
    found = re.search(rb"^%s:((?:[^\r]|\r\n[ \t])*)\r$" % name.encode(), message.split(b"\r\n\r\n", 1)[0] + b"\r\n", re.M | re.I)
    return re.sub(r"\s+", " ", found.group(1).decode(errors="replace")).strip() if found else None


def summary(copies):
    """What of all copies of one message must not change."""
    first = copies[0].message
    return {
        "recipients": sorted({recipient.lower() for copy in copies for recipient in copy.recipients}),
        "copies of each": max(collections.Counter(r.lower() for c in copies for r in c.recipients).values()),
        "sender": sorted({copy.sender for copy in copies}),
        "peer": sorted({copy.peer for copy in copies}),
        "login": sorted({str(copy.login) for copy in copies}),
        "tls": sorted({copy.tls for copy in copies}),
        "addresses": [field(first, name) for name in ("from", "to")],
        "body": body(first),
        "header": sorted(set(header_names(first))),
    }


def differences(before, after):
    """In words; the empty list for the same."""
    found = []
    for key in ("recipients", "copies of each", "sender", "peer", "login", "addresses", "body"):
        if before[key] != after[key]:
            found.append(f"{key}: {before[key]!r} became {after[key]!r}")
    if any(before["tls"]) and not all(after["tls"]):
        found.append("TLS was lost")
    gone = set(before["header"]) - set(after["header"])
    new = set(after["header"]) - set(before["header"]) - MORE
    if gone:
        found.append(f"header fields gone: {', '.join(sorted(gone))}")
    if new:
        found.append(f"header fields new: {', '.join(sorted(new))}")
    return found


def with_postfix(machine, expected):
    machine.configure_postfix()
    # What the service does before: resolv.conf and hosts for daemons in a chroot.
    machine.run(["/usr/lib/postfix/configure-instance.sh", "-"])
    machine.run(["postfix", "start"])
    statuses = machine.send_all()
    found = machine.world.gather(expected(statuses))
    machine.run(["postfix", "stop"], check=False)
    return statuses, found


def credentials(machine):
    """Does what systemd does with LoadCredential= of the drop-in that the import wrote."""
    drop_in = machine.root / "etc/postrider/systemd/tls.conf"
    if not drop_in.exists():
        return {}
    for name, path in re.findall(r"^LoadCredential=(.+?):(.+)$", drop_in.read_text(), re.M):
        machine.run(["install", "-D", "-m", "0400", "-o", "postrider", path, f"/run/credentials/{name}"])
    return {"CREDENTIALS_DIRECTORY": "/run/credentials"}


def with_postrider(machine, expected):
    shutil.copy(PACKAGE, machine.root / "tmp/postrider.deb")
    machine.run(["apt-get", "install", "-y", "-q", "--no-install-recommends", "/tmp/postrider.deb"], seconds=180)
    said = machine.run(["postrider", "import", "postfix", "/etc/postfix", "--replace"], check=False)
    if said.returncode:
        raise SystemExit(f"import: exit {said.returncode}\n{said.stdout}\n{said.stderr}")
    # The peers of this network have addresses for documentation, to which nothing is sent otherwise.
    config = machine.root / "etc/postrider/postrider.toml"
    text = config.read_text()
    line = "allow_private_peers = true\n"
    config.write_text(text.replace("[delivery]\n", f"[delivery]\n{line}", 1) if "[delivery]\n" in text else f"{text}\n[delivery]\n{line}")
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **credentials(machine)}
    daemon = subprocess.Popen([*INSIDE, "chroot", "--userspec", "postrider:postrider", machine.root, "postrider", "serve"], env=environment,
                              stderr=open(machine.root / "tmp/postrider.log", "wb"))
    try:
        until = time.monotonic() + 20
        while machine.run(["postqueue", "-p"], check=False).returncode and time.monotonic() < until and daemon.poll() is None:
            time.sleep(0.2)
        if daemon.poll() is not None:
            raise SystemExit("the daemon ended:\n" + (machine.root / "tmp/postrider.log").read_text()[-3000:])
        statuses = machine.send_all()
        found = machine.world.gather(expected(statuses))
        empty = machine.run(["mailq"], user="web").stdout
        return statuses, found, empty
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(20)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--input", default="a,b,c,d,e,f,g,h")
    parser.add_argument("--postfix-only", action="store_true", help="show what Postfix does, and stop")
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    directory = pathlib.Path("/mnt")
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", directory], check=True)
    world = World(directory)
    failed = passed = 0
    for name in options.input.split(","):
        given = inputs()[name]
        machine = Machine(directory / name, world, given)
        expected = lambda statuses: {f"{client} case" for client, status in statuses.items() if status == 0}
        print(f"{name}: {given.about}", flush=True)
        before_statuses, before = with_postfix(machine, expected)
        if options.postfix_only:
            for client, status in before_statuses.items():
                copies = before.get(f"{client} case")
                print(f"  {client:20} exit {status}  {({k: v for k, v in summary(copies).items() if k != 'body'}) if copies else 'nothing arrived'}")
            machine.close()
            continue
        after_statuses, after, listing = with_postrider(machine, expected)
        same = 0
        for client, status in before_statuses.items():
            said, problems = f"{client} case", []
            if status and not after_statuses.get(client) and after.get(said):
                passed += 1
                print(f"  {client:20} works now")
                continue
            if after_statuses.get(client) != status:
                problems.append(f"exit {status} became {after_statuses.get(client)}")
            if bool(before.get(said)) != bool(after.get(said)):
                problems.append(f"{len(before.get(said, []))} copies became {len(after.get(said, []))}")
            elif before.get(said):
                problems += differences(summary(before[said]), summary(after[said]))
            elif status == 0:
                problems.append("arrived neither before nor after")
            passed, failed = passed + (not problems), failed + bool(problems)
            if client.startswith("envelope"):
                same += not problems
            if problems or not client.startswith("envelope"):
                print(f"  {client:20} {'same' if not problems else '; '.join(problems)}", flush=True)
        if same:
            print(f"  {same} envelopes: same")
        if listing != "Mail queue is empty\n":
            failed += 1
            print(f"  mailq: {listing}")
        if options.keep:
            kept = HOME / f"{name}.log"
            shutil.copy(machine.root / "tmp/postrider.log", kept)
            print(f"  (log: {kept})")
        machine.close()
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
