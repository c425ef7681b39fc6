//! Addresses and listening sockets, from the kernel's tables below `/proc/net`.
//!
//! Read as text rather than asked of netlink: the service may open no netlink socket.
//! Source: proc_pid_net(5) and the kernel's Documentation/networking/proc_net_tcp.rst.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::{Value, json};

/// State of a TCP socket that waits for connections, as the kernel numbers it.
const LISTEN: &str = "0A";

/// State of a UDP socket that is not connected to one peer.
const UNCONNECTED: &str = "07";

/// Flag of an IPv6 address that the kernel has found to be a duplicate, and does not use.
const DUPLICATE: u8 = 0x08;

/// Returns the IPv4 addresses in `trie` (`fib_trie`) with the interface that `route` gives the
/// network of each. Loopback addresses are left out.
pub(super) fn ipv4(trie: &str, route: &str) -> BTreeSet<(String, IpAddr)> {
    let networks: Vec<Network> = route.lines().skip(1).filter_map(network).collect();
    let mut found = BTreeSet::new();
    let mut last: Option<Ipv4Addr> = None;
    for line in trie.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            last = address.parse().ok();
        } else if line == "/32 host LOCAL"
            && let Some(address) = last
            && !address.is_loopback()
        {
            found.insert((interface_of(address, &networks), IpAddr::V4(address)));
        }
    }
    found
}

/// One row of `/proc/net/route`.
struct Network {
    interface: String,
    address: u32,
    mask: u32,
    is_direct: bool,
}

/// Returns the interface whose own network holds `address`.
///
/// An address without such a network (a /32, as some clouds give) is on the only interface there
/// is, or on one that this table does not tell.
fn interface_of(address: Ipv4Addr, networks: &[Network]) -> String {
    let address = u32::from(address);
    let own = networks
        .iter()
        .filter(|net| net.is_direct && net.mask != 0 && address & net.mask == net.address)
        .max_by_key(|net| net.mask);
    if let Some(net) = own {
        return net.interface.clone();
    }
    let names: BTreeSet<&str> = networks.iter().map(|net| net.interface.as_str()).collect();
    match (names.first(), names.len()) {
        (Some(only), 1) => (*only).to_owned(),
        _ => "unknown".to_owned(),
    }
}

/// Reads one row: interface, destination, gateway, flags, …, mask in the eighth column. Addresses
/// are printed as a number of the machine's own byte order.
fn network(row: &str) -> Option<Network> {
    let columns: Vec<&str> = row.split_whitespace().collect();
    let number = |at: usize| {
        let word = u32::from_str_radix(columns.get(at)?, 16).ok()?;
        Some(u32::from_be_bytes(word.to_ne_bytes()))
    };
    Some(Network {
        interface: (*columns.first()?).to_owned(),
        address: number(1)?,
        mask: number(7)?,
        is_direct: number(2)? == 0,
    })
}

/// Returns the addresses in `if_inet6`, without loopbacks.
pub(super) fn ipv6(table: &str) -> BTreeSet<(String, IpAddr)> {
    let row = |line: &str| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let address = u128::from_str_radix(columns.first()?, 16).ok()?;
        let address = Ipv6Addr::from(address);
        let flags = u8::from_str_radix(columns.get(4)?, 16).ok()?;
        let interface = (*columns.get(5)?).to_owned();
        let is_used = !address.is_loopback() && flags & DUPLICATE == 0;
        is_used.then_some((interface, IpAddr::V6(address)))
    };
    table.lines().filter_map(row).collect()
}

/// Returns addresses in the form of the declaration.
pub(super) fn addresses(found: &BTreeSet<(String, IpAddr)>) -> Value {
    found
        .iter()
        .map(|(interface, address)| json!({"interface": interface, "address": address.to_string()}))
        .collect()
}

/// Returns protocol, address and port of the sockets of one table (`tcp`, `tcp6`, `udp`, `udp6`)
/// that wait, or `None` when a row cannot be read.
fn sockets(protocol: &'static str, table: &str) -> Option<Vec<(&'static str, IpAddr, u16)>> {
    let waits = if protocol == "tcp" {
        LISTEN
    } else {
        UNCONNECTED
    };
    let mut found = Vec::new();
    for row in table.lines().skip(1) {
        let columns: Vec<&str> = row.split_whitespace().collect();
        let [_, local, _, state, ..] = columns.as_slice() else {
            return None;
        };
        if *state != waits {
            continue;
        }
        let (address, port) = local.split_once(':')?;
        let port = u16::from_str_radix(port, 16).ok()?;
        found.push((protocol, ip(address)?, port));
    }
    Some(found)
}

/// Reads 8 or 32 hexadecimal digits: words of the machine's own byte order.
fn ip(digits: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        let word = u32::from_str_radix(digits.get(at..at + 8)?, 16).ok()?;
        Some(word.to_ne_bytes())
    };
    match digits.len() {
        8 => Some(IpAddr::from(word(0)?)),
        32 => {
            let bytes = [word(0)?, word(8)?, word(16)?, word(24)?].concat();
            let bytes: [u8; 16] = bytes.try_into().ok()?;
            Some(IpAddr::from(bytes))
        }
        _ => None,
    }
}

/// Returns the sockets of all tables in the form of the declaration, each once.
///
/// A table is its protocol and its text. `None` when a row cannot be read: the list would not be
/// whole.
pub(super) fn listening(tables: &[(&'static str, String)]) -> Option<Value> {
    let mut all = BTreeSet::new();
    for (protocol, table) in tables {
        all.extend(sockets(protocol, table)?);
    }
    let rows = all.iter().map(|(protocol, address, port)| {
        json!({"protocol": protocol, "address": address.to_string(), "port": port})
    });
    Some(rows.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Prints an address as the kernel of this machine would.
    fn hex(address: [u8; 4]) -> String {
        format!("{:08X}", u32::from_ne_bytes(address))
    }

    /// Interface, destination, gateway and mask.
    type Row<'a> = (&'a str, [u8; 4], [u8; 4], [u8; 4]);

    fn route(rows: &[Row<'_>]) -> String {
        let mut text =
            "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\n".to_owned();
        for (interface, destination, gateway, mask) in rows {
            let (to, via, mask) = (hex(*destination), hex(*gateway), hex(*mask));
            text += &format!("{interface}\t{to}\t{via}\t0001\t0\t0\t0\t{mask}\t0\n");
        }
        text
    }

    fn trie(addresses: &[&str]) -> String {
        let mut text =
            "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 10.0.0.0\n        /24 link UNICAST\n"
                .to_owned();
        for address in addresses {
            text += &format!("           |-- {address}\n              /32 host LOCAL\n");
        }
        text + "     |-- 10.0.0.255\n        /32 link BROADCAST\n"
    }

    fn named(found: &BTreeSet<(String, IpAddr)>) -> Vec<String> {
        let named = found.iter().map(|(on, address)| format!("{on} {address}"));
        named.collect()
    }

    #[test]
    fn each_address_is_on_the_interface_of_its_network() {
        let zero = [0; 4];
        let two = route(&[
            ("eth0", zero, [10, 0, 0, 1], zero),
            ("eth0", [10, 0, 0, 0], zero, [255, 255, 255, 0]),
            ("eth1", [10, 0, 0, 128], zero, [255, 255, 255, 128]),
        ]);
        let found = ipv4(&trie(&["127.0.0.1", "10.0.0.5", "10.0.0.200"]), &two);
        assert_eq!(named(&found), ["eth0 10.0.0.5", "eth1 10.0.0.200"]);
        // A /32 has no network of its own: on the only interface, or nobody knows.
        let elsewhere = trie(&["192.0.2.9"]);
        assert_eq!(named(&ipv4(&elsewhere, &two)), ["unknown 192.0.2.9"]);
        let one = route(&[("ens4", zero, [10, 0, 0, 1], zero)]);
        assert_eq!(named(&ipv4(&elsewhere, &one)), ["ens4 192.0.2.9"]);
    }

    #[test]
    fn ipv6_addresses_are_read_without_loopbacks() {
        let table = "00000000000000000000000000000001 01 80 10 80       lo\n\
                     20010db8000000000000000000000002 04 40 00 82     eth0\n\
                     20010db8000000000000000000000003 04 40 00 88     eth0\n\
                     fe80000000000000000000fffe000001 04 40 20 80     eth0\n";
        let found = named(&ipv6(table));
        assert_eq!(found, ["eth0 2001:db8::2", "eth0 fe80::ff:fe00:1"]);
    }

    #[test]
    fn only_sockets_that_wait_are_listed_with_their_addresses() {
        let row = |at: &str, state: &str| format!("   0: {at} 00000000:0000 {state} 0:0 00:0 0\n");
        let (all, here) = (hex([0; 4]), hex([127, 0, 0, 1]));
        let tcp = format!(
            "  sl  local_address\n{}{}{}",
            row(&format!("{here}:1F90"), "0A"),
            row(&format!("{here}:1F91"), "01"),
            row(&format!("{here}:1F90"), "0A"),
        );
        let six = [
            hex([0x20, 1, 0x0d, 0xb8]),
            hex([0; 4]),
            hex([0; 4]),
            hex([0, 0, 0, 2]),
        ];
        let tcp6 = format!("head\n{}", row(&format!("{}:0016", six.concat()), "0A"));
        let udp = format!("head\n{}", row(&format!("{all}:0035"), "07"));
        let tables = [("tcp", tcp), ("tcp", tcp6), ("udp", udp)];
        let want = json!([
            {"protocol": "tcp", "address": "127.0.0.1", "port": 8080},
            {"protocol": "tcp", "address": "2001:db8::2", "port": 22},
            {"protocol": "udp", "address": "0.0.0.0", "port": 53},
        ]);
        assert_eq!(listening(&tables), Some(want));
        let broken = [("tcp", "head\n   0: nonsense 0 0A\n".to_owned())];
        assert_eq!(listening(&broken), None);
    }
}
