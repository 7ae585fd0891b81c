"""Postfix, Exim and OpenSMTPD take mail of ours, cannot deliver it, and tell us so later.

Each server runs on loopback in directories of its own. Behind them stands a peer of this script, which refuses by the name
of the recipient: dead, full, blocked, spam, slow; `fine` it takes. What the servers then send to the return path goes to
Postrider's listener for the world, through a tap that keeps a copy. The suppression list must then have the dead and
nobody else. Run by tests/peers/run.
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import signal
import smtplib
import socket
import socketserver
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/lib"))
import instances  # noqa: E402

PEERS = pathlib.Path(os.environ.get("PEERS", ROOT / "target/peers"))
WAIT_SECONDS = 60

# What the peer answers to a recipient by its name: at RCPT, and at the final dot.
ANSWERS = {
    "dead": ("550 5.1.1 <{to}>: Recipient address rejected: User unknown in virtual mailbox table", None),
    "full": ("552 5.2.2 <{to}>: Mailbox is full", None),
    "blocked": ("554 5.7.1 Service unavailable; Client host [192.0.2.1] blocked using zen.spamhaus.org", None),
    "spam": ("250 2.1.5 Ok", "550 5.7.1 Message content rejected as spam"),
    "slow": ("451 4.3.0 <{to}>: Temporary lookup failure", None),
    "fine": ("250 2.1.5 Ok", "250 2.0.0 Ok"),
}


class Refusing(socketserver.StreamRequestHandler):
    """One SMTP session of the peer behind the servers."""

    # The return path with which mail to a recipient came.
    senders = {}

    def handle(self):
        self.connection.settimeout(WAIT_SECONDS)
        self.say("220 mx.example.org ESMTP")
        last = "250 2.0.0 Ok"
        while line := self.rfile.readline(4096):
            verb = line[:4].upper()
            if verb in (b"EHLO", b"HELO"):
                self.say("250 mx.example.org")
            elif verb == b"MAIL":
                sender = re.search(rb"<([^>]*)>", line).group(1).decode()
                self.say("250 2.1.0 Ok")
            elif verb == b"RCPT":
                to = re.search(rb"<([^>]*)>", line).group(1).decode()
                self.senders.setdefault(to, sender)
                at_rcpt, at_dot = ANSWERS[to.split("@")[0]]
                last = at_dot or last
                self.say(at_rcpt.format(to=to))
            elif verb == b"DATA":
                self.say("354 go ahead")
                while (line := self.rfile.readline(65536)) and line != b".\r\n":
                    pass
                self.say(last)
            elif verb == b"QUIT":
                self.say("221 2.0.0 Bye")
                return
            else:
                self.say("250 2.0.0 Ok")

    def say(self, line):
        self.wfile.write(line.encode() + b"\r\n")


class Tap(socketserver.BaseRequestHandler):
    """Hands a connection on to Postrider, and keeps the messages that pass."""

    target, messages = None, []

    def handle(self):
        with socket.create_connection(self.target, WAIT_SECONDS) as onward:
            said = bytearray()
            back = threading.Thread(target=self.copy, args=(onward, self.request, None), daemon=True)
            back.start()
            self.copy(self.request, onward, said)
            back.join(WAIT_SECONDS)
        self.messages.extend(messages(bytes(said)))

    @staticmethod
    def copy(source, sink, kept):
        try:
            while data := source.recv(65536):
                if kept is not None:
                    kept += data
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass


def messages(said):
    """The messages in what a client said, by DATA or by BDAT (RFC 3030)."""
    found, place, chunks = [], 0, b""
    while place < len(said):
        end = said.find(b"\r\n", place)
        line, place = said[place:end] if end >= 0 else said[place:], end + 2 if end >= 0 else len(said)
        words = line.upper().split()
        if words[:1] == [b"DATA"]:
            end = said.find(b"\r\n.\r\n", place)
            found.append(said[place:end + 2].replace(b"\r\n..", b"\r\n."))
            place = end + 5
        elif words[:1] == [b"BDAT"]:
            size = int(words[1])
            chunks, place = chunks + said[place:place + size], place + size
            if words[-1] == b"LAST":
                found.append(chunks)
                chunks = b""
    return found


class Threads(socketserver.ThreadingTCPServer):
    daemon_threads, allow_reuse_address = True, True

    def __init__(self, handler):
        self.port = instances.free_port()
        super().__init__(("127.0.0.1", self.port), handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def stop(self):
        self.shutdown()
        self.server_close()


# --- the servers -----------------------------------------------------------------------------------------------------


class Namespaced:
    """A program of an unpacked package in a mount namespace where its users, spool and sockets are its own."""

    USERS = {"Debian-exim": 64101, "opensmtpd": 64102, "opensmtpq": 64103}

    def __init__(self, directory, prepare, argv):
        directory.mkdir(parents=True)
        for name in ("passwd", "group"):
            shell = ":/:/usr/sbin/nologin" if name == "passwd" else ""
            lines = [f"{user}:x:{number}:{f'{number}:' if shell else ''}{shell}\n" for user, number in self.USERS.items()]
            (directory / name).write_text(pathlib.Path(f"/etc/{name}").read_text() + "".join(lines))
        script = directory / "start"
        script.write_text("set -e\n" + "".join(
            f"mount --bind {directory / name} /etc/{name}\n" for name in ("passwd", "group")
        ) + "for d in /var/spool /var/lib /run; do mount -t tmpfs none $d; done\n" + prepare + 'exec "$@"\n')
        self.child = instances.Child(
            ["unshare", "--mount", "--propagation", "private", "bash", str(script), *map(str, argv)], directory / "log")

    def inside(self, *argv):
        return subprocess.run(["nsenter", "-t", str(self.child.pid), "-m", *map(str, argv)], capture_output=True, text=True)

    def stop(self):
        self.child.stop()


class Postfix:
    # The action of its report that a message went on to a server without DSN.
    success = "relayed"

    def __init__(self, work, peer, tap):
        self.postfix = instances.Postfix(work / "postfix", {
            "default_transport": f"smtp:[127.0.0.1]:{peer}",
            "relay_transport": f"smtp:[127.0.0.1]:{peer}",
            "transport_maps": f"inline:{{ bounce.example.com=smtp:[127.0.0.1]:{tap} }}",
            "delay_warning_time": "1s",
            "queue_run_delay": "1s",
            "minimal_backoff_time": "1s",
            "maximal_backoff_time": "2s",
            "maillog_file": work / "postfix.log",
            "maillog_file_prefixes": work,
        }, name="postfix.example.net")
        self.port = self.postfix.port

    def start(self):
        self.postfix.start()

    def retry(self):
        pass

    def stop(self):
        self.postfix.stop()


class Exim:
    success = "delivered"
    CONFIG = """\
primary_hostname = exim.example.net
exim_path = {binary}
spool_directory = /var/spool/exim4
log_file_path = {log}/%slog
pid_file_path = /run/exim.pid
daemon_smtp_ports = {port}
local_interfaces = 127.0.0.1
host_lookup =
rfc1413_query_timeout = 0s
tls_advertise_hosts =
dsn_advertise_hosts = *
delay_warning = 1s
keep_environment =
acl_smtp_rcpt = all
acl_smtp_data = all
begin acl
all:
  accept
begin routers
back:
  driver = manualroute
  domains = bounce.example.com
  transport = back
  route_list = * 127.0.0.1
  self = send
onward:
  driver = manualroute
  transport = onward
  route_list = * 127.0.0.1
  self = send
begin transports
back:
  driver = smtp
  port = {tap}
  hosts_try_fastopen =
onward:
  driver = smtp
  port = {peer}
  hosts_try_fastopen =
begin retry
* * F,1h,1s
"""

    def __init__(self, work, peer, tap):
        self.port, directory = instances.free_port(), work / "exim"
        self.binary = PEERS / "exim4-daemon-light/usr/sbin/exim4"
        config, log = work / "exim.conf", work / "exim-log"
        log.mkdir()
        os.chown(log, Namespaced.USERS["Debian-exim"], Namespaced.USERS["Debian-exim"])
        config.write_text(self.CONFIG.format(port=self.port, peer=peer, tap=tap, log=log, binary=self.binary))
        self.program = Namespaced(directory, (
            f"mkdir -p /var/lib/exim4 /var/spool/exim4\ncp {config} /var/lib/exim4/config.autogenerated\n"
            "chown Debian-exim:Debian-exim /var/spool/exim4\nchmod 755 /run\n"
        ), [self.binary, "-bdf", "-q1s"])

    def start(self):
        instances.wait_for("Exim answers", lambda: instances.greets("127.0.0.1", self.port), 30)

    def retry(self):
        pass

    def stop(self):
        self.program.stop()


class OpenSmtpd:
    success = None
    CONFIG = """\
bounce warn-interval 1s
listen on 127.0.0.1 port {port} hostname opensmtpd.example.net
action "back" relay host smtp://127.0.0.1:{tap}
action "onward" relay host smtp://127.0.0.1:{peer}
match from any for domain "bounce.example.com" action "back"
match from any for any action "onward"
"""

    def __init__(self, work, peer, tap):
        self.port, home = instances.free_port(), PEERS / "opensmtpd"
        config = work / "smtpd.conf"
        config.write_text(self.CONFIG.format(port=self.port, peer=peer, tap=tap))
        self.program = Namespaced(work / "opensmtpd", (
            "mkdir -p /var/spool/smtpd /var/lib/opensmtpd/empty\nchmod 711 /var/spool/smtpd\n"
            "chmod 755 /var/lib /var/lib/opensmtpd /var/lib/opensmtpd/empty\n"
        ), [home / "usr/sbin/smtpd", "-d", "-f", config])
        self.ctl = home / "usr/sbin/smtpctl"

    def start(self):
        instances.wait_for("OpenSMTPD answers", lambda: instances.greets("127.0.0.1", self.port), 30)

    def retry(self):
        self.program.inside(self.ctl, "schedule", "all")

    def stop(self):
        self.program.stop()


SERVERS = {"postfix": Postfix, "exim": Exim, "opensmtpd": OpenSmtpd}

CONFIG = """\
hostname = "relay.example.com"
data_dir = "{work}/data"

[[listener]]
bind = "127.0.0.1:{own}"
mode = "smtp"
trusted_networks = ["127.0.0.0/8"]
stream = "transactional"

[[listener]]
bind = "127.0.0.1:{world}"
mode = "smtp"

# Nobody logs in with it; without one there is no config.
[[credential]]
name = "shop"
password_hash = "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$5xY3tKh9Vb1Y3n0Wb8X5yqB2PqkZ0k9y2s3r7mN8aE0"
stream = "transactional"
from_domains = ["example.com"]

[delivery]
allow_private_peers = true

[[sending_domain]]
name = "example.com"
bounce_domain = "bounce.example.com"
"""


def send(port, to, sender="shop@example.com", options=()):
    """One message to one recipient."""
    with smtplib.SMTP("127.0.0.1", port, "client.example.com", timeout=WAIT_SECONDS) as client:
        message = f"From: Shop <shop@example.com>\r\nTo: <{to}>\r\nSubject: your order\r\n\r\nThank you.\r\n"
        client.sendmail(sender, [to], message, rcpt_options=options)


def reports(messages):
    """What came back: {(recipient, action): message}, by the fields of RFC 3464."""
    found = {}
    for message in messages:
        text = message.decode("utf-8", "replace")
        to = re.search(r"(?im)^(?:original|final)-recipient:[^;]*;\s*<?([^\s>]+)", text)
        action = re.search(r"(?im)^action:\s*(\w+)", text)
        if to and action:
            found.setdefault((to.group(1).lower(), action.group(1).lower()), message)
    return found


def listed(server):
    done = server.run("--json", "suppression", "list")
    if done.returncode:
        raise RuntimeError(done.stderr)
    rows = []
    for line in done.stdout.splitlines():
        value = json.loads(line)
        rows += value if isinstance(value, list) else value.get("entries", [value]) if isinstance(value, dict) else []
    return {row["address"]: (row["cause"], row["state"]) for row in rows if "address" in row}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="servers, with commas between")
    parser.add_argument("--save", type=pathlib.Path, help="write what came back into this directory")
    parser.add_argument("--keep", action="store_true", help="keep the temporary directory and print its path")
    options = parser.parse_args()
    names = options.only.split(",") if options.only else list(SERVERS)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    work = instances.work_directory("postrider-peers-")
    started = []
    try:
        failed = run(work, names, started, options.save)
    finally:
        for thing in reversed(started):
            thing.stop()
        if options.keep:
            print(f"kept: {work}")
        else:
            shutil.rmtree(work, ignore_errors=True)
    sys.exit(1 if failed else 0)


def run(work, names, started, save):
    def keep(thing):
        started.append(thing)
        return thing

    own, world = instances.free_port(), instances.free_port()
    Tap.target = ("127.0.0.1", world)
    peer, tap = keep(Threads(Refusing)), keep(Threads(Tap))
    servers = {name: keep(SERVERS[name](work, peer.port, tap.port)) for name in names}
    for server in servers.values():
        server.start()
    routes = "".join(f'[[route]]\nrecipient_domain = "{name}.example.net"\nnext_hop = ["127.0.0.1:{server.port}"]\n'
                     for name, server in servers.items())
    relay = keep(instances.Postrider(work, CONFIG.format(work=work, own=own, world=world) + routes, ("127.0.0.1", own)))
    relay.start()
    for name in names:
        for local in ANSWERS:
            send(own, f"{local}@{name}.example.net")

    wanted = {(f"{local}@{name}.example.net", "failed") for name in names for local in ("dead", "full", "blocked", "spam")}
    wanted |= {(f"slow@{name}.example.net", "delayed") for name in names}
    # Postrider asks for no word of success; whoever does so in its name gets one to its return path.
    wanted |= {(f"fine@{name}.example.net", server.success) for name, server in servers.items() if server.success}
    for name, server in servers.items():
        fine = f"fine@{name}.example.net"
        instances.wait_for(f"mail to {fine}", lambda: fine in Refusing.senders, 30)
        if server.success:
            send(server.port, fine, Refusing.senders[fine], ["NOTIFY=SUCCESS"])
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline and not wanted <= set(reports(Tap.messages)):
        time.sleep(1)
        for server in servers.values():
            server.retry()
    dead = {f"dead@{name}.example.net" for name in names}
    while time.monotonic() < deadline and not dead <= set(listed(relay)):
        time.sleep(0.2)
    # What must not come would come now.
    time.sleep(2)
    came, entries = reports(Tap.messages), listed(relay)
    if save:
        save.mkdir(parents=True, exist_ok=True)
        for (to, action), message in sorted(came.items()):
            local, server = to.split("@")[0], to.split("@")[1].split(".")[0]
            (save / f"real-{server}-{local}-{action}.eml").write_bytes(message.replace(b"\r\n", b"\n"))
    return judge(names, came, wanted, entries)


def judge(names, came, wanted, entries):
    passed = failed = 0
    for name in names:
        domain = f"{name}.example.net"
        missing = sorted(local for local, action in wanted - set(came) if local.endswith(domain))
        mine = {address: entry for address, entry in entries.items() if address.endswith(domain)}
        # A full mailbox counts once, of five times over two weeks, and stops nothing.
        right = {f"dead@{domain}": ("hard_bounce", "in_force"), f"full@{domain}": ("soft_bounce", "pending")}
        told = sorted(f"{to.split('@')[0]} {action}" for to, action in came if to.endswith(domain))
        print(f"{name}: came back: {', '.join(told)}")
        trouble = [f"no report of {to}" for to in missing] + ([f"list: {mine}, not {right}"] if mine != right else [])
        for line in trouble:
            print(f"{name}: FAILED: {line}")
        passed, failed = passed + (not trouble), failed + bool(trouble)
    for address in sorted(set(entries) - {f"{local}@{name}.example.net" for name in names for local in ANSWERS}):
        print(f"FAILED: {address} is on the list")
        failed += 1
    print(f"{passed} passed, {failed} failed")
    return failed


if __name__ == "__main__":
    main()
