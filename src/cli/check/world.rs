//! The real world behind [`Lookups`]: the daemon's own resolver, and sockets.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::{TcpSocket, TcpStream};

use super::lookups::{Lookups, Trouble};
use crate::config;
use crate::dns::{Dns, Families, LookupError, Settings};
use crate::mail::Domain;

/// Longest first line of a greeting that is read, in octets (RFC 5321 §4.5.3.1.5).
const GREETING_OCTETS_MAX: u64 = 512;

/// DNS and TCP.
pub struct World {
    dns: Dns,
}

impl World {
    /// Within a tokio runtime.
    ///
    /// # Errors
    /// The resolver cannot be set up.
    pub fn new(dns: &config::Dns) -> anyhow::Result<World> {
        let nameservers = Some(dns.nameservers.clone()).filter(|servers| !servers.is_empty());
        // Both families, whatever the sources have: a name that leads to two addresses is looked at whole.
        let settings = Settings { nameservers, timeout: dns.timeout, families: Families::Both, ..Settings::default() };
        Ok(World { dns: Dns::new(settings).context("[dns]")? })
    }
}

impl Lookups for World {
    async fn texts(&self, name: &str) -> Result<Vec<String>, Trouble> {
        listed(self.dns.texts(&domain(name)?).await)
    }

    async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, Trouble> {
        listed(self.dns.addresses(&domain(name)?).await)
    }

    async fn pointers(&self, address: IpAddr) -> Result<Vec<String>, Trouble> {
        let names = listed(self.dns.names_of(address).await)?;
        Ok(names.iter().map(Domain::to_string).collect())
    }

    async fn exchanges(&self, name: &str) -> Result<Vec<String>, Trouble> {
        let mut hosts = listed(self.dns.mx(&domain(name)?).await)?;
        hosts.sort_by_key(|(preference, _)| *preference);
        Ok(hosts.into_iter().filter_map(|(_, host)| host).map(|host| host.to_string()).collect())
    }

    async fn greeting(&self, source: IpAddr, peer: SocketAddr, by: Duration) -> Result<String, Trouble> {
        match tokio::time::timeout(by, greeting(source, peer)).await {
            Ok(Ok(line)) => Ok(line),
            Ok(Err(error)) => Err(Trouble(error.to_string())),
            Err(_) => Err(Trouble(format!("no answer within {}s", by.as_secs()))),
        }
    }
}

fn domain(name: &str) -> Result<Domain, Trouble> {
    name.parse().map_err(|_| Trouble(format!("{name} is no name")))
}

fn listed<T>(answer: Result<Vec<T>, LookupError>) -> Result<Vec<T>, Trouble> {
    match answer {
        Ok(records) => Ok(records),
        Err(LookupError::NoName | LookupError::NoRecord) => Ok(Vec::new()),
        Err(LookupError::Failed(why)) => Err(Trouble(why)),
    }
}

async fn greeting(source: IpAddr, peer: SocketAddr) -> io::Result<String> {
    let stream = connect(source, peer).await?;
    let mut line = Vec::new();
    BufReader::new(stream).take(GREETING_OCTETS_MAX).read_until(b'\n', &mut line).await?;
    let line = String::from_utf8_lossy(&line);
    Ok(line.trim_end().chars().map(|c| if c.is_control() { '?' } else { c }).collect())
}

async fn connect(source: IpAddr, peer: SocketAddr) -> io::Result<TcpStream> {
    let socket = if peer.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if !source.is_unspecified() {
        socket.bind(SocketAddr::new(source, 0))?;
    }
    socket.connect(peer).await
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_greeting_is_read_to_its_first_line_and_no_control_character_reaches_the_terminal() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = listener.local_addr().unwrap();
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"220 a\x1b[31m ready\r\n250 more\r\n").await.unwrap();
        };
        let (line, ()) = tokio::join!(greeting("127.0.0.1".parse().unwrap(), peer), server);
        assert_eq!(line.unwrap(), "220 a?[31m ready");
    }
}
