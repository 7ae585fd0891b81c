//! A scripted SMTP client over std sockets. It says exactly what it is told to, right or wrong, and reads replies.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

/// Longest wait for one read. Longer than anything a healthy daemon takes, short enough to fail a test.
const READ_LIMIT: Duration = Duration::from_secs(30);

enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(stream) => stream.read(buffer),
            Stream::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(stream) => stream.write(bytes),
            Stream::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Stream::Plain(stream) => stream.flush(),
            Stream::Tls(stream) => stream.flush(),
        }
    }
}

/// A reply, all its lines.
#[derive(Clone, Debug)]
pub struct Reply {
    pub code: u16,
    pub lines: Vec<String>,
}

impl Reply {
    /// The last line's text: where an id or a reason stands.
    pub fn text(&self) -> &str {
        self.lines.last().map_or("", |line| line.get(4..).unwrap_or(""))
    }

    /// Whether EHLO announced an extension.
    pub fn announces(&self, keyword: &str) -> bool {
        self.lines.iter().any(|line| line.get(4..).is_some_and(|rest| rest.split(' ').next() == Some(keyword)))
    }
}

/// How bytes are cut into writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// One write.
    Whole,
    /// Two writes, the second beginning at this offset.
    At(usize),
    /// One write an octet.
    EachByte,
}

/// One connection to the daemon.
pub struct Client {
    stream: BufReader<Stream>,
}

impl Client {
    /// Connects in clear and reads the greeting.
    pub fn connect(address: SocketAddr) -> io::Result<Client> {
        let mut client = Client { stream: BufReader::new(Stream::Plain(socket(address)?)) };
        client.expect(220)?;
        Ok(client)
    }

    /// Connects under TLS from the first octet (RFC 8314) and reads the greeting.
    pub fn connect_tls(address: SocketAddr, config: Arc<ClientConfig>) -> io::Result<Client> {
        let mut client = Client { stream: BufReader::new(encrypt(socket(address)?, config)?) };
        client.expect(220)?;
        Ok(client)
    }

    /// Speaks over a stream that somebody else has connected, in clear or under TLS from the first octet, and reads the
    /// greeting.
    pub fn over(socket: TcpStream, config: Option<Arc<ClientConfig>>) -> io::Result<Client> {
        let stream = match config {
            Some(config) => encrypt(prepared(socket)?, config)?,
            None => Stream::Plain(prepared(socket)?),
        };
        let mut client = Client { stream: BufReader::new(stream) };
        client.expect(220)?;
        Ok(client)
    }

    /// STARTTLS, with EHLO before and after it (RFC 3207).
    pub fn start_tls(mut self, config: Arc<ClientConfig>) -> io::Result<Client> {
        self.hello()?;
        self.command("STARTTLS")?.expect(220)?;
        let Stream::Plain(socket) = self.stream.into_inner() else {
            return Err(io::Error::other("STARTTLS under TLS"));
        };
        Ok(Client { stream: BufReader::new(encrypt(socket, config)?) })
    }

    /// EHLO; its reply.
    pub fn hello(&mut self) -> io::Result<Reply> {
        self.command("EHLO client.example")?.expect(250)
    }

    /// AUTH PLAIN with an initial response.
    pub fn log_in(&mut self, user: &str, password: &str) -> io::Result<()> {
        use base64::Engine as _;
        let token = base64::engine::general_purpose::STANDARD.encode(format!("\0{user}\0{password}"));
        self.command(&format!("AUTH PLAIN {token}"))?.expect(235).map(drop)
    }

    /// One command line and its reply.
    pub fn command(&mut self, line: &str) -> io::Result<Reply> {
        self.write(format!("{line}\r\n").as_bytes(), Split::Whole)?;
        self.reply()
    }

    /// A whole transaction: the reply to the final dot, or the first refusal before it. `message` is stuffed here and must
    /// end with CRLF.
    pub fn deliver(&mut self, from: &str, to: &str, message: &[u8]) -> io::Result<Reply> {
        for command in [format!("MAIL FROM:<{from}>"), format!("RCPT TO:<{to}>")] {
            let reply = self.command(&command)?;
            if reply.code != 250 {
                return Ok(reply);
            }
        }
        let reply = self.command("DATA")?;
        if reply.code != 354 {
            return Ok(reply);
        }
        self.write(&stuffed(message), Split::Whole)?;
        self.reply()
    }

    /// Raw bytes, cut as told.
    pub fn write(&mut self, bytes: &[u8], split: Split) -> io::Result<()> {
        let stream = self.stream.get_mut();
        match split {
            Split::Whole => stream.write_all(bytes)?,
            Split::At(offset) => {
                let (first, second) = bytes.split_at(offset.min(bytes.len()));
                stream.write_all(first)?;
                stream.flush()?;
                stream.write_all(second)?;
            }
            Split::EachByte => {
                for byte in bytes {
                    stream.write_all(std::slice::from_ref(byte))?;
                    stream.flush()?;
                }
            }
        }
        stream.flush()
    }

    /// The next reply.
    pub fn reply(&mut self) -> io::Result<Reply> {
        let mut lines = Vec::new();
        loop {
            let mut line = Vec::new();
            self.stream.read_until(b'\n', &mut line)?;
            let Some(text) = line.strip_suffix(b"\r\n") else {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    format!("{:?}", String::from_utf8_lossy(&line)),
                ));
            };
            let text = String::from_utf8_lossy(text).into_owned();
            let code = text.get(..3).and_then(|code| code.parse().ok());
            let Some(code) = code else { return Err(io::Error::other(format!("no reply: {text:?}"))) };
            let last = text.as_bytes().get(3) != Some(&b'-');
            lines.push(text);
            if last {
                return Ok(Reply { code, lines });
            }
        }
    }

    fn expect(&mut self, code: u16) -> io::Result<Reply> {
        self.reply()?.expect(code)
    }
}

impl Reply {
    /// This reply, if it has the wanted code.
    pub fn expect(self, code: u16) -> io::Result<Reply> {
        if self.code == code { Ok(self) } else { Err(io::Error::other(format!("wanted {code}: {:?}", self.lines))) }
    }
}

fn socket(address: SocketAddr) -> io::Result<TcpStream> {
    prepared(TcpStream::connect_timeout(&address, Duration::from_secs(5))?)
}

fn prepared(socket: TcpStream) -> io::Result<TcpStream> {
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(READ_LIMIT))?;
    socket.set_write_timeout(Some(READ_LIMIT))?;
    Ok(socket)
}

fn encrypt(socket: TcpStream, config: Arc<ClientConfig>) -> io::Result<Stream> {
    let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
    let connection = ClientConnection::new(config, name).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(connection, socket);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok(Stream::Tls(Box::new(stream)))
}

/// The message with leading dots doubled and the final dot (RFC 5321 §4.5.2).
fn stuffed(message: &[u8]) -> Vec<u8> {
    assert!(message.ends_with(b"\r\n"), "a message ends with CRLF");
    let mut out = Vec::with_capacity(message.len() + 64);
    for line in message.split_inclusive(|byte| *byte == b'\n') {
        if line.first() == Some(&b'.') {
            out.push(b'.');
        }
        out.extend_from_slice(line);
    }
    out.extend_from_slice(b".\r\n");
    out
}
