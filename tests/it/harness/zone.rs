//! DNS on loopback: a name server in this process, for `test.` or for all there is.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_server::Server;
use hickory_server::net::runtime::TokioRuntimeProvider;
use hickory_server::proto::rr::rdata::{A, AAAA, CNAME, MX, PTR, SOA, TXT};
use hickory_server::proto::rr::{LowerName, Name, RData, Record};
use hickory_server::store::in_memory::InMemoryZoneHandler;
use hickory_server::zone_handler::{AxfrPolicy, Catalog, ZoneType};
use tokio::net::{TcpListener, UdpSocket};

/// A name server, as long as it is kept.
pub struct Zone {
    handler: Arc<InMemoryZoneHandler<TokioRuntimeProvider>>,
    /// Where it answers.
    pub address: SocketAddr,
    _server: Server<Catalog>,
}

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

impl Zone {
    /// Serves `test.`, by lines of name, type and value.
    pub async fn serve(lines: &str) -> Zone {
        Zone::serve_below("test.", lines).await
    }

    /// Serves what is below a name.
    async fn serve_below(origin: &str, lines: &str) -> Zone {
        let origin = name(origin);
        let zone =
            InMemoryZoneHandler::<TokioRuntimeProvider>::empty(origin.clone(), ZoneType::Primary, AxfrPolicy::Deny);
        let soa = SOA::new(name("ns.test."), name("ops.test."), 1, 3600, 600, 86_400, 60);
        zone.upsert(Record::from_rdata(origin.clone(), 60, RData::SOA(soa)), 0).await;
        let handler = Arc::new(zone);
        let mut catalog = Catalog::new();
        catalog.upsert(LowerName::new(&origin), vec![handler.clone()]);
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            // The same port for both; taken by somebody else now and then.
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
                break (udp, tcp);
            }
        };
        let address = udp.local_addr().unwrap();
        let mut server = Server::new(catalog);
        server.register_socket(udp);
        server.register_listener(tcp, Duration::from_secs(5), 4096);
        let zone = Zone { handler, address, _server: server };
        zone.add(lines).await;
        zone
    }

    /// Adds lines of name, type and value.
    pub async fn add(&self, lines: &str) {
        for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let mut words = line.split_whitespace();
            let (owner, kind) = (words.next().unwrap(), words.next().unwrap());
            let rest: Vec<&str> = words.collect();
            let data = match kind {
                "MX" => RData::MX(MX::new(rest[0].parse().unwrap(), name(rest[1]))),
                "A" => RData::A(A(rest[0].parse().unwrap())),
                "AAAA" => RData::AAAA(AAAA(rest[0].parse().unwrap())),
                "CNAME" => RData::CNAME(CNAME(name(rest[0]))),
                "TXT" => RData::TXT(TXT::new(rest.iter().map(|text| (*text).to_owned()).collect())),
                // One string, spaces and all.
                "TEXT" => RData::TXT(TXT::new(vec![rest.join(" ")])),
                "PTR" => RData::PTR(PTR(name(rest[0]))),
                _ => unreachable!("{kind}"),
            };
            assert!(self.handler.upsert(Record::from_rdata(name(owner), 60, data), 1).await, "{line}");
        }
    }
}

/// A zone for tests that are not async: served by a thread of its own.
pub struct Nameserver {
    zone: Zone,
    _runtime: tokio::runtime::Runtime,
}

impl Nameserver {
    /// Serves these lines below `test.`.
    pub fn serve(lines: &str) -> Nameserver {
        Nameserver::below("test.", lines)
    }

    /// Serves these lines; other names do not exist.
    pub fn of_everything(lines: &str) -> Nameserver {
        Nameserver::below(".", lines)
    }

    fn below(origin: &str, lines: &str) -> Nameserver {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let zone = runtime.block_on(Zone::serve_below(origin, lines));
        Nameserver { zone, _runtime: runtime }
    }

    /// Where it answers.
    pub fn address(&self) -> SocketAddr {
        self.zone.address
    }
}
