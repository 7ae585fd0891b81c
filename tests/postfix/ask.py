#!/usr/bin/env python3
"""Asks Postfix what it would do with the envelopes of each case, and records the answers beside the case.

    tests/postfix/ask.py [CASE...]

Needs Debian's postfix and root. For each case a private instance is started in a temporary directory: trivial-rewrite says
transport and next hop (its own protocol, over the socket), and smtpd on a loopback port says whether a client may relay
(XCLIENT gives it address and login). Nothing is sent. The answers are cases/CASE/answers.json, which
tests/it/import/answers.rs compares with the imported config; expanded.txt is `postconf -x -n` of the case.
"""
import json, os, pathlib, random, re, shutil, socket, subprocess, sys, tempfile, time

HERE = pathlib.Path(__file__).parent
PORT = 20025
# Words that ask DNS, which a test must not.
DNS_WORDS = r"reject_unknown_\w+,?\s*"


def sh(*args):
    return subprocess.run(args, check=True, capture_output=True, text=True).stdout


def prepare(case, top):
    source = HERE / "cases" / case
    conf, queue = top / "conf", top / "queue"
    for directory in (conf, queue, top / "data"):
        directory.mkdir()
    shutil.chown(top / "data", "postfix")
    os.chmod(top, 0o755)
    files = source / "files"
    if files.is_dir():
        shutil.copytree(files, top / "files")
    text = (source / "main.cf").read_text()
    (conf / "main.cf").write_text(text)
    master = source / "master.cf"
    (conf / "master.cf").write_text((master if master.is_file() else HERE / "master.cf").read_text())
    expanded = sh("postconf", "-c", str(conf), "-x", "-n")
    lines = [line for line in expanded.splitlines() if not line.startswith("config_directory")]
    (source / "expanded.txt").write_text("\n".join(lines) + "\n")
    # Tables and files are those of the case.
    text = re.sub(r"\blmdb:", "hash:", text)
    for path in [p for p in (top / "files").rglob("*") if p.is_file()]:
        text = re.sub(r"(?<![\w./])/" + re.escape(str(path.relative_to(top / "files"))) + r"(?![\w./])", str(path), text)
    (conf / "main.cf").write_text(text)
    relayed = re.sub(DNS_WORDS, "", sh("postconf", "-c", str(conf), "-h", "smtpd_recipient_restrictions"))
    settings = {
        "queue_directory": queue, "data_directory": top / "data", "smtpd_authorized_xclient_hosts": "127.0.0.1",
        "inet_protocols": "all", "smtpd_milters": "", "non_smtpd_milters": "",
        "smtpd_tls_security_level": "none", "smtpd_tls_auth_only": "no", "smtpd_recipient_restrictions": relayed.strip(), "mail_owner": "postfix",
        "maillog_file": top / "log", "maillog_file_prefixes": "/tmp", "alias_database": "", "smtpd_client_connection_count_limit": 0, "smtpd_error_sleep_time": 0,
        "smtpd_hard_error_limit": 10000, "smtpd_soft_error_limit": 10000, "daemon_directory": "/usr/lib/postfix/sbin",
        "smtpd_client_connection_rate_limit": 0, "smtpd_peername_lookup": "no", "address_verify_map": "",
    }
    sh("postconf", "-c", str(conf), "-e", *[f"{k}={v}" for k, v in settings.items()])
    for table in set(re.findall(r"\bhash:(" + re.escape(str(top)) + r"[^\s,]+)", text)):
        sh("postalias" if table.endswith("aliases") else "postmap", "-c", str(conf), f"hash:{table}")
    # A client's own overrides hold on the port that is asked; there are no other ports.
    services = sh("postconf", "-c", str(conf), "-M").splitlines()
    ports = []
    with open(conf / "master.cf", "w") as out:
        for line in services:
            fields = line.split(None, 8)
            if fields[1] == "inet":
                port = PORT + len(ports)
                ports.append(fields[0])
                rest = fields[8] if len(fields) > 8 else ""
                rest = re.sub(r"-o\s+smtpd_tls_\w+=\S+", "", rest)
                out.write(f"127.0.0.1:{port} inet n - n - - smtpd {rest}\n")
            else:
                out.write(re.sub(r"^(\S+\s+\S+\s+\S+\s+\S+\s+)\S+", r"\1n", line) + "\n")
        out.write("anvil unix - - n - 1 anvil\n" if "anvil" not in sh("postconf", "-c", str(conf), "-M") else "")
    return conf, queue, ports


def wait_for(path):
    for _ in range(100):
        if path.exists():
            return
        time.sleep(0.1)
    sys.exit(f"{path} did not come")


def attributes(pairs):
    return b"".join(k.encode() + b"\0" + v.encode() + b"\0" for k, v in pairs) + b"\0"


def read_attributes(stream):
    found = {}
    while True:
        name = read_text(stream)
        if not name:
            return found
        found[name] = read_text(stream)


def read_text(stream):
    octets = b""
    while True:
        octet = stream.read(1)
        if octet in (b"", b"\0"):
            return octets.decode()
        octets += octet


def resolve(queue, sender, recipient):
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(20)
    client.connect(str(queue / "private" / "rewrite"))
    stream = client.makefile("rwb")
    stream.write(attributes([("request", "resolve"), ("sender", sender), ("address", recipient)]))
    stream.flush()
    read_attributes(stream)  # Its name.
    answer = read_attributes(stream)
    client.close()
    if "transport" not in answer:
        sys.exit(f"trivial-rewrite answered {answer}")
    return answer["transport"], answer["nexthop"]


class Smtp:
    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), 6)
        self.stream = self.socket.makefile("rwb")
        self.reply()

    def reply(self):
        while True:
            line = self.stream.readline().decode()
            if line[3:4] != "-":
                return line.strip()

    def say(self, line):
        self.stream.write(line.encode() + b"\r\n")
        self.stream.flush()
        return self.reply()


def may_relay(port, client, login, sender, recipient):
    smtp = Smtp(port)
    smtp.say("EHLO client.example")
    name = f" LOGIN={login}" if login else ""
    answer = smtp.say(f"XCLIENT NAME=[UNAVAILABLE] ADDR={client}{name}")
    if not answer.startswith("220"):
        sys.exit(f"XCLIENT: {answer}")
    smtp.say("EHLO client.example")
    answer = smtp.say(f"MAIL FROM:<{sender}>")
    if answer.startswith("2"):
        answer = smtp.say(f"RCPT TO:<{recipient}>")
    smtp.socket.close()
    return answer.startswith("2")


def serving(log):
    """Whether smtpd greets. Without smtpd_relay_restrictions (compatibility_level 0) it ends at once, and says why."""
    try:
        Smtp(PORT).socket.close()
        return True
    except TimeoutError:
        if "reject_unauth_destination" in log.read_text():
            return False
        raise


def look_ups(case, answers):
    """What `postmap -q` says of each key that smtp(8) asks for: lookups.json, where the case has such tables."""
    files = HERE / "cases" / case / "files/etc/postfix"
    if not all((files / name).is_file() for name in ("sasl_passwd", "tls_policy")):
        return
    keys = set()
    for answer in answers:
        sender, nexthop = answer["sender"], answer["nexthop"]
        if sender:
            keys |= {sender, "@" + sender.split("@")[1]}
        keys |= {nexthop, nexthop.split("]")[0].lstrip("[")}
    found = {}
    for name in ("sasl_passwd", "tls_policy"):
        found[name] = {}
        for key in sorted(keys):
            asked = subprocess.run(["postmap", "-q", key, f"texthash:{files / name}"], capture_output=True, text=True)
            if asked.returncode == 0:
                found[name][key] = asked.stdout.rstrip("\n")
    (HERE / "cases" / case / "lookups.json").write_text(json.dumps(found, indent=1) + "\n")


CLIENTS = ["127.0.0.1", "10.0.0.7", "10.20.0.9", "172.17.0.2", "192.0.2.10", "203.0.113.9", "IPV6:::1", "IPV6:2001:db8::1"]
SENDERS = ["a@example.com", "boss@example.com", "x@news.example.com", "plain@example.com", "boss@other.example", "u@other.example", "s@example.org", "z@elsewhere.example", ""]
RECIPIENTS = [
    "u@example.net", "u@wanadoo.fr", "u@sub.wanadoo.fr", "u@orange.fr", "u@bank.example", "u@a.corp.example", "u@corp.example",
    "u@closed.example", "u@later.example", "u@void.example", "vip@special.example", "u@special.example", "u@partner.example",
    "u@x.partner.example", "u+ext@gmail.com", "vip+ext@special.example",
]


def ask(case):
    with tempfile.TemporaryDirectory(prefix="ask-") as name:
        conf, queue, ports = prepare(case, pathlib.Path(name))
        sh("postfix", "-c", str(conf), "start")
        try:
            wait_for(queue / "private" / "rewrite")
            draw = random.Random(case)
            answers = []
            serves = serving(queue.parent / "log")
            for _ in range(200):
                sender, recipient = draw.choice(SENDERS), draw.choice(RECIPIENTS)
                client, login = draw.choice(CLIENTS), draw.choice(["", "", "app"])
                transport, nexthop = resolve(queue, sender, recipient)
                port = draw.randrange(len(ports))
                relays = may_relay(PORT + port, client, login, sender, recipient) if serves else None
                answers.append({
                    "sender": sender, "recipient": recipient, "client": client.removeprefix("IPV6:"), "login": login,
                    "port": ports[port], "transport": transport, "nexthop": nexthop, "relays": relays,
                })
        except Exception:
            log = pathlib.Path(name) / "log"
            print(log.read_text() if log.exists() else "no log")
            raise
        finally:
            subprocess.run(["postfix", "-c", str(conf), "stop"], capture_output=True)
        look_ups(case, answers)
        rows = ",\n".join(json.dumps(answer) for answer in answers)
        (HERE / "cases" / case / "answers.json").write_text(f"[\n{rows}\n]\n")
        print(case, sum(bool(answer["relays"]) for answer in answers), "of 200 relay")


for case in sys.argv[1:] or sorted(path.name for path in (HERE / "cases").iterdir()):
    ask(case)
