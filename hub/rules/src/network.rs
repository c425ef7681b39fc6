//! Addresses, ranges and ports, as checks ask about them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Reads `10.0.0.0/8`, `::/0` or a lone address (as a range of one); host bits are dropped.
pub(crate) fn parse_range(text: &str) -> Option<IpNet> {
    // The two ranges that every rule for everyone has.
    match text {
        "0.0.0.0/0" => return Some(IpNet::V4(Ipv4Net::default())),
        "::/0" => return Some(IpNet::V6(Ipv6Net::default())),
        _ => {}
    }
    let text = text.trim();
    match text.parse::<IpNet>() {
        Ok(range) => Some(range.trunc()),
        Err(_) => text.parse::<IpAddr>().ok().map(IpNet::from),
    }
}

/// Says whether every address of `inner` lies in `outer`. Families never contain each other.
pub(crate) fn contains(outer: &IpNet, inner: &IpNet) -> bool {
    outer.contains(inner)
}

/// Ranges that no packet from the public internet can have as its source.
///
/// Source: IANA IPv4 Special-Purpose Address Registry (entries that are not globally reachable).
const SPECIAL_V4: [(Ipv4Addr, u8); 13] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),       // RFC 791, this network
    (Ipv4Addr::new(10, 0, 0, 0), 8),      // RFC 1918
    (Ipv4Addr::new(100, 64, 0, 0), 10),   // RFC 6598, shared address space
    (Ipv4Addr::new(127, 0, 0, 0), 8),     // RFC 1122, loopback
    (Ipv4Addr::new(169, 254, 0, 0), 16),  // RFC 3927, link local
    (Ipv4Addr::new(172, 16, 0, 0), 12),   // RFC 1918
    (Ipv4Addr::new(192, 0, 2, 0), 24),    // RFC 5737, documentation
    (Ipv4Addr::new(192, 168, 0, 0), 16),  // RFC 1918
    (Ipv4Addr::new(198, 18, 0, 0), 15),   // RFC 2544, benchmarking
    (Ipv4Addr::new(198, 51, 100, 0), 24), // RFC 5737
    (Ipv4Addr::new(203, 0, 113, 0), 24),  // RFC 5737
    (Ipv4Addr::new(224, 0, 0, 0), 4),     // RFC 5771, multicast
    (Ipv4Addr::new(240, 0, 0, 0), 4),     // RFC 1112, reserved
];

/// Source: IANA IPv6 Special-Purpose Address Registry, and RFC 4291 for multicast.
const SPECIAL_V6: [(Ipv6Addr, u8); 6] = [
    (Ipv6Addr::LOCALHOST, 128),
    (Ipv6Addr::UNSPECIFIED, 128),
    (Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7), // RFC 4193, unique local
    (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10), // RFC 4291, link local
    (Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8), // RFC 4291, multicast
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32), // RFC 3849, documentation
];

/// Says whether a range holds at least one address of the public internet.
///
/// A range counts as not public only if one special-purpose range contains it whole.
pub(crate) fn is_public(range: &IpNet) -> bool {
    match range {
        IpNet::V4(range) => !SPECIAL_V4
            .iter()
            .filter_map(|(at, bits)| Ipv4Net::new(*at, *bits).ok())
            .any(|special| special.contains(range)),
        IpNet::V6(range) => {
            // ::ffff:a.b.c.d speaks about the IPv4 address.
            if let Some(v4) = range.addr().to_ipv4_mapped()
                && range.prefix_len() >= 96
                && let Ok(net) = Ipv4Net::new(v4, range.prefix_len() - 96)
            {
                return is_public(&IpNet::V4(net));
            }
            !SPECIAL_V6
                .iter()
                .filter_map(|(at, bits)| Ipv6Net::new(*at, *bits).ok())
                .any(|special| special.contains(range))
        }
    }
}

/// Says whether a rule for ports `from..=to` lets `port` through.
///
/// `None` or -1 at either end stands for every port, as EC2 leaves both out for protocol `-1`.
/// Source: EC2 API reference, IpPermission, FromPort and ToPort.
pub(crate) fn port_in(from: Option<i64>, to: Option<i64>, port: i64) -> bool {
    match (from, to) {
        (Some(from), Some(to)) if from != -1 && to != -1 => from <= port && port <= to,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_public_unless_it_is_wholly_special() {
        let check = |text: &str, want: bool| {
            assert_eq!(is_public(&parse_range(text).unwrap()), want, "{text}");
        };
        check("0.0.0.0/0", true);
        check("::/0", true);
        check("10.0.0.0/8", false);
        check("10.0.0.0/7", true);
        check("172.16.3.0/24", false);
        check("172.32.0.0/16", true);
        check("192.168.1.1", false);
        check("8.8.8.8", true);
        check("fd00::/8", false);
        check("2a00::/16", true);
        check("::ffff:10.0.0.1", false);
        check("::ffff:8.8.8.8/128", true);
        check("100.64.0.0/10", false);
    }

    #[test]
    fn the_ranges_of_everyone_are_read_like_any_other() {
        for text in ["0.0.0.0/0", "::/0"] {
            assert_eq!(parse_range(text), text.parse().ok());
        }
    }

    #[test]
    fn a_missing_port_stands_for_all_ports() {
        assert!(port_in(None, None, 22));
        assert!(port_in(Some(-1), Some(-1), 22));
        assert!(port_in(Some(22), Some(22), 22));
        assert!(port_in(Some(0), Some(65_535), 22));
        assert!(!port_in(Some(23), Some(80), 22));
        assert!(!port_in(Some(0), Some(21), 22));
    }

    #[test]
    fn families_do_not_contain_each_other_and_host_bits_do_not_matter() {
        let range = |text: &str| parse_range(text).unwrap();
        assert!(contains(&range("0.0.0.0/0"), &range("1.2.3.4")));
        assert!(!contains(&range("0.0.0.0/0"), &range("::1")));
        assert_eq!(range("10.1.2.3/8"), range("10.0.0.0/8"));
        assert!(parse_range("pl-12345").is_none());
    }
}
