"""A day's mail in small, with the classic log on: what clients did and what the peer saw is counted, and pflogsumm's totals and
fail2ban's matches over the log must be the same numbers. Called by `run`.
"""

import argparse
import base64
import collections
import json
import pathlib
import re
import shutil
import smtplib
import subprocess
import sys
import tempfile
import threading

import argon2
from aiosmtpd.controller import Controller

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "lib"))
import instances  # noqa: E402

PASSWORD = "correct horse battery staple"
WAIT = 120
# The addresses on loopback that guess passwords, and those that want to relay.
GUESSERS, STRANGERS = ["127.0.0.31", "127.0.0.32"], ["127.0.0.41", "127.0.0.42", "127.0.0.43"]
failures = []


class Peer:
    """Takes, refuses and puts off, by the local part; counts each answer."""

    def __init__(self, port):
        self.counts, self.lock = collections.Counter(), threading.Lock()
        self.controller = Controller(self, hostname="127.0.0.1", port=port, decode_data=False)
        self.controller.start()

    async def handle_RCPT(self, server, session, envelope, address, options):
        temper = address.split("-")[0]
        said = {"dead": "550 5.1.1 User unknown", "later": "450 4.2.1 Try again later", "big": "552 5.2.2 Mailbox full"}.get(temper)
        with self.lock:
            self.counts[said[:3] if said else "taken"] += 1
        if said:
            return said
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 Ok"

    async def handle_DATA(self, server, session, envelope):
        return "250 2.0.0 Ok"


def check(what, got, wanted):
    print(f"  {'ok' if got == wanted else 'WRONG'}  {what}: {got}" + ("" if got == wanted else f", wanted {wanted}"), flush=True)
    if got != wanted:
        failures.append(what)


def totals(report):
    """pflogsumm's grand totals, by name."""
    part = report.split("Per-Day")[0].split("Per-Hour")[0]
    return {name.strip(): number for number, name in re.findall(r"^ *(\d+[kmg]?) {1,3}([a-z][a-z /]*?)(?:  ?\(.*\))?$", part, re.M)}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--messages", type=int, default=400)
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    directory = pathlib.Path(tempfile.mkdtemp(prefix="analysers."))
    submission, relay, peer_port = (instances.free_port() for _ in range(3))
    log = directory / "mail.log"
    hash_ = argon2.PasswordHasher(time_cost=2, memory_cost=19456, parallelism=1).hash(PASSWORD)
    postrider = instances.Postrider(directory, f"""\
hostname = "relay.shop.example"
data_dir = "{directory}/data"
[[listener]]
bind = "127.0.0.1:{submission}"
mode = "submission"
[[listener]]
bind = "127.0.0.1:{relay}"
mode = "smtp"
trusted_networks = ["127.0.0.1/32"]
[[credential]]
name = "shop"
password_hash = "{hash_}"
from_domains = ["shop.example"]
[[route]]
recipient_domain = "*"
next_hop = ["127.0.0.1:{peer_port}"]
[delivery]
allow_private_peers = true
[log]
classic = "{log}"
""", ("127.0.0.1", submission))
    peer = Peer(peer_port)
    did = collections.Counter()
    try:
        postrider.start()
        print(f"{options.messages} messages by login, {options.messages // 4} from a trusted network")
        kinds = ["good"] * 7 + ["dead", "later", "big"]
        with smtplib.SMTP("127.0.0.1", submission, timeout=60) as server:
            server.login("shop", PASSWORD)
            for number in range(options.messages):
                to = [f"{kinds[(number + turn) % len(kinds)]}-{number}-{turn}@dest.example" for turn in range(1 + number % 3)]
                server.sendmail("orders@shop.example", to, f"From: orders@shop.example\r\nTo: {to[0]}\r\nSubject: {number}\r\n\r\n{'Hello. ' * (number % 50)}\r\n")
                did["messages"] += 1
                did["recipients"] += len(to)
                did["reports"] += any(address.startswith(("dead", "big")) for address in to)
        with smtplib.SMTP("127.0.0.1", relay, timeout=60) as server:
            for number in range(options.messages // 4):
                server.sendmail("cron@shop.example", [f"good-cron{number}@dest.example"], f"From: cron@shop.example\r\nSubject: {number}\r\n\r\nHello\r\n")
                did["messages"] += 1
                did["recipients"] += 1
        print("strangers who want to relay, and some who guess passwords")
        for number in range(30):
            with smtplib.SMTP("127.0.0.1", relay, timeout=60, source_address=(STRANGERS[number % 3], 0)) as server:
                server.ehlo("stranger.example")
                server.mail("spam@stranger.example")
                code, _ = server.rcpt(f"victim{number}@elsewhere.example")
                did["refused"] += code >= 500
        for number in range(6):
            source = GUESSERS[number % 2]
            with smtplib.SMTP("127.0.0.1", submission, timeout=60, source_address=(source, 0)) as server:
                server.ehlo("guesser.example")
                words = base64.b64encode(f"\0shop\0guess {number}".encode()).decode()
                did[f"guess {source}"] += server.docmd("AUTH", f"PLAIN {words}")[0] == 535
        instances.wait_for("everything is tried", lambda: sum(peer.counts.values()) >= did["recipients"], WAIT)
        # The reports about what failed go out as well.
        instances.wait_for("only what is put off waits", lambda: waiting(postrider) == peer.counts["450"], WAIT)
    finally:
        postrider.stop()
        peer.controller.stop()

    text = log.read_text()
    reports = len(re.findall(r"sender non-delivery notification: ", text))
    print("pflogsumm")
    report = subprocess.run(["pflogsumm", str(log)], capture_output=True, text=True, timeout=60, check=True).stdout
    told = totals(report)
    # Our own reports are received from nobody, and delivered.
    check("received", told.get("received"), str(did["messages"]))
    check("delivered", told.get("delivered"), str(peer.counts["taken"]))
    check("deferred", told.get("deferred"), str(peer.counts["450"]))
    check("bounced", told.get("bounced"), str(peer.counts["550"] + peer.counts["552"]))
    check("rejected", told.get("rejected"), str(did["refused"]))
    check("reports to senders", reports, did["reports"])
    print("fail2ban")
    for mode, sources in (("normal", STRANGERS), ("auth", GUESSERS)):
        done = subprocess.run(["fail2ban-regex", "--print-all-matched", str(log), f"postfix[mode={mode}]"], capture_output=True, text=True, timeout=60)
        matched = re.search(r"^Lines: \d+ lines, \d+ ignored, (\d+) matched", done.stdout, re.M)
        wanted = did["refused"] if mode == "normal" else sum(did[f"guess {source}"] for source in GUESSERS)
        check(f"failures in mode {mode}", int(matched[1]) if matched else done.stdout[-300:], wanted)
        lines = [line for line in done.stdout.splitlines() if "postfix/" in line]
        check(f"each of them names its address ({mode})", {address for address in sources if any(f"[{address}]" in line for line in lines)}, set(sources))
    if options.keep or failures:
        print(f"  (kept: {directory})")
        print("\n".join(report.splitlines()[:40]))
    else:
        shutil.rmtree(directory, ignore_errors=True)
    print(f"FAILED: {'; '.join(failures)}" if failures else "all agree")
    return 1 if failures else 0


def waiting(postrider):
    done = postrider.run("--json", "queue", "list", "--limit", "0", timeout=60)
    rows = json.loads(done.stdout)
    return len(rows["envelopes"] if isinstance(rows, dict) else rows)


if __name__ == "__main__":
    sys.exit(main())
