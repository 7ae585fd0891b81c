//! Addresses that no MX record of a stranger may lead us to: our own machine, our own network, and what is no host.
//!
//! Asked at connect, about the address itself, after every name has been resolved: a look at names or at DNS answers can
//! be led around (CNAMEs, mapped addresses, a second answer). Otherwise a domain's owner could have us talk to services
//! that trust our network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// IPv4 networks that are not on the public Internet, by the IANA special-purpose registry (RFC 6890 and updates).
const PRIVATE_V4: [(Ipv4Addr, u32); 15] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),     // "this network", RFC 1122: reaches the machine itself
    (Ipv4Addr::new(10, 0, 0, 0), 8),    // RFC 1918
    (Ipv4Addr::new(100, 64, 0, 0), 10), // CGNAT, RFC 6598
    (Ipv4Addr::new(127, 0, 0, 0), 8),   // loopback
    (Ipv4Addr::new(169, 254, 0, 0), 16), // link-local, and the clouds' metadata services
    (Ipv4Addr::new(172, 16, 0, 0), 12), // RFC 1918
    (Ipv4Addr::new(192, 0, 0, 0), 24),  // IETF protocol assignments
    (Ipv4Addr::new(192, 0, 2, 0), 24),  // documentation
    (Ipv4Addr::new(192, 88, 99, 0), 24), // 6to4 relays, RFC 7526
    (Ipv4Addr::new(192, 168, 0, 0), 16), // RFC 1918
    (Ipv4Addr::new(198, 18, 0, 0), 15), // benchmarks, RFC 2544
    (Ipv4Addr::new(198, 51, 100, 0), 24), // documentation
    (Ipv4Addr::new(203, 0, 113, 0), 24), // documentation
    (Ipv4Addr::new(224, 0, 0, 0), 4),   // multicast
    (Ipv4Addr::new(240, 0, 0, 0), 4),   // reserved, and the broadcast address
];

const fn v6(a: u16, b: u16, c: u16) -> Ipv6Addr {
    Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0)
}

/// IPv6 networks, likewise. Those that carry an IPv4 address are judged by it instead ([`inner`]).
const PRIVATE_V6: [(Ipv6Addr, u32); 12] = [
    (v6(0, 0, 0), 8),           // unspecified, loopback, and what was never assigned
    (v6(0x64, 0xff9b, 1), 48),  // NAT64 of a local network, RFC 8215
    (v6(0x100, 0, 0), 64),      // discard, RFC 6666
    (v6(0x2001, 0x2, 0), 48),   // benchmarks
    (v6(0x2001, 0x10, 0), 28),  // ORCHID
    (v6(0x2001, 0x20, 0), 28),  // ORCHIDv2
    (v6(0x2001, 0xdb8, 0), 32), // documentation
    (v6(0x3fff, 0, 0), 20),     // documentation, RFC 9637
    (v6(0xfc00, 0, 0), 7),      // unique local
    (v6(0xfe80, 0, 0), 10),     // link-local
    (v6(0xfec0, 0, 0), 10),     // site-local, of old
    (v6(0xff00, 0, 0), 8),      // multicast
];

/// Whether an address is loopback, private, link-local, or otherwise not that of a public host.
pub fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_private_v4(address),
        IpAddr::V6(address) => match inner(address) {
            Some(inner) => is_private_v4(inner),
            None => PRIVATE_V6.iter().any(|(net, length)| same_bits(address.to_bits(), net.to_bits(), 128, *length)),
        },
    }
}

fn is_private_v4(address: Ipv4Addr) -> bool {
    let bits = u128::from(address.to_bits());
    PRIVATE_V4.iter().any(|(net, length)| same_bits(bits, u128::from(net.to_bits()), 32, *length))
}

fn same_bits(a: u128, b: u128, width: u32, length: u32) -> bool {
    (a ^ b).checked_shr(width - length).unwrap_or(0) == 0
}

/// The IPv4 address that a connection to this one ends at: mapped (RFC 4291), NAT64 (RFC 6052), 6to4 (RFC 3056),
/// and Teredo's client (RFC 4380, stored inverted).
fn inner(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d, e, f, g, h] = address.segments();
    let from = |high: u16, low: u16| Some(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)));
    match (a, b, c, d, e, f) {
        (0, 0, 0, 0, 0, 0xffff) | (0x64, 0xff9b, 0, 0, 0, 0) => from(g, h),
        (0x2002, ..) => from(b, c),
        (0x2001, 0, ..) => from(!g, !h),
        // IPv4-compatible (RFC 4291, deprecated), but not :: and ::1.
        (0, 0, 0, 0, 0, 0) if g != 0 => from(g, h),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_special_network_is_private_and_its_neighbours_are_not() {
        let private = [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "10.255.255.255",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.7",
            "203.0.113.5",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:169.254.169.254",
            "::127.0.0.1",
            "64:ff9b::10.0.0.1",
            "64:ff9b::127.0.0.1",
            "64:ff9b:1::1",
            "2002:7f00:1::1",
            "2002:a00:1::",
            "2002:c0a8:101::",
            "2001:0:1:2:3:4:80ff:fffe",
            "100::1",
            "2001:2::1",
            "2001:10::1",
            "2001:2f::1",
            "2001:db8::1",
            "3fff::1",
            "fc00::1",
            "fdff:ffff::1",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "ff02::1",
            "::2",
        ];
        for text in private {
            assert!(is_private(text.parse().unwrap()), "{text}");
        }
        let public = [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.1",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.0",
            "192.0.3.0",
            "192.88.98.1",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "198.51.101.0",
            "203.0.114.0",
            "223.255.255.255",
            "::ffff:8.8.8.8",
            "64:ff9b::8.8.8.8",
            "2002:808:808::1",
            "2001:4860:4860::8888",
            "2a00:1450::1b",
            "2001:0:1:2:3:4:f7f7:f7f7",
            "2001:db9::1",
            "2600::",
        ];
        for text in public {
            assert!(!is_private(text.parse().unwrap()), "{text}");
        }
    }
}
