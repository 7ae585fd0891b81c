"""Starts and stops the programs that the scripts under tests/ work with: Postrider itself, Debian's Postfix in a
directory of its own, smtp-sink; and measures them through /proc.

Used by tests/bench/* and tests/clients/*. Binds to loopback on free ports only, writes under one temporary directory
only, and ends what it started by process id. It never touches a system service or its configuration.
"""

import base64
import contextlib
import json
import os
import pathlib
import pwd
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
TICKS = os.sysconf("SC_CLK_TCK")


def free_port(host="127.0.0.1"):
    """A port that nobody listens on, below the range from which the kernel takes those of outgoing connections."""
    while True:
        port = random.randrange(10_000, 30_000)
        with contextlib.suppress(OSError), socket.socket() as s:
            s.bind((host, port))
            return port


def wait_for(what, test, seconds):
    """Polls until `test()` is true; fails with a sentence."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if test():
            return
        time.sleep(0.02)
    raise TimeoutError(f"{what} did not happen within {seconds} s")


def greets(host, port):
    """Whether an SMTP server says 220 there."""
    try:
        with socket.create_connection((host, port), 2) as s:
            s.settimeout(2)
            banner = s.recv(512)
            if banner.startswith(b"220"):
                s.sendall(b"QUIT\r\n")
                return True
    except OSError:
        pass
    return False


def work_directory(prefix):
    """A temporary directory that Postfix's user can pass through (0755), removed by the caller."""
    path = pathlib.Path(tempfile.mkdtemp(prefix=prefix, dir=os.environ.get("TMPDIR", "/tmp")))
    path.chmod(0o755)
    return path


# --- measuring -------------------------------------------------------------------------------------------------------


class Usage:
    """CPU seconds and peak memory of a process and everything below it."""

    def __init__(self, cpu_seconds, peak_kib):
        self.cpu_seconds = cpu_seconds
        self.peak_kib = peak_kib


def _stat(pid):
    text = pathlib.Path(f"/proc/{pid}/stat").read_text()
    fields = text[text.rindex(")") + 2:].split()
    ppid = int(fields[1])
    own, waited = int(fields[11]) + int(fields[12]), int(fields[13]) + int(fields[14])
    return ppid, own, waited


def tree(root):
    """`root` and every living descendant, as {pid: (own ticks, ticks of the children it waited for)}."""
    parents, ticks = {}, {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError, ValueError):
                ppid, own, waited = _stat(int(name))
                parents[int(name)] = ppid
                ticks[int(name)] = (own, waited)
    found, grew = {root}, True
    while grew:
        more = {pid for pid, ppid in parents.items() if ppid in found and pid not in found}
        found |= more
        grew = bool(more)
    return {pid: ticks[pid] for pid in found if pid in ticks}


def usage(root):
    """What `root` and its tree have used so far.

    Living processes count with their own ticks and with those of the children they have waited for, so that the
    helpers a Postfix master has started and buried are in the sum. Peak memory is the sum of VmHWM over the living
    (shared pages counted once each: an upper bound for many small processes, exact for one).
    """
    seconds, peak = 0.0, 0
    for pid, (own, waited) in tree(root).items():
        seconds += (own + waited) / TICKS
        with contextlib.suppress(OSError):
            for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    peak += int(line.split()[1])
    return Usage(seconds, peak)


def resident_kib(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise RuntimeError(f"no VmRSS for {pid}")


# --- processes -------------------------------------------------------------------------------------------------------


class Child:
    """A process that we started and that we alone end."""

    def __init__(self, argv, log, **keywords):
        self.log = log
        self._out = open(log, "ab")
        self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=self._out, stderr=self._out, **keywords)
        self.pid = self.process.pid

    def running(self):
        return self.process.poll() is None

    def stop(self, seconds=15):
        if self.running():
            self.process.terminate()
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._out.close()
        return self.process.returncode

    def kill(self):
        if self.running():
            self.process.kill()
        self.process.wait()
        self._out.close()


class Sink:
    """smtp-sink, with its running counter of messages read from a pipe."""

    def __init__(self, host="127.0.0.1", user=None):
        self.host, self.port, self.messages = host, free_port(host), 0
        self.last_at = None
        argv = ["smtp-sink", "-c"]
        if os.geteuid() == 0:
            argv += ["-u", user or "nobody"]
        self.process = subprocess.Popen(argv + [f"{host}:{self.port}", "1000"], stdin=subprocess.DEVNULL,
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        wait_for("smtp-sink listens", lambda: greets(host, self.port), 10)
        self.base = self.messages

    def _read(self):
        # The counter line is `sess=1 quit=0 mesg=2`, rewritten after a carriage return.
        tail = b""
        while chunk := os.read(self.process.stdout.fileno(), 65536):
            tail = (tail + chunk)[-512:]
            seen = re.findall(rb"mesg=(\d+)[^\d]", tail)
            if seen and int(seen[-1]) != self.messages:
                self.messages, self.last_at = int(seen[-1]), time.monotonic()

    def stop(self):
        self.process.terminate()
        self.process.wait()
        self._thread.join(2)


# --- certificates ----------------------------------------------------------------------------------------------------


def make_certificates(directory, names):
    """A CA and a certificate by it for `names`, with openssl: ca.pem, fullchain.pem, privkey.pem."""
    def run(*argv):
        subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, capture_output=True, cwd=directory)
    directory.mkdir(parents=True, exist_ok=True)
    run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", "/CN=Test CA", "-keyout",
        "ca.key", "-out", "ca.pem", "-addext", "basicConstraints=critical,CA:TRUE", "-addext",
        "keyUsage=critical,keyCertSign")
    alt = ",".join(f"IP:{n}" if re.fullmatch(r"[\d.]+", n) else f"DNS:{n}" for n in names)
    run("openssl", "req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={names[0]}", "-keyout", "privkey.pem", "-out",
        "leaf.csr")
    (directory / "ext").write_text(f"subjectAltName={alt}\nextendedKeyUsage=serverAuth\nbasicConstraints=CA:FALSE\n")
    run("openssl", "x509", "-req", "-in", "leaf.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days",
        "30", "-extfile", "ext", "-out", "leaf.pem")
    (directory / "fullchain.pem").write_text((directory / "leaf.pem").read_text() + (directory / "ca.pem").read_text())
    (directory / "privkey.pem").chmod(0o600)
    (directory / "ca.key").chmod(0o600)
    return directory


def make_dkim_key(path, kind):
    """A private key in PKCS#8 PEM and the TXT record of its public half."""
    argv = ["openssl", "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"] if kind == "rsa" else [
        "openssl", "genpkey", "-algorithm", "ed25519"]
    subprocess.run(argv + ["-out", str(path)], check=True, capture_output=True)
    path.chmod(0o600)
    der = subprocess.run(["openssl", "pkey", "-in", str(path), "-pubout", "-outform", "DER"], check=True,
                         capture_output=True).stdout
    # RFC 8463 §4.2: the bare 32 octets of an Ed25519 key, not its SubjectPublicKeyInfo.
    public = der[-32:] if kind == "ed25519" else der
    return f"v=DKIM1; k={kind}; p={base64.b64encode(public).decode()}"


# --- Postrider -------------------------------------------------------------------------------------------------------


def binary():
    """The daemon to test: $POSTRIDER, else the release build, else the debug build."""
    if path := os.environ.get("POSTRIDER"):
        return path
    for kind in ("release", "debug"):
        path = ROOT / "target" / kind / "postrider"
        if path.exists():
            return str(path)
    raise SystemExit("no postrider binary: cargo build --release, or set POSTRIDER=/path/to/postrider")


class Postrider:
    """`postrider serve -c FILE` with a config that we write."""

    def __init__(self, directory, config, ready):
        """`ready`: (host, port) of a listener that greets in clear."""
        self.directory, self.ready = pathlib.Path(directory), ready
        self.config = self.directory / "postrider.toml"
        self.config.write_text(config)
        self.log = self.directory / "postrider.log"
        self.child = None

    def start(self, seconds=60):
        self.started_at = time.monotonic()
        # As systemd/postrider.service starts it.
        memory = {"MALLOC_ARENA_MAX": os.environ.get("MALLOC_ARENA_MAX", "1")}
        self.child = Child([binary(), "serve", "-c", str(self.config)], self.log,
                           env={**os.environ, **memory, "RUST_LOG": os.environ.get("RUST_LOG", "warn")})
        wait_for("Postrider answers", lambda: self._alive() and greets(*self.ready), seconds)
        return time.monotonic() - self.started_at

    def _alive(self):
        if not self.child.running():
            tail = self.log.read_text(errors="replace")[-2000:]
            raise RuntimeError(f"postrider ended with {self.child.process.returncode}:\n{tail}")
        return True

    @property
    def pid(self):
        return self.child.pid

    def stop(self):
        if self.child:
            self.child.stop()

    def kill(self):
        if self.child:
            self.child.kill()

    def api(self, path):
        """GET from the daemon's own API, over the socket in its data directory: the JSON, or None while nobody answers."""
        try:
            with socket.socket(socket.AF_UNIX) as s:
                s.settimeout(5)
                s.connect(str(self.directory / "data" / "control.sock"))
                s.sendall(f"GET {path} HTTP/1.1\r\nHost: postrider\r\nConnection: close\r\n\r\n".encode())
                answer = b"".join(iter(lambda: s.recv(65536), b""))
            head, _, body = answer.partition(b"\r\n\r\n")
            return json.loads(body) if b" 200 " in head.splitlines()[0] else None
        except (OSError, ValueError, IndexError):
            return None

    def run(self, *arguments, **keywords):
        """Another command of the same binary with this config."""
        return subprocess.run([binary(), *arguments, "-c", str(self.config)], capture_output=True, text=True, **keywords)


# --- Postfix ---------------------------------------------------------------------------------------------------------


class Postfix:
    """Debian's Postfix in its own config, queue and data directories: an instance that shares only the binaries.

    `main` and `services` add lines to main.cf and master.cf. Needs root, as Postfix does.
    """

    MASTER = """\
{listen} inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
proxywrite unix - - n - 1 proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
"""

    def __init__(self, directory, main, host="127.0.0.1", port=None, name="peer.example"):
        self.directory = pathlib.Path(directory)
        self.host, self.port = host, port or free_port(host)
        self.etc, self.queue = self.directory / "etc", self.directory / "queue"
        data, self.log = self.directory / "data", self.directory / "maillog"
        for path in (self.etc, self.queue, data):
            path.mkdir(parents=True)
        owner = pwd.getpwnam("postfix")
        os.chown(data, owner.pw_uid, owner.pw_gid)
        settings = {
            "compatibility_level": "3.6",
            "myhostname": name,
            "queue_directory": self.queue,
            "data_directory": data,
            "inet_interfaces": "all",  # Where it listens stands in master.cf; only interfaces have names here.
            "inet_protocols": "ipv4",
            "mynetworks": "127.0.0.0/8",
            "mydestination": "",
            "alias_maps": "",
            "alias_database": "",
            "smtpd_relay_restrictions": "permit_mynetworks,reject",
        }
        settings.update(main)
        (self.etc / "main.cf").write_text("".join(f"{k} = {v}\n" for k, v in settings.items()))
        (self.etc / "master.cf").write_text(self.MASTER.format(listen=f"{host}:{self.port}"))
        for name_ in ("dynamicmaps.cf", "postfix-files"):
            if os.path.exists(f"/etc/postfix/{name_}"):
                shutil.copy(f"/etc/postfix/{name_}", self.etc / name_)

    def start(self):
        done = subprocess.run(["postfix", "-c", str(self.etc), "start"], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"postfix start: {done.stderr}{done.stdout}")
        wait_for("Postfix answers", lambda: greets(self.host, self.port), 30)
        self.pid = int((self.queue / "pid/master.pid").read_text())
        return self

    def stop(self):
        subprocess.run(["postfix", "-c", str(self.etc), "stop"], capture_output=True)
        with contextlib.suppress(TimeoutError):
            wait_for("Postfix stops", lambda: not os.path.exists(f"/proc/{getattr(self, 'pid', 0)}"), 10)
        if (pid := getattr(self, "pid", 0)) and os.path.exists(f"/proc/{pid}"):
            os.kill(pid, signal.SIGKILL)
