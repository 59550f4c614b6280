//! Networks, as far as they tell callers apart.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The network of an address, as text: its first 24 bits, or 48 of IPv6's. A provider moves its
/// customers within such a network.
pub(super) fn network(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            let bits = address.to_bits() & (u32::MAX << 8);
            format!("{}/24", Ipv4Addr::from_bits(bits))
        }
        IpAddr::V6(address) => {
            let bits = address.to_bits() & (u128::MAX << 80);
            format!("{}/48", Ipv6Addr::from_bits(bits))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::network;

    #[test]
    fn neighbours_share_a_network() {
        for (address, expected) in [
            ("192.0.2.7", "192.0.2.0/24"),
            ("192.0.2.250", "192.0.2.0/24"),
            ("::ffff:192.0.2.7", "192.0.2.0/24"),
            ("2001:db8:1:2::7", "2001:db8:1::/48"),
        ] {
            assert_eq!(network(address.parse().unwrap()), expected);
        }
    }
}
