//! Which addresses are public, by the special-purpose registries of IANA (RFC 6890 and what came after it). Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// First address of a range, the length of its prefix, and what it is.
type Range<A> = (A, u32, &'static str);

const V4: [Range<Ipv4Addr>; 16] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8, "this network"),
    (Ipv4Addr::new(10, 0, 0, 0), 8, "private"),
    (Ipv4Addr::new(100, 64, 0, 0), 10, "shared by a carrier"),
    (Ipv4Addr::new(127, 0, 0, 0), 8, "loopback"),
    // With it 169.254.169.254, where clouds tell machines their secrets.
    (Ipv4Addr::new(169, 254, 0, 0), 16, "link-local"),
    (Ipv4Addr::new(172, 16, 0, 0), 12, "private"),
    (Ipv4Addr::new(192, 0, 0, 0), 24, "for protocols"),
    (Ipv4Addr::new(192, 0, 2, 0), 24, "for documentation"),
    (Ipv4Addr::new(192, 88, 99, 0), 24, "a relay of 6to4"),
    (Ipv4Addr::new(192, 168, 0, 0), 16, "private"),
    (Ipv4Addr::new(198, 18, 0, 0), 15, "for benchmarks"),
    (Ipv4Addr::new(198, 51, 100, 0), 24, "for documentation"),
    (Ipv4Addr::new(203, 0, 113, 0), 24, "for documentation"),
    (Ipv4Addr::new(224, 0, 0, 0), 4, "multicast"),
    (Ipv4Addr::new(255, 255, 255, 255), 32, "broadcast"),
    (Ipv4Addr::new(240, 0, 0, 0), 4, "reserved"),
];

/// The only part of IPv6 from which public addresses are given out.
const GLOBAL_UNICAST: Range<Ipv6Addr> = (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3, "");
/// What is not public although it lies there.
const V6: [Range<Ipv6Addr>; 4] = [
    // Teredo, ORCHID, benchmarks and more; Teredo holds an address of IPv4.
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23, "for protocols"),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32, "for documentation"),
    // Any address of IPv4 can stand in it, and a relay would go there.
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16, "6to4"),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20, "for documentation"),
];
/// Outside of it: only to say what it is.
const V6_NAMED: [Range<Ipv6Addr>; 9] = [
    (Ipv6Addr::UNSPECIFIED, 128, "unspecified"),
    (Ipv6Addr::LOCALHOST, 128, "loopback"),
    (Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96, "an address of IPv4 in IPv6"),
    (Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 0), 96, "an address of IPv4 in IPv6"),
    // With it fd00:ec2::254, where a cloud tells machines their secrets.
    (Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7, "unique-local"),
    (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10, "link-local"),
    (Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 0), 10, "site-local"),
    (Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8, "multicast"),
    (Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0), 64, "a black hole"),
];
/// Through it hosts without IPv4 reach those that have nothing else: what counts is the address of IPv4 at its end.
const NAT64: Range<Ipv6Addr> = (Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96, "");

/// What an address is that is not public; `None` if it is.
#[must_use]
pub fn not_public(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(v4) => within_v4(v4),
        IpAddr::V6(v6) if holds(&NAT64, v6) => within_v4(Ipv4Addr::from_bits(v6.to_bits() as u32)),
        IpAddr::V6(v6) => {
            let named = |ranges: &[Range<Ipv6Addr>]| ranges.iter().find(|r| holds(r, v6)).map(|r| r.2);
            if holds(&GLOBAL_UNICAST, v6) { named(&V6) } else { Some(named(&V6_NAMED).unwrap_or("reserved")) }
        }
    }
}

fn within_v4(address: Ipv4Addr) -> Option<&'static str> {
    let holds = |(first, length, _): &&Range<Ipv4Addr>| {
        (address.to_bits() ^ first.to_bits()).leading_zeros() >= *length
    };
    V4.iter().find(holds).map(|range| range.2)
}

fn holds((first, length, _): &Range<Ipv6Addr>, address: Ipv6Addr) -> bool {
    (address.to_bits() ^ first.to_bits()).leading_zeros() >= *length
}

#[cfg(test)]
mod tests {
    use super::*;

    fn what(address: &str) -> Option<&'static str> {
        not_public(address.parse().unwrap())
    }

    /// The first and the last address of each range are refused; the ones next to it are not, where they are public.
    #[test]
    fn no_range_is_public_and_its_neighbours_are() {
        let table: [(&str, &str, &str, &[&str]); 33] = [
            ("this network", "0.0.0.0", "0.255.255.255", &["1.0.0.0"]),
            ("private", "10.0.0.0", "10.255.255.255", &["9.255.255.255", "11.0.0.0"]),
            ("shared by a carrier", "100.64.0.0", "100.127.255.255", &["100.63.255.255", "100.128.0.0"]),
            ("loopback", "127.0.0.0", "127.255.255.255", &["126.255.255.255", "128.0.0.0"]),
            ("link-local", "169.254.0.0", "169.254.255.255", &["169.253.255.255", "169.255.0.0"]),
            ("private", "172.16.0.0", "172.31.255.255", &["172.15.255.255", "172.32.0.0"]),
            ("for protocols", "192.0.0.0", "192.0.0.255", &["191.255.255.255", "192.0.1.0"]),
            ("for documentation", "192.0.2.0", "192.0.2.255", &["192.0.1.255", "192.0.3.0"]),
            ("a relay of 6to4", "192.88.99.0", "192.88.99.255", &["192.88.98.255", "192.88.100.0"]),
            ("private", "192.168.0.0", "192.168.255.255", &["192.167.255.255", "192.169.0.0"]),
            ("for benchmarks", "198.18.0.0", "198.19.255.255", &["198.17.255.255", "198.20.0.0"]),
            ("for documentation", "198.51.100.0", "198.51.100.255", &["198.51.99.255", "198.51.101.0"]),
            ("for documentation", "203.0.113.0", "203.0.113.255", &["203.0.112.255", "203.0.114.0"]),
            ("multicast", "224.0.0.0", "239.255.255.255", &["223.255.255.255"]),
            ("reserved", "240.0.0.0", "255.255.255.254", &[]),
            ("broadcast", "255.255.255.255", "255.255.255.255", &[]),
            ("unspecified", "::", "::", &[]),
            ("loopback", "::1", "::1", &[]),
            ("an address of IPv4 in IPv6", "::ffff:0:0", "::ffff:255.255.255.255", &[]),
            ("an address of IPv4 in IPv6", "::ffff:8.8.8.8", "::8.8.8.8", &[]),
            ("unique-local", "fc00::", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", &[]),
            ("link-local", "fe80::", "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff", &[]),
            ("site-local", "fec0::", "feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", &[]),
            ("multicast", "ff00::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", &[]),
            ("a black hole", "100::", "100::ffff:ffff:ffff:ffff", &[]),
            ("for protocols", "2001::", "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff", &["2001:200::"]),
            ("for documentation", "2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", &["2001:db7::"]),
            ("6to4", "2002::", "2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff", &["2003::"]),
            ("for documentation", "3fff::", "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff", &["3fff:1000::"]),
            // Address translation: what stands at the end counts.
            ("loopback", "64:ff9b::127.0.0.1", "64:ff9b::7fff:ffff", &["64:ff9b::8.8.8.8"]),
            ("link-local", "64:ff9b::a9fe:a9fe", "64:ff9b::169.254.169.254", &[]),
            ("reserved", "64:ff9b:1::", "64:ff9b:1:ffff:ffff:ffff:ffff:ffff", &[]),
            ("reserved", "4000::", "5fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", &["2a00::1", "2600::"]),
        ];
        for (kind, first, last, public) in table {
            assert_eq!((what(first), what(last)), (Some(kind), Some(kind)), "{first} to {last}");
            for address in public {
                assert_eq!(what(address), None, "{address}");
            }
        }
    }

    #[test]
    fn what_clouds_tell_machines_is_out_of_reach() {
        assert_eq!(what("169.254.169.254"), Some("link-local"));
        assert_eq!(what("fd00:ec2::254"), Some("unique-local"));
        assert_eq!(what("100.100.100.200"), Some("shared by a carrier"));
        assert_eq!(what("2002:a9fe:a9fe::"), Some("6to4"));
        assert_eq!(what("2001:0:a9fe:a9fe::"), Some("for protocols"));
        assert_eq!(what("192.0.0.192"), Some("for protocols"));
    }
}
