//! A name server for one zone in which every domain has the same MX: enough of RFC 1035 for that, and nothing else.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

const A: u16 = 1;
const MX: u16 = 15;

/// Serves `*.bulk.test`: its MX is `mx.bulk.test`, at this address. Every other name resolves to an address of nobody.
/// Ends when dropped.
pub struct Zone {
    address: SocketAddr,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Zone {
    /// With the MX at this address.
    pub fn with_mx_at(mx: Ipv4Addr) -> Zone {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a port for DNS");
        socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
        let address = socket.local_addr().expect("its address");
        let stopping = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&stopping);
        let thread = std::thread::spawn(move || {
            let mut query = [0; 1500];
            while !stop.load(Ordering::SeqCst) {
                if let Ok((length, from)) = socket.recv_from(&mut query)
                    && let Some(answer) = answer(&query[..length], mx)
                {
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        Zone { address, stopping, thread: Some(thread) }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Zone {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The answer to one question: header, question as it came, and at most one record.
fn answer(query: &[u8], mx: Ipv4Addr) -> Option<Vec<u8>> {
    let mut end = 12;
    let mut labels = Vec::new();
    while *query.get(end)? != 0 {
        let length = usize::from(query[end]);
        labels.push(String::from_utf8_lossy(query.get(end + 1..end + 1 + length)?).to_ascii_lowercase());
        end += 1 + length;
    }
    let question = query.get(12..end + 5)?;
    let kind = u16::from_be_bytes([query[end + 1], query[end + 2]]);
    let name = labels.join(".");
    let data = match (kind, name.as_str()) {
        (A, "mx.bulk.test") => Some(mx.octets().to_vec()),
        (A, name) if !name.ends_with("bulk.test") => Some(vec![192, 0, 2, 1]),
        (MX, name) if name.ends_with(".bulk.test") && name != "mx.bulk.test" => {
            Some([&[0, 10][..], b"\x02mx\x04bulk\x04test\x00"].concat())
        }
        _ => None,
    };
    let mut out = Vec::from(query.get(..2)?);
    // A response, authoritative; one question, no record of authority, none beside.
    out.extend_from_slice(&[0x84, 0x00, 0, 1, 0, u8::from(data.is_some()), 0, 0, 0, 0]);
    out.extend_from_slice(question);
    if let Some(data) = data {
        // The name is the question's; class IN; a TTL of ten minutes.
        out.extend_from_slice(&[0xc0, 12]);
        out.extend_from_slice(&kind.to_be_bytes());
        out.extend_from_slice(&[0, 1, 0, 0, 2, 88]);
        out.extend_from_slice(&(data.len() as u16).to_be_bytes());
        out.extend_from_slice(&data);
    }
    Some(out)
}
