"""A newsletter to a thousand readers over three providers: some do not exist, some bounce later, complain, unsubscribe by link or
by mail; a provider has a bad day; strangers forge reports by the thousand; the daemon is killed in between. Then a second
newsletter, which must reach exactly those whom it should. Called by `run`.

The client is Python's smtplib; the peer, which plays every reader, is aiosmtpd; signatures are verified by dkimpy. At the end the
books are compared: what the command line, the log, the metrics and the peer counted must agree.
"""

import argparse
import collections
import email
import email.policy
import http.client
import json
import os
import pathlib
import random
import re
import shutil
import smtplib
import sys
import tempfile
import threading
import time

import argon2
import dkim
import dnslib
import dnslib.server
from aiosmtpd.controller import Controller

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "lib"))
import instances  # noqa: E402

PASSWORD = "correct horse battery staple"
DOMAIN, BOUNCE = "shop.example", "bounce.shop.example"
# Every twentieth reader and so on: how many of a thousand are of which temper. The others read it and are silent.
TEMPERS = {"dead": 40, "full": 20, "late": 30, "late-block": 20, "late-full": 20, "away": 30, "click": 30, "mail": 20}
ANGRY = 20
PROVIDERS = {"yahoo.test": "mta.yahoodns.net", "plain.test": "mx.plain.test", "big.test": "mx.big.test"}
WAIT = 240
# Connections to one provider, by default, over three providers.
UNDER_WAY = 60


# --- the world --------------------------------------------------------------------------------------------------------


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


Letter = collections.namedtuple("Letter", "sender to message")


class Readers:
    """One peer behind all MX hosts: refuses as its readers do, keeps what it takes."""

    def __init__(self, port):
        self.letters, self.refused, self.incident = [], collections.Counter(), None
        self.lock = threading.Lock()
        self.controllers = []
        for number, _ in enumerate(PROVIDERS):
            controller = Controller(self, hostname=f"127.0.0.{number + 2}", port=port, decode_data=False, ident="readers")
            controller.start()
            self.controllers.append(controller)

    async def handle_RCPT(self, server, session, envelope, address, options):
        temper, domain = temper_of(address), address.rsplit("@", 1)[1]
        said = None
        if self.incident == domain:
            said = "550 5.1.1 The email account that you tried to reach does not exist"
        elif temper == "dead":
            said = "550 5.1.1 User unknown"
        elif temper == "full":
            said = "552 5.2.2 Mailbox full"
        if said:
            with self.lock:
                self.refused[said[4:9]] += 1
            return said
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 Ok"

    async def handle_DATA(self, server, session, envelope):
        with self.lock:
            for to in envelope.rcpt_tos:
                self.letters.append(Letter(envelope.mail_from, to, envelope.original_content))
        return "250 2.0.0 Ok"

    def of(self, subject):
        with self.lock:
            return {letter.to: letter for letter in self.letters if subject.encode() in letter.message.split(b"\r\n\r\n")[0]}

    def stop(self):
        for controller in self.controllers:
            controller.stop()


def temper_of(address):
    return address.rsplit("@", 1)[0].rsplit("-", 1)[0]


def readers(count):
    """Addresses, `temper-number@domain`, tempers spread evenly over providers and over the list."""
    scale = count / 1000
    tempers = [name for name, many in TEMPERS.items() for _ in range(round(many * scale))]
    tempers += ["quiet"] * (count - len(tempers) - round(ANGRY * scale))
    random.Random(1).shuffle(tempers)
    domains = list(PROVIDERS)
    people = [f"{temper}-{number}@{domains[number % 3]}" for number, temper in enumerate(tempers)]
    people += [f"angry-{number}@yahoo.test" for number in range(round(ANGRY * scale))]
    random.Random(2).shuffle(people)
    return people


def report(about, status, words):
    return (f"From: MAILER-DAEMON@mx.test\r\nTo: <x@{BOUNCE}>\r\nSubject: Undelivered Mail Returned to Sender\r\nAuto-Submitted: auto-replied\r\n"
            "MIME-Version: 1.0\r\nContent-Type: multipart/report; report-type=delivery-status; boundary=b\r\n\r\n"
            "--b\r\nContent-Type: text/plain\r\n\r\nIt could not be delivered.\r\n"
            "--b\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; mx.test\r\n\r\n"
            f"Final-Recipient: rfc822; {about}\r\nAction: failed\r\nStatus: {status}\r\n"
            f"Remote-MTA: dns; store.test\r\nDiagnostic-Code: smtp; 550 {status} {words}\r\n\r\n--b--\r\n").encode()


def complaint(letter):
    head = letter.message.split(b"\r\n\r\n", 1)[0]
    return (f"From: feedback@yahoo.test\r\nTo: fbl@{BOUNCE}\r\nSubject: complaint\r\nMIME-Version: 1.0\r\n"
            "Content-Type: multipart/report; report-type=feedback-report; boundary=b\r\n\r\n"
            "--b\r\nContent-Type: text/plain\r\n\r\nA complaint.\r\n"
            "--b\r\nContent-Type: message/feedback-report\r\n\r\nFeedback-Type: abuse\r\nUser-Agent: Test/1\r\nVersion: 1\r\n\r\n"
            "--b\r\nContent-Type: text/rfc822-headers\r\n\r\n").encode() + head + b"\r\n\r\n--b--\r\n"


def vacation(letter):
    return (f"From: {letter.to}\r\nTo: news@{DOMAIN}\r\nSubject: Out of office\r\nAuto-Submitted: auto-replied\r\n\r\n"
            "I am away. 550 5.1.1 user unknown is what I am not.\r\n").encode()


class House:
    """Postrider, and what clients and the world hand it."""

    def __init__(self, directory, dns_port, peer_port):
        self.submission, self.trusted, self.world, self.page = (instances.free_port() for _ in range(4))
        hash_ = argon2.PasswordHasher(time_cost=2, memory_cost=19456, parallelism=1).hash(PASSWORD)
        self.record = instances.make_dkim_key(directory / "dkim.pem", "rsa")
        self.postrider = instances.Postrider(directory, f"""\
hostname = "relay.{DOMAIN}"
data_dir = "{directory}/data"
postmaster = "ops@plain.test"
[[listener]]
bind = "127.0.0.1:{self.submission}"
mode = "submission"
[[listener]]
bind = "127.0.0.1:{self.trusted}"
mode = "smtp"
trusted_networks = ["127.0.0.0/8"]
[[listener]]
bind = "127.0.0.1:{self.world}"
mode = "smtp"
[[credential]]
name = "news"
password_hash = "{hash_}"
from_domains = ["{DOMAIN}"]
stream = "marketing"
[stream.marketing]
max_age = "1h"
[[sending_domain]]
name = "{DOMAIN}"
dkim = [{{ selector = "r1", key = "{directory}/dkim.pem" }}]
bounce_domain = "{BOUNCE}"
feedback_address = "fbl@{BOUNCE}"
[source.default]
shared = true
[delivery]
port = {peer_port}
allow_private_peers = true
[dns]
nameservers = ["127.0.0.1:{dns_port}"]
[unsubscribe]
url = "https://mail.{DOMAIN}/u"
bind = "127.0.0.1:{self.page}"
""", ("127.0.0.1", self.submission))

    def start(self):
        os.environ["RUST_LOG"] = "info"
        self.postrider.start()

    def send_news(self, number, people):
        """One message to everybody, as a program without a list manager does."""
        with smtplib.SMTP("127.0.0.1", self.submission, timeout=60) as server:
            server.login("news", PASSWORD)
            message = f"From: News <news@{DOMAIN}>\r\nTo: readers:;\r\nSubject: news {number}\r\nMessage-ID: <news{number}@{DOMAIN}>\r\n\r\nNews.\r\n"
            refused = server.sendmail(f"news@{DOMAIN}", people, message)
            assert not refused, refused

    def send_order(self, subject, to):
        with smtplib.SMTP("127.0.0.1", self.trusted, timeout=60) as server:
            for address in to:
                server.sendmail(f"orders@{DOMAIN}", [address], f"From: orders@{DOMAIN}\r\nTo: {address}\r\nSubject: {subject}\r\n\r\nOrder.\r\n")

    def bring(self, letters):
        """Hands in what the world sends: pairs of address and message. Gives the codes of RCPT or of the final dot."""
        codes = collections.Counter()
        server = None
        for count, (to, message) in enumerate(letters):
            # A session that errs too often is ended: a new one in time.
            if count % 15 == 0:
                if server:
                    server.quit()
                server = smtplib.SMTP("127.0.0.1", self.world, timeout=60)
                server.helo("mx.test")
            server.mail("")
            code, _ = server.rcpt(to)
            if code == 250:
                code, _ = server.data(message)
            else:
                server.rset()
            codes[code] += 1
        if server:
            server.quit()
        return codes

    def post(self, path):
        connection = http.client.HTTPConnection("127.0.0.1", self.page, timeout=30)
        connection.request("POST", path, "List-Unsubscribe=One-Click", {"Content-Type": "application/x-www-form-urlencoded"})
        status = connection.getresponse().status
        connection.close()
        return status

    def json(self, *words):
        done = self.postrider.run("--json", *words, timeout=60)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        try:
            return json.loads(done.stdout)
        except ValueError:
            return [json.loads(line) for line in done.stdout.splitlines()]

    def entries(self):
        """Of the list: address, cause, and whether it is in force."""
        rows = self.json("suppression", "list", "--limit", "0")
        rows = rows["entries"] if isinstance(rows, dict) else rows
        return {(row["address"], row["cause"], row["state"] == "in_force") for row in rows}

    def metric(self, name, **labels):
        text = self.postrider.run("metrics", timeout=60).stdout
        total = 0
        for line in text.splitlines():
            found = re.match(r"(\w+)(?:\{(.*)\})? ([0-9.]+)$", line)
            if found and found[1] == name:
                told = dict(re.findall(r'(\w+)="([^"]*)"', found[2] or ""))
                if all(told.get(key) == value for key, value in labels.items()):
                    total += float(found[3])
        return int(total)

    def logged(self, *parts):
        text = self.postrider.log.read_text(errors="replace")
        return sum(all(part in line for part in parts) for line in text.splitlines())

    def waiting(self):
        rows = self.json("queue", "list", "--limit", "0")
        return len(rows["envelopes"] if isinstance(rows, dict) else rows)


# --- the checks ------------------------------------------------------------------------------------------------------------

failures = []


def check(what, got, wanted):
    if isinstance(got, set) and got != wanted:
        got, wanted = f"more {sorted(got - wanted)[:5]} ({len(got - wanted)})", f"fewer {sorted(wanted - got)[:5]} ({len(wanted - got)})"
    good = got == wanted
    shown = f"{len(got)} as they should" if isinstance(got, set) else got
    print(f"  {'ok' if good else 'WRONG'}  {what}: {shown}" + ("" if good else f", wanted {wanted}"), flush=True)
    if not good:
        failures.append(what)


def field(letter, name):
    return email.message_from_bytes(letter.message, policy=email.policy.default)[name] or ""


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--readers", type=int, default=1000)
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    directory = pathlib.Path(tempfile.mkdtemp(prefix="newsletter."))
    dns_port, peer_port = instances.free_port(), instances.free_port()
    zone = "$TTL 60\n" + "".join(f"{domain}. MX 10 {host}.\n{host}. A 127.0.0.{number + 2}\n" for number, (domain, host) in enumerate(PROVIDERS.items()))
    # Our own reports go back to the shop.
    zone += f"{DOMAIN}. MX 10 mx.plain.test.\n"
    house = House(directory, dns_port, peer_port)
    zone += f'r1._domainkey.{DOMAIN}. TXT ' + " ".join(f'"{house.record[at:at + 200]}"' for at in range(0, len(house.record), 200)) + "\n"
    quiet = dnslib.server.DNSLogger(log="-request,-reply,-truncated,-error", logf=lambda _: None)
    servers = [dnslib.server.DNSServer(Zone(zone), address="127.0.0.1", port=dns_port, tcp=tcp, logger=quiet) for tcp in (False, True)]
    for server in servers:
        server.start_thread()
    peer = Readers(peer_port)
    people = readers(options.readers)
    by_temper = collections.defaultdict(set)
    for address in people:
        by_temper[temper_of(address)].add(address)
    began = time.monotonic()
    try:
        house.start()

        print(f"the first newsletter, to {len(people)} readers")
        house.send_news(1, people)
        instances.wait_for("a third of it", lambda: len(peer.of("news 1")) >= len(people) // 3, WAIT)
        house.postrider.kill()
        house.start()
        reached = set(people) - by_temper["dead"] - by_temper["full"]
        instances.wait_for("the first newsletter", lambda: set(peer.of("news 1")) >= reached and house.waiting() == 0, WAIT)
        first = peer.of("news 1")
        check("it reached whom it could, a kill -9 on the way", set(first), reached)
        with peer.lock:
            twice = len(peer.letters) - len(first)
        # A peer that took a message whose reply was not heard gets it again: what was under way at the kill, no more.
        check(f"and twice only who was being sent to then ({twice})", twice <= UNDER_WAY, True)
        check("each has a return path of its own", len({letter.sender for letter in first.values()}), len(reached))
        resolve = lambda name, timeout=5: txt(dns_port, name)  # noqa: E731
        sample = random.Random(3).sample(sorted(first), 50)
        added = {b"list-unsubscribe", b"list-unsubscribe-post", b"feedback-id", b"cfbl-address", b"x-postrider-ref"}
        verified = sum(dkim.verify(first[address].message, dnsfunc=resolve) and added <= signed(first[address].message) for address in sample)
        check("DKIM of 50 letters verifies (dkimpy), every added field covered", verified, 50)

        print("what comes back")
        dsn = lambda temper, status, words: [(first[a].sender, report(a, status, words)) for a in sorted(by_temper[temper])]  # noqa: E731
        bounces = dsn("late", "5.1.1", "User unknown") + dsn("late-block", "5.7.1", "Client host blocked using a block list") + dsn("late-full", "5.2.2", "Mailbox full")
        check("bounces are taken", house.bring(bounces), {250: len(bounces)})
        check("so are absences", house.bring([(first[a].sender, vacation(first[a])) for a in sorted(by_temper["away"])]), {250: len(by_temper["away"])})
        check("and complaints", house.bring([(f"fbl@{BOUNCE}", complaint(first[a])) for a in sorted(by_temper["angry"])]), {250: len(by_temper["angry"])})
        rates = {(row["scope"], row["name"]): row for row in house.json("rates")["rates"]}
        check("the rates of the stream tell of them", rates["stream", "marketing"]["complained"], len(by_temper["angry"]))
        house.postrider.kill()
        house.start()
        links = [re.search(r"<https://mail\.[^/]+(/[^>]+)>", field(first[a], "List-Unsubscribe"))[1] for a in sorted(by_temper["click"])]
        check("links are followed, twice each, after a kill -9", collections.Counter(house.post(link) for link in links * 2), {200: 2 * len(links)})
        wishes = [(re.search(r"<mailto:([^?>]+)", field(first[a], "List-Unsubscribe"))[1], a) for a in sorted(by_temper["mail"])]
        wishes = [(to, f"From: {a}\r\nTo: {to}\r\nSubject: your letters\r\n\r\nI have moved on.\r\n".encode()) for to, a in wishes]
        check("and so are mails", house.bring(wishes), {250: len(wishes)})

        print("strangers")
        before = house.entries()
        chance = random.Random(4)
        tokens = [first[a].sender for a in sorted(by_temper["quiet"])]
        flipped = [flip(chance.choice(tokens), chance) for _ in range(options.readers)]
        check("flipped tokens are refused", house.bring([(to, report(to, "5.1.1", "User unknown")) for to in flipped]), {550: options.readers})
        victims = sorted(by_temper["quiet"])
        forged = [(f"fbl@{BOUNCE}" if number % 2 else f"postmaster@{BOUNCE}", forge(chance, victims, first)) for number in range(options.readers)]
        check("forged reports without a token are heard by a person at most", house.bring(forged), {250: options.readers})
        check("and change nothing", house.entries(), before)
        check("the same bounces again change nothing", (house.bring(bounces), house.entries() == before), ({250: len(bounces)}, True))

        wanted = {(a, "hard_bounce", True) for a in by_temper["dead"] | by_temper["late"]}
        wanted |= {(a, "soft_bounce", False) for a in by_temper["full"] | by_temper["late-full"]}
        wanted |= {(a, "complaint", True) for a in by_temper["angry"]}
        wanted |= {(a, "unsubscribe", True) for a in by_temper["click"] | by_temper["mail"]}
        check("the list", before, wanted)

        print("a provider's bad day")
        time.sleep(1.1)
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        peer.incident = "big.test"
        known = sorted(a for a in by_temper["quiet"] if a.endswith("@big.test"))[:200]
        strangers = [f"new-{number}@big.test" for number in range(60)]
        mixed = [address for pair in zip(known, strangers) for address in pair] + known[60:]
        house.send_order("incident", mixed)
        instances.wait_for("all are refused", lambda: house.waiting() == 0, WAIT)
        now = house.entries()
        check("suppresses nobody", {entry for entry in now if entry[2]}, {entry for entry in wanted if entry[2]})
        check("of strangers it is remembered, pending", {e[0] for e in now - wanted} & set(strangers), set(strangers))
        check("an alarm tells of it", house.metric("postrider_alarm_active", cause="invalid_recipient_storm"), 1)
        peer.incident = None
        # What was remembered of the incident is undone by its site and time; what was believed before it stays.
        undone = house.postrider.run("suppression", "remove", "--site", f"mx.big.test:{peer_port}", "--since", since, timeout=60)
        check("it is undone by site and time", house.entries(), wanted)

        print("the second newsletter")
        silent = by_temper["dead"] | by_temper["late"] | by_temper["angry"] | by_temper["click"] | by_temper["mail"]
        house.send_news(2, people)
        reached = set(people) - silent - by_temper["full"]
        instances.wait_for("the second newsletter", lambda: set(peer.of("news 2")) >= reached and house.waiting() == 0, WAIT)
        check("it reached exactly those it should", set(peer.of("news 2")), reached)
        orders = by_temper["click"] | by_temper["mail"]
        house.send_order("order", sorted(orders | by_temper["late"]))
        instances.wait_for("orders", lambda: set(peer.of("Subject: order")) >= orders and house.waiting() == 0, WAIT)
        check("orders reach those who left the newsletter, and not the dead", set(peer.of("Subject: order")), orders)

        print("the books")
        entries = house.entries()
        stats = house.json("suppression", "stats")
        by_cause = collections.Counter(cause for _, cause, _ in entries)
        check("list and stats agree", total_of(stats), len(entries))
        causes = {"hard_bounce": ("dead", "late"), "soft_bounce": ("full", "late-full"), "complaint": ("angry",), "unsubscribe": ("click", "mail")}
        check("by cause too", dict(by_cause), {cause: sum(len(by_temper[temper]) for temper in tempers) for cause, tempers in causes.items()})
        with peer.lock:
            taken, refused = len(peer.letters), sum(peer.refused.values())
        # The killed daemon's counters are gone; its log lines and its history are not. Of what was under way at the kill the
        # peer knows and the log does not: it was sent again, or its recipient was found dead by then.
        check("log and peer: delivered, but for what went twice", house.logged(" delivered ", "attempt="), taken - twice)
        unheard = refused - house.logged(" failed ", "attempt=", "stage=\"rcpt\"")
        check(f"log and peer: refused, but for what was under way at the kill ({unheard})", 0 <= unheard <= UNDER_WAY, True)
        check("log and wishes: unsubscribed", house.logged("recipient unsubscribed"), 2 * len(links))
        suppressed = len(silent) + len(by_temper["late"])
        check("metrics: suppressed, at accept or before MAIL", house.metric("postrider_suppressed_recipients_total"), suppressed)
        found = house.logged(" suppressed ", "recipient=") - suppressed
        check(f"log: suppressed, and of those under way at the kill ({found})", 0 <= found <= unheard, True)
        some = sorted(by_temper["late"])[0]
        trace = house.postrider.run("trace", some, timeout=60).stdout
        check("trace tells of delivery, bounce and suppression", all(word in trace for word in ("delivered", "bounce", "suppressed")), True)
        check("nothing waits", house.waiting(), 0)
        audit = house.postrider.run("audit", timeout=120)
        check("audit finds every limit kept", audit.returncode, 0)
    finally:
        if failures or sys.exc_info()[0]:
            print(house.postrider.run("queue", "list", timeout=60).stdout[:2000])
        house.postrider.stop()
        peer.stop()
        for server in servers:
            server.stop()
        if options.keep or failures:
            print(f"  (kept: {directory})")
        else:
            shutil.rmtree(directory, ignore_errors=True)
    print(f"{'FAILED: ' + '; '.join(failures) if failures else 'all agree'}, {time.monotonic() - began:.0f} s")
    return 1 if failures else 0


def total_of(stats):
    """Entries in all, whatever the shape."""
    for key in ("entries", "total"):
        if isinstance(stats, dict) and isinstance(stats.get(key), int):
            return stats[key]
    return sum(row.get("entries", row.get("count", 0)) for row in (stats.get("causes") or stats.get("by_cause") or []))


def txt(port, name):
    question = dnslib.DNSRecord.question(name.decode() if isinstance(name, bytes) else name, "TXT")
    for record in dnslib.DNSRecord.parse(question.send("127.0.0.1", port, timeout=5)).rr:
        return b"".join(record.rdata.data)
    return None


def signed(message):
    """Names that the topmost signature covers."""
    head = message.split(b"\r\n\r\n", 1)[0]
    value = re.search(rb"^DKIM-Signature:(.*?)(?=\r\n[^ \t]|\Z)", head, re.S | re.M)[1]
    names = re.search(rb"[;\s]h=([^;]*)", value)[1]
    return {name.strip().lower() for name in re.sub(rb"\s", b"", names).split(b":")}


def flip(address, chance):
    local, domain = address.split("@")
    at = chance.randrange(1, len(local))
    other = chance.choice([c for c in "abcdefghjkmnpqrstvwxyz0123456789" if c != local[at].lower()])
    return f"{local[:at]}{other}{local[at + 1:]}@{domain}"


def forge(chance, victims, first):
    """A bounce or a complaint about somebody, with everything but proof."""
    victim = chance.choice(victims)
    if chance.random() < 0.5:
        return report(victim, "5.1.1", "User unknown")
    # The message as anybody can write it: the same From and Subject, no reference of ours that proves anything.
    head = f"From: News <news@{DOMAIN}>\r\nTo: <{victim}>\r\nSubject: news 1\r\nX-Postrider-Ref: {chance.randbytes(24).hex()}\r\nMessage-ID: <news1@{DOMAIN}>"
    return complaint(Letter("", victim, head.encode() + b"\r\n\r\nNews.\r\n"))


if __name__ == "__main__":
    sys.exit(main())
