#!/usr/bin/env python3
"""Lets Postfix meet peers and clients of every kind with the config of each case, and records what it does, beside the case.

    tests/postfix/meet.py [CASE...]

Needs Debian's postfix, openssl, iproute2 and root. Postfix runs from a temporary directory in a network namespace of its own;
peers, a name server and clients stand beside it. Nothing leaves this machine.

peers.json    by kind of peer, for samples of the envelopes of answers.json: where the message was taken, whether under TLS and
              by which login, whether at the second attempt (later), or that it waits; and where a password was said in clear.
clients.json  by port, address and TLS of a client: whether STARTTLS and AUTH are offered, and by login and sender what
              became of the first message to somewhere else.

tests/it/import/peers.rs and clients.rs compare the imported config with them.
"""
import base64, contextlib, ctypes, json, os, pathlib, re, shutil, signal, socket, ssl, struct, subprocess, sys, tempfile, threading, time

HERE = pathlib.Path(__file__).parent
CASES = HERE / "cases"
MACHINE, RESOLVER = "192.0.2.1", "192.0.2.53"
# Of the peers; each host has an address of its own. Literals of the cases are their own names.
LITERALS = ["192.0.2.99", "10.0.0.5"]
CLIENTS = ["10.0.0.7", "10.20.0.9", "203.0.113.9"]
PORTS = [25, 465, 587, 2525]
KINDS = ["trusted", "other-name", "self-signed", "no-tls", "broken", "refused", "no-auth", "auth-refused"]
PASSWORDS = {"app": "secret of app", "boss": "secret of boss"}
SENDERS = ["a@example.com", "boss@other.example", "u@other.example", "z@elsewhere.example", ""]
RECIPIENT = "u@example.net"
SAMPLES_MAX = 3
# Where TLS fails at level "may", mail goes in clear once it has waited for so long (smtp_starttls failures and minimal_backoff_time).
BACKOFF_SECONDS = 8


def sh(*args, **more):
    return subprocess.run([str(a) for a in args], check=True, capture_output=True, text=True, **more).stdout


# --- names ---------------------------------------------------------------------------------------------------------------


def zone(answers):
    """MX of every domain, and an address of every host, for all that the answers of a case lead to."""
    mx, hosts = {}, []
    for answer in answers:
        domain = answer["recipient"].split("@")[1]
        hop = answer["nexthop"]
        for name in [domain] + ([] if hop.startswith("[") or " " in hop else [hop.split(":")[0]]):
            mx[name] = f"mx.{name}"
            hosts.append(f"mx.{name}")
        if hop.startswith("["):
            hosts.append(hop[1:].split("]")[0])
    # Of e-bulk: the fallback.
    hosts.append("backup.example.net")
    named = sorted({host for host in hosts if host not in LITERALS})
    addresses = {name: f"192.0.2.{100 + place}" for place, name in enumerate(named)}
    assert len(named) < 100
    return mx, addresses


class Dns:
    def __init__(self):
        self.mx, self.addresses = {}, {}
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((RESOLVER, 53))
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            query, client = self.socket.recvfrom(4096)
            with contextlib.suppress(Exception):
                self.socket.sendto(self.answer(query), client)

    def answer(self, query):
        labels, at = [], 12
        while query[at]:
            labels.append(query[at + 1:at + 1 + query[at]].decode().lower())
            at += 1 + query[at]
        kind = struct.unpack(">H", query[at + 1:at + 3])[0]
        name, question = ".".join(labels), query[12:at + 5]
        found = []
        if kind == 15 and name in self.mx:
            found.append(struct.pack(">H", 10) + wire(self.mx[name]))
        if kind == 1 and name in self.addresses:
            found.append(socket.inet_aton(self.addresses[name]))
        known = name in self.mx or name in self.addresses
        header = query[:2] + struct.pack(">HHHHH", 0x8580 if known else 0x8583, 1, len(found), 0, 0)
        records = b"".join(b"\xc0\x0c" + struct.pack(">HHIH", kind, 1, 60, len(data)) + data for data in found)
        return header + question + records


def wire(name):
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"


# --- certificates --------------------------------------------------------------------------------------------------------


class Certificates:
    def __init__(self, top):
        self.top = top
        self.ca = top / "ca.pem"
        sh("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "3", "-subj", "/CN=test authority",
           "-keyout", top / "ca.key", "-out", self.ca)

    def context(self, name, names, by_authority=True):
        alt = ",".join(("IP:" if re.fullmatch(r"[\d.]+", host) else "DNS:") + host for host in names)
        key, request, pem = (self.top / f"{name}.{end}" for end in ("key", "csr", "pem"))
        (self.top / "ext").write_text(f"subjectAltName={alt}\n")
        sh("openssl", "req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=peer", "-keyout", key, "-out", request)
        signer = ["-CA", self.ca, "-CAkey", self.top / "ca.key", "-CAcreateserial"] if by_authority else ["-signkey", key]
        sh("openssl", "x509", "-req", "-in", request, "-days", "3", "-extfile", self.top / "ext", "-out", pem, *signer)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem, key)
        return context, pem, key


# --- peers ---------------------------------------------------------------------------------------------------------------


class Peers:
    """Every host of the zone, on every port, all of one kind at a time."""

    def __init__(self):
        self.kind, self.contexts, self.hosts = "no-tls", {}, {}
        self.taken, self.in_clear = [], set()
        self.lock = threading.Lock()
        for port in PORTS:
            listener = socket.create_server(("0.0.0.0", port), backlog=200, reuse_port=True)
            threading.Thread(target=self.accept, args=(listener, port), daemon=True).start()

    def accept(self, listener, port):
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=self.visit, args=(connection, port), daemon=True).start()

    def visit(self, connection, port):
        connection.settimeout(60)
        with contextlib.suppress(OSError, ssl.SSLError, ValueError):
            Visit(self, connection, port).run()
        with contextlib.suppress(OSError):
            connection.close()


class Visit:
    def __init__(self, peers, connection, port):
        self.peers, self.connection, self.port, self.kind = peers, connection, port, peers.kind
        self.host = peers.hosts.get(connection.getsockname()[0], "?")
        self.tls, self.login, self.stream = False, None, connection.makefile("rwb")

    def say(self, line):
        self.stream.write(line.encode() + b"\r\n")
        self.stream.flush()

    def read(self):
        line = self.stream.readline()
        if not line:
            raise OSError("the end")
        return line.decode(errors="replace").rstrip("\r\n")

    def encrypt(self):
        if self.kind in ("broken", "refused"):
            self.connection.recv(4096)
            self.connection.sendall(b"this is no TLS\r\n" * 4)
            raise OSError("broken")
        name = self.kind if self.kind in ("other-name", "self-signed") else "trusted"
        self.connection = self.peers.contexts[name].wrap_socket(self.connection, server_side=True)
        self.stream, self.tls = self.connection.makefile("rwb"), True

    def run(self):
        if self.port == 465 and self.kind != "no-tls":
            self.encrypt()
        self.say("220 peer ESMTP")
        sender, recipients = "", []
        while True:
            line = self.read()
            verb = line.split(" ")[0].split(":")[0].upper()
            if verb == "EHLO":
                offers = ["peer", "8BITMIME", "ENHANCEDSTATUSCODES"]
                if not self.tls and self.kind != "no-tls":
                    offers.append("STARTTLS")
                if self.kind != "no-auth":
                    offers.append("AUTH PLAIN LOGIN")
                self.say("\r\n".join(f"250-{offer}" for offer in offers[:-1]) + f"\r\n250 {offers[-1]}")
            elif verb == "STARTTLS" and self.kind == "refused":
                self.say("454 4.7.0 TLS not available")
            elif verb == "STARTTLS":
                self.say("220 2.0.0 go on")
                self.encrypt()
            elif verb == "AUTH":
                self.authenticate(line.split(" "))
            elif verb == "MAIL":
                recipients = []
                self.say("250 2.1.0 Ok")
            elif verb == "RCPT":
                recipients.append(re.search(r"<(.*?)>", line).group(1))
                self.say("250 2.1.5 Ok")
            elif verb == "DATA":
                self.say("354 go on")
                name = ""
                while (text := self.read()) != ".":
                    if text.lower().startswith("x-test-id:"):
                        name = text.split(":")[1].strip()
                with self.peers.lock:
                    self.peers.taken += [(name, recipient, self.host, self.tls, self.login) for recipient in recipients]
                self.say("250 2.0.0 taken")
            elif verb == "QUIT":
                self.say("221 2.0.0 bye")
                return
            else:
                self.say("250 2.0.0 Ok")

    def authenticate(self, words):
        if words[1].upper() == "PLAIN":
            if len(words) < 3:
                self.say("334 ")
                words.append(self.read())
            user = base64.b64decode(words[2]).split(b"\0")[1].decode()
        else:
            if len(words) < 3:
                self.say("334 VXNlcm5hbWU6")
                words.append(self.read())
            user = base64.b64decode(words[2]).decode()
            self.say("334 UGFzc3dvcmQ6")
            self.read()
        if not self.tls:
            self.peers.in_clear.add(self.host)
        if self.kind == "auth-refused":
            self.say("535 5.7.8 no")
            return
        self.login = user
        self.say("235 2.7.0 welcome")


# --- Postfix -------------------------------------------------------------------------------------------------------------


class Logins:
    """What Dovecot says to Postfix about passwords: its auth client protocol."""

    def __init__(self, path):
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        os.chmod(path, 0o666)
        self.listener.listen(50)
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            connection, _ = self.listener.accept()
            threading.Thread(target=self.talk, args=(connection,), daemon=True).start()

    def talk(self, connection):
        stream = connection.makefile("rwb")
        stream.write(b"VERSION\t1\t1\nMECH\tPLAIN\tplaintext\nMECH\tLOGIN\tplaintext\nSPID\t1\nCUID\t1\nCOOKIE\t00\nDONE\n")
        stream.flush()
        for line in stream:
            words = line.decode().rstrip("\n").split("\t")
            if words[0] != "AUTH":
                continue
            response = next(word[5:] for word in words if word.startswith("resp="))
            _, user, password = base64.b64decode(response + "==").decode().split("\0")
            good = PASSWORDS.get(user) == password
            stream.write(f"{'OK' if good else 'FAIL'}\t{words[1]}\tuser={user}\n".encode())
            stream.flush()


def prepare(case, top, certificates, shown):
    """The case's config as it is, but for paths, keys, limits and what would need the network."""
    source, conf, queue = CASES / case, top / "conf", top / "queue"
    for directory in (conf, queue, top / "data"):
        directory.mkdir()
    shutil.chown(top / "data", "postfix")
    os.chmod(top, 0o755)
    if (source / "files").is_dir():
        shutil.copytree(source / "files", top / "files")
    text = re.sub(r"\blmdb:", "hash:", (source / "main.cf").read_text())
    master = source / "master.cf"
    services = (master if master.is_file() else HERE / "master.cf").read_text()
    for path in [p for p in (top / "files").rglob("*") if p.is_file()]:
        own = r"(?<![\w./])/" + re.escape(str(path.relative_to(top / "files"))) + r"(?![\w./])"
        text, services = re.sub(own, str(path), text), re.sub(own, str(path), services)
    (conf / "main.cf").write_text(text)
    (conf / "master.cf").write_text(services)
    settings = {
        "queue_directory": queue, "data_directory": top / "data", "maillog_file": top / "log", "maillog_file_prefixes": "/tmp",
        "mail_owner": "postfix", "daemon_directory": "/usr/lib/postfix/sbin", "alias_database": "", "address_verify_map": "",
        "smtpd_milters": "", "non_smtpd_milters": "", "smtp_tls_session_cache_database": "",
        "smtpd_client_connection_count_limit": 0, "smtpd_client_connection_rate_limit": 0, "smtpd_error_sleep_time": 0,
        "smtpd_hard_error_limit": 10000, "smtpd_soft_error_limit": 10000, "smtpd_peername_lookup": "no",
        "default_destination_rate_delay": 0, "minimal_backoff_time": f"{BACKOFF_SECONDS}s", "queue_run_delay": "1h",
        # One refusal keeps no other message from being tried.
        "default_destination_concurrency_failed_cohort_limit": 0,
        "smtpd_sasl_type": "dovecot", "smtpd_sasl_path": top / "logins",
    }
    said = dict(line.split(" = ", 1) if " = " in line else (line.rstrip(" ="), "") for line in sh("postconf", "-c", conf, "-n").splitlines())
    if said.get("smtpd_tls_cert_file"):
        settings |= {"smtpd_tls_cert_file": shown[1], "smtpd_tls_key_file": shown[2]}
    # The test's authority is what the system trusts.
    if said.get("smtp_tls_CAfile") or said.get("smtp_tls_CApath"):
        settings |= {"smtp_tls_CAfile": certificates.ca, "smtp_tls_CApath": ""}
    sh("postconf", "-c", conf, "-e", *[f"{k}={v}" for k, v in settings.items()])
    for table in set(re.findall(r"\bhash:(" + re.escape(str(top)) + r"[^\s,]+)", text)):
        sh("postalias" if table.endswith("aliases") else "postmap", "-c", conf, f"hash:{table}")
    services = sh("postconf", "-c", conf, "-M").splitlines()
    lines = [re.sub(r"^(\S+\s+\S+\s+\S+\s+\S+\s+)\S+", r"\1n", line) for line in services]
    (conf / "master.cf").write_text("\n".join(lines) + "\n")
    return conf, queue


INSIDE = ["ip", "netns", "exec", "machine"]
LIBC = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def inside():
    """This thread's new sockets are the machine's."""
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    machine = os.open("/run/netns/machine", os.O_RDONLY)
    try:
        assert LIBC.setns(machine, 0) == 0
        yield
    finally:
        assert LIBC.setns(own, 0) == 0
        os.close(own)
        os.close(machine)


def samples(answers, commands, by_sender):
    """Envelopes that go out by SMTP: a few of each way, or one of each sender where logins depend on it."""
    most = len(answers) if by_sender else SAMPLES_MAX
    ways = {}
    for answer in answers:
        if commands.get(answer["transport"]) != "smtp":
            continue
        of_way = ways.setdefault((answer["transport"], answer["nexthop"]), [])
        pair = (answer["sender"], answer["recipient"])
        if pair not in of_way and pair[0] not in [sender for sender, _ in of_way] and len(of_way) < most:
            of_way.append(pair)
    return sorted(pair for of_way in ways.values() for pair in of_way)


def send(conf, kind, pairs):
    for place, (sender, recipient) in enumerate(pairs):
        text = f"From: {sender or 'mailer-daemon@example.com'}\nTo: {recipient}\nSubject: x\nX-Test-Id: {kind}-{place}\n\nx\n"
        sh(*INSIDE, "sendmail", "-C", conf, "-i", "-f", sender or "<>", "--", recipient, input=text)


def settled(conf):
    """The recipients that wait, once nothing is tried any more."""
    quiet = 0
    for _ in range(300):
        listed = subprocess.run([*INSIDE, "postqueue", "-c", str(conf), "-j"], capture_output=True, text=True).stdout
        entries = [json.loads(line) for line in listed.splitlines()]
        quiet = quiet + 1 if all(entry["queue_name"] == "deferred" for entry in entries) else 0
        if quiet >= 4:
            return entries
        time.sleep(0.25)
    sys.exit("Postfix did not come to an end")


def meet_peers(conf, peers, pairs):
    found = {}
    for kind in KINDS:
        peers.kind, peers.taken, peers.in_clear = kind, [], set()
        # A fresh queue manager: it remembers which destinations were dead.
        sh(*INSIDE, "postfix", "-c", conf, "start")
        send(conf, kind, pairs)
        waiting = settled(conf)
        at_once = list(peers.taken)
        if kind == "broken" and waiting:
            time.sleep(BACKOFF_SECONDS + 1)
            sh(*INSIDE, "postqueue", "-c", conf, "-f")
            time.sleep(1)
            waiting = settled(conf)
        rows = []
        for place, (sender, recipient) in enumerate(pairs):
            # Copies to others (always_bcc) have the same name.
            own = [t for t in peers.taken if t[0] == f"{kind}-{place}" and t[1] == recipient]
            row = {"sender": sender, "recipient": recipient}
            if own:
                _, _, host, tls, login = own[0]
                row |= {"host": host, "tls": tls, "login": login} | ({} if own[0] in at_once else {"later": True})
            rows.append(row)
        missing = sum("host" not in row for row in rows)
        held = {(r["address"]) for entry in waiting for r in entry["recipients"]}
        for row in rows:
            assert "host" in row or row["recipient"] in held, f"{kind}: {row} is neither taken nor waiting"
        reasons = sorted({re.sub(r"\(.*?\)|[\w.-]+\[[\d.]+\]:?\d*", "", r.get("delay_reason", ""))[:70] for e in waiting for r in e["recipients"]})
        print(f"  {kind}: {len(rows) - missing} taken, {missing} wait", reasons[:3])
        found[kind] = {"password_in_clear": sorted(peers.in_clear), "envelopes": rows}
        subprocess.run([*INSIDE, "postsuper", "-c", str(conf), "-d", "ALL"], capture_output=True)
        sh(*INSIDE, "postfix", "-c", conf, "stop")
    return found


class Client:
    def __init__(self, address, port, wrapped):
        if address.startswith("127."):
            with inside():
                self.socket = socket.create_connection(("127.0.0.1", port), 20)
        else:
            self.socket = socket.create_connection((MACHINE, port), 20, source_address=(address, 0))
        if wrapped:
            self.wrap()
        self.stream = self.socket.makefile("rwb")
        self.greeting = self.reply()[-1]

    def wrap(self):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        self.socket = context.wrap_socket(self.socket)

    def reply(self):
        lines = []
        while True:
            line = self.stream.readline().decode().rstrip("\r\n")
            if not line:
                raise OSError("the end")
            lines.append(line)
            if line[3:4] != "-":
                return lines

    def say(self, line):
        self.stream.write(line.encode() + b"\r\n")
        self.stream.flush()
        return self.reply()

    def offers(self):
        lines = self.say("EHLO client.example")
        return {line[4:].split(" ")[0].upper().split("=")[0] for line in lines}


def meet_clients(ports):
    rows = []
    for name, wrapped in ports:
        port = {"smtp": 25, "submission": 587, "submissions": 465}.get(name) or int(name)
        for address in ["127.0.0.1", *CLIENTS]:
            for tls in ("no", "yes"):
                if wrapped != (tls == "yes") and wrapped:
                    continue
                row = {"port": name, "address": address, "tls": tls == "yes"}
                try:
                    client = Client(address, port, wrapped)
                except OSError:
                    if tls == "no" or wrapped:
                        rows.append(row | {"reached": False})
                    continue
                offers = client.offers()
                if tls == "yes" and not wrapped:
                    if "STARTTLS" not in offers:
                        continue
                    client.say("STARTTLS")
                    client.wrap()
                    client.stream = client.socket.makefile("rwb")
                    offers = client.offers()
                row |= {"reached": True, "starttls": "STARTTLS" in offers, "auth": "AUTH" in offers, "mail": []}
                client.socket.close()
                for login, password in [("", ""), *PASSWORDS.items(), ("app", "wrong")]:
                    client = Client(address, port, wrapped)
                    client.offers()
                    if tls == "yes" and not wrapped:
                        client.say("STARTTLS")
                        client.wrap()
                        client.stream = client.socket.makefile("rwb")
                        client.offers()
                    of_login = {"login": login, "password": "wrong" if password == "wrong" else "right", "said": None, "senders": {}}
                    if login:
                        if not row["auth"]:
                            continue
                        token = base64.b64encode(f"\0{login}\0{password}".encode()).decode()
                        of_login["said"] = int(client.say(f"AUTH PLAIN {token}")[-1][:3])
                    for sender in SENDERS:
                        codes = [client.say(f"MAIL FROM:<{sender}>")[-1]]
                        if codes[0].startswith("2"):
                            codes.append(client.say(f"RCPT TO:<{RECIPIENT}>")[-1])
                        client.say("RSET")
                        of_login["senders"][sender] = int(codes[-1][:3])
                    row["mail"].append(of_login)
                    client.socket.close()
                rows.append(row)
    return rows


def meet(case, dns, peers, certificates):
    answers = json.loads((CASES / case / "answers.json").read_text())
    dns.mx, dns.addresses = zone(answers)
    peers.hosts = {address: name for name, address in dns.addresses.items()} | {address: address for address in LITERALS}
    for address in dns.addresses.values():
        subprocess.run(["ip", "addr", "add", f"{address}/32", "dev", "peers"], capture_output=True)
    names = [*dns.addresses, *LITERALS]
    for name, of, by in [("trusted", names, True), ("other-name", ["elsewhere.invalid"], True), ("self-signed", names, False)]:
        peers.contexts[name] = certificates.context(name, of, by)[0]
    shown = certificates.context("shown", ["relay.example.com"])
    with tempfile.TemporaryDirectory(prefix="meet-") as name:
        top = pathlib.Path(name)
        conf, _ = prepare(case, top, certificates, shown)
        shutil.copy(shown[2], top / "shown.key")
        Logins(top / "logins")
        services = [line.split(None, 8) for line in sh("postconf", "-c", conf, "-M").splitlines()]
        commands = {fields[0]: fields[7].split(" ")[0] for fields in services if fields[1] == "unix"}
        ports = [(fields[0], "wrappermode=yes" in " ".join(fields[8:])) for fields in services if fields[1] == "inet"]
        print(case, flush=True)
        try:
            found = meet_peers(conf, peers, samples(answers, commands, "smtp_sender_dependent" in (CASES / case / "main.cf").read_text()))
            (CASES / case / "peers.json").write_text(dumped({kind: of for kind, of in found.items()}))
            serves = any(answer["relays"] is not None for answer in answers)
            sh(*INSIDE, "postfix", "-c", conf, "start")
            rows = meet_clients(ports) if serves else []
            print(f"  {len(rows)} kinds of clients")
            (CASES / case / "clients.json").write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")
        except BaseException:
            log = top / "log"
            print(log.read_text()[-6000:] if log.exists() else "no log")
            raise
        finally:
            subprocess.run([*INSIDE, "postfix", "-c", str(conf), "stop"], capture_output=True)


def dumped(found):
    parts = []
    for kind, of in found.items():
        rows = ",\n  ".join(json.dumps(row) for row in of["envelopes"])
        parts.append(f'"{kind}": {{"password_in_clear": {json.dumps(of["password_in_clear"])}, "envelopes": [\n  {rows}\n]}}')
    return "{" + ",\n".join(parts) + "}\n"


def world():
    inner = ["ip", "-n", "machine"]
    for command in [
        ["mount", "--make-rprivate", "/"], ["mount", "-t", "tmpfs", "tmpfs", "/run"], ["ip", "netns", "add", "machine"],
        ["ip", "link", "add", "peers", "type", "veth", "peer", "name", "eth0", "netns", "machine"],
        ["ip", "addr", "add", f"{RESOLVER}/24", "dev", "peers"],
        *[["ip", "addr", "add", f"{address}/32", "dev", "peers"] for address in [*LITERALS, *CLIENTS]],
        ["ip", "link", "set", "lo", "up"], ["ip", "link", "set", "peers", "up"],
        *[[*inner, "addr", "add", f"{address}/24", "dev", "eth0"] for address in (MACHINE, "192.0.2.2")],
        [*inner, "link", "set", "lo", "up"], [*inner, "link", "set", "eth0", "up"],
        [*inner, "route", "add", "default", "via", RESOLVER],
    ]:
        sh(*command)


def main():
    if os.environ.get("MEET_INSIDE") is None:
        os.environ["MEET_INSIDE"] = "yes"
        os.execvp("unshare", ["unshare", "--net", "--mount", sys.executable, __file__, *sys.argv[1:]])
    # So that Postfix is stopped in any case.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    world()
    with tempfile.TemporaryDirectory(prefix="meet-") as name:
        top = pathlib.Path(name)
        os.chmod(top, 0o755)
        (top / "resolv.conf").write_text(f"nameserver {RESOLVER}\n")
        sh("mount", "--bind", top / "resolv.conf", "/etc/resolv.conf")
        dns, peers, certificates = Dns(), Peers(), Certificates(top)
        for case in sys.argv[1:] or sorted(path.name for path in CASES.iterdir()):
            meet(case, dns, peers, certificates)


main()
