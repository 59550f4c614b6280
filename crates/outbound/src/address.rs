//! Which addresses a request, and the secret in it, may be sent to.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use url::{Host, Url};

/// Which addresses beside public ones are allowed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AddressPolicy {
    /// Allows loopback addresses, and `http` to them.
    pub development: bool,
    /// Ranges that an administrator allows. Cloud metadata addresses stay refused within them.
    pub private: Vec<IpNet>,
}

/// Why an address was refused. Stable words; the address itself is not repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressRefused {
    /// Cloud metadata, which hands out credentials.
    #[error("the host is a cloud metadata address")]
    Metadata,
    /// Loopback, outside development.
    #[error("the host is a loopback address, which is allowed in development only")]
    Loopback,
    /// Private, shared, multicast, reserved, or another address in disguise.
    #[error(
        "the host is not a public address; an administrator can allow its range with \
         `--private-network`"
    )]
    NotPublic,
    /// `http` to something else than loopback in development.
    #[error("the URL is not https")]
    NotEncrypted,
    /// A name without an address.
    #[error("the host has no address")]
    NoAddress,
    /// Not a host at all.
    #[error("the URL has no host")]
    NoHost,
}

const fn v4(a: u8, b: u8, c: u8, d: u8, bits: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), bits)
}

const fn v6(a: u16, b: u16, c: u16, bits: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0), bits)
}

/// Where clouds hand out credentials. Providers use several link-local addresses, and nothing that
/// a token is for is at one: all of them are refused.
const METADATA_V4: [Ipv4Net; 4] = [
    v4(169, 254, 0, 0, 16), // AWS, Google Cloud, Azure, OpenStack, Scaleway, Tencent and others
    v4(100, 100, 100, 200, 32), // Alibaba Cloud
    v4(168, 63, 129, 16, 32), // Azure platform
    v4(192, 0, 0, 192, 32), // Oracle Cloud
];

/// The same for IPv6.
const METADATA_V6: [Ipv6Net; 3] = [
    v6(0xfe80, 0, 0, 10),     // OpenStack
    v6(0xfd00, 0xec2, 0, 48), // AWS
    v6(0xfd20, 0xce, 0, 48),  // Google Cloud
];

/// IPv4 ranges that are not globally reachable (IANA special-purpose registry), and multicast.
const NOT_PUBLIC_V4: [Ipv4Net; 14] = [
    v4(0, 0, 0, 0, 8),
    v4(10, 0, 0, 0, 8),
    v4(100, 64, 0, 0, 10),
    v4(169, 254, 0, 0, 16),
    v4(172, 16, 0, 0, 12),
    v4(192, 0, 0, 0, 24),
    v4(192, 0, 2, 0, 24),
    v4(192, 88, 99, 0, 24),
    v4(192, 168, 0, 0, 16),
    v4(198, 18, 0, 0, 15),
    v4(198, 51, 100, 0, 24),
    v4(203, 0, 113, 0, 24),
    v4(224, 0, 0, 0, 4),
    v4(240, 0, 0, 0, 4),
];

/// What is public in IPv6 at all: global unicast.
const GLOBAL_V6: Ipv6Net = v6(0x2000, 0, 0, 3);

/// Exceptions within global unicast: protocol assignments with Teredo and ORCHID, 6to4,
/// documentation.
const NOT_PUBLIC_V6: [Ipv6Net; 4] = [
    v6(0x2001, 0, 0, 23),
    v6(0x2001, 0xdb8, 0, 32),
    v6(0x2002, 0, 0, 16),
    v6(0x3fff, 0, 0, 20),
];

impl AddressPolicy {
    /// Whether a connection to the address is allowed.
    ///
    /// IPv4 addresses in IPv6 dress (mapped, compatible, NAT64, 6to4, Teredo) are never public:
    /// there is no telling where they end. Configured ranges can allow them, as long as no
    /// metadata or loopback address is inside.
    ///
    /// # Errors
    /// Why it is not.
    pub fn check(&self, address: IpAddr) -> Result<(), AddressRefused> {
        let inner = inner_v4(address);
        let faces = [Some(address), inner.map(IpAddr::V4)];
        for face in faces.into_iter().flatten() {
            if is_metadata(face) {
                return Err(AddressRefused::Metadata);
            }
            if face.is_loopback() && !self.development {
                return Err(AddressRefused::Loopback);
            }
        }
        let allowed = |net: &IpNet| net.contains(&address);
        if address.is_loopback() || self.private.iter().any(allowed) || is_public(address) {
            Ok(())
        } else {
            Err(AddressRefused::NotPublic)
        }
    }

    /// Checks everything about a URL that can be known without resolving a name.
    ///
    /// # Errors
    /// The scheme, or a host that is an address, is not allowed.
    pub fn check_url(&self, url: &Url) -> Result<(), AddressRefused> {
        let host = url.host().ok_or(AddressRefused::NoHost)?;
        let literal = match host {
            Host::Ipv4(address) => Some(IpAddr::V4(address)),
            Host::Ipv6(address) => Some(IpAddr::V6(address)),
            Host::Domain(_) => None,
        };
        if let Some(address) = literal {
            self.check(address)?;
        }
        let loopback = match host {
            Host::Domain(name) => name == "localhost",
            _ => literal.is_some_and(|address| address.is_loopback()),
        };
        match url.scheme() {
            "https" => Ok(()),
            "http" if loopback && self.development => Ok(()),
            _ => Err(AddressRefused::NotEncrypted),
        }
    }

    /// Checks the addresses a name stands for: all of them, since any may be used. `localhost`
    /// may stand for loopback only.
    ///
    /// # Errors
    /// There is none, or one of them is not allowed.
    pub fn check_answer(&self, name: &str, answer: &[IpAddr]) -> Result<(), AddressRefused> {
        if answer.is_empty() {
            return Err(AddressRefused::NoAddress);
        }
        if name == "localhost" && !answer.iter().all(IpAddr::is_loopback) {
            return Err(AddressRefused::NotPublic);
        }
        answer.iter().try_for_each(|address| self.check(*address))
    }
}

fn is_metadata(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => METADATA_V4.iter().any(|net| net.contains(&address)),
        IpAddr::V6(address) => METADATA_V6.iter().any(|net| net.contains(&address)),
    }
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            !NOT_PUBLIC_V4.iter().any(|net| net.contains(&address)) && !address.is_loopback()
        }
        IpAddr::V6(address) => {
            GLOBAL_V6.contains(&address) && !NOT_PUBLIC_V6.iter().any(|net| net.contains(&address))
        }
    }
}

/// The IPv4 address inside an IPv6 address of a transition mechanism.
fn inner_v4(address: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(address) = address else {
        return None;
    };
    let octets = address.octets();
    let at = |from: usize| {
        let four: [u8; 4] = octets.get(from..from + 4)?.try_into().ok()?;
        Some(Ipv4Addr::from(four))
    };
    match address.segments() {
        // Mapped (::ffff:0:0/96), translated (::ffff:0:0:0/96), compatible (::/96).
        [0, 0, 0, 0, 0, 0 | 0xffff, _, _] | [0, 0, 0, 0, 0xffff, 0, _, _] => at(12),
        // NAT64: well known (RFC 6052) and local (RFC 8215).
        [0x64, 0xff9b, ..] => at(12),
        // 6to4 (RFC 3056).
        [0x2002, ..] => at(2),
        // Teredo (RFC 4380): the client's address, inverted.
        [0x2001, 0, ..] => at(12).map(|inner| Ipv4Addr::from(!u32::from(inner))),
        // ISATAP (RFC 5214).
        [_, _, _, _, 0 | 0x200, 0x5efe, _, _] => at(12),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(policy: &AddressPolicy, address: &str) -> Result<(), AddressRefused> {
        policy.check(address.parse().expect(address))
    }

    fn check_url(policy: &AddressPolicy, url: &str) -> Result<(), AddressRefused> {
        policy.check_url(&Url::parse(url).expect(url))
    }

    #[test]
    fn public_addresses_are_allowed() {
        let policy = AddressPolicy::default();
        for address in [
            "1.1.1.1",
            "93.184.216.34",
            "172.15.0.1",
            "172.32.0.1",
            "100.63.0.1",
            "2606:4700::1111",
            "2a00:1450::1",
        ] {
            assert_eq!(check(&policy, address), Ok(()), "{address}");
        }
    }

    #[test]
    fn everything_else_is_refused() {
        let policy = AddressPolicy::default();
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.0.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.2.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "fc00::1",
            "fd12:3456::1",
            "ff02::1",
            "100::1",
            "2001:db8::1",
            "3fff::1",
            "5f00::1",
            "4000::1",
        ] {
            assert!(check(&policy, address).is_err(), "{address}");
        }
    }

    #[test]
    fn addresses_in_disguise_are_refused() {
        let policy = AddressPolicy::default();
        for address in [
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:1.1.1.1",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b::101:101",
            "64:ff9b:1::a00:1",
            "2002:7f00:1::",
            "2002:a00:1::1",
            "2001::1",
            "2001:0:4136:e378:8000:63bf:3fff:fdd2",
            "::ffff:0:127.0.0.1",
        ] {
            assert!(check(&policy, address).is_err(), "{address}");
        }
        // Disguised metadata and loopback stay refused where the range is allowed.
        let policy = AddressPolicy {
            development: false,
            private: vec!["::/0".parse().expect("a range")],
        };
        for (address, why) in [
            ("::ffff:169.254.169.254", AddressRefused::Metadata),
            ("64:ff9b::a9fe:a9fe", AddressRefused::Metadata),
            ("2002:a9fe:a9fe::", AddressRefused::Metadata),
            ("::ffff:127.0.0.1", AddressRefused::Loopback),
            ("2001:0:0:0:0:0:5601:5601", AddressRefused::Metadata),
            ("2606:4700::5efe:a9fe:a9fe", AddressRefused::Metadata),
        ] {
            assert_eq!(check(&policy, address), Err(why), "{address}");
        }
    }

    #[test]
    fn metadata_is_never_allowed() {
        let policy = AddressPolicy {
            development: true,
            private: vec![
                "0.0.0.0/0".parse().expect("v4"),
                "::/0".parse().expect("v6"),
            ],
        };
        for address in [
            "169.254.169.254",
            "169.254.170.2",
            "169.254.170.23",
            "169.254.42.42",
            "169.254.0.23",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
            "fe80::a9fe:a9fe",
            "fd00:ec2::254",
            "fd00:ec2::23",
            "fd20:ce::254",
        ] {
            let refused = Err(AddressRefused::Metadata);
            assert_eq!(check(&policy, address), refused, "{address}");
        }
        assert_eq!(check(&policy, "10.0.0.1"), Ok(()));
        assert_eq!(check(&policy, "127.0.0.1"), Ok(()));
    }

    #[test]
    fn a_configured_range_is_allowed_and_its_neighbour_is_not() {
        let policy = AddressPolicy {
            development: false,
            private: vec!["10.1.0.0/16".parse().expect("a range")],
        };
        assert_eq!(check(&policy, "10.1.2.3"), Ok(()));
        assert_eq!(check(&policy, "10.2.0.1"), Err(AddressRefused::NotPublic));
        assert_eq!(check(&policy, "127.0.0.1"), Err(AddressRefused::Loopback));
    }

    #[test]
    fn only_https_except_to_loopback_in_development() {
        let strict = AddressPolicy::default();
        let development = AddressPolicy {
            development: true,
            private: Vec::new(),
        };
        assert_eq!(check_url(&strict, "https://api.example/x"), Ok(()));
        for url in ["http://api.example/", "http://1.1.1.1/"] {
            assert_eq!(
                check_url(&strict, url),
                Err(AddressRefused::NotEncrypted),
                "{url}"
            );
            assert_eq!(
                check_url(&development, url),
                Err(AddressRefused::NotEncrypted),
                "{url}"
            );
        }
        for url in [
            "http://127.0.0.1:8080/",
            "http://localhost/",
            "http://[::1]/",
        ] {
            assert!(check_url(&strict, url).is_err(), "{url}");
            assert_eq!(check_url(&development, url), Ok(()), "{url}");
        }
        // A name that only looks like loopback is not.
        assert!(check_url(&development, "http://localhost.evil.example/").is_err());
        assert!(check_url(&development, "http://127.0.0.1.evil.example/").is_err());
    }

    #[test]
    fn numeric_hosts_are_addresses_however_written() {
        let policy = AddressPolicy::default();
        for host in [
            "2130706433",
            "0x7f000001",
            "0x7f.1",
            "0177.0.0.1",
            "127.1",
            "[::ffff:7f00:1]",
            "①②⑦.0.0.1",
        ] {
            let url = format!("https://{host}/");
            assert_eq!(
                check_url(&policy, &url),
                Err(AddressRefused::Loopback),
                "{url}"
            );
        }
        assert_eq!(
            check_url(&policy, "https://0xa9fea9fe/"),
            Err(AddressRefused::Metadata)
        );
    }

    #[test]
    fn every_address_of_an_answer_counts() {
        let policy = AddressPolicy::default();
        let answer =
            |texts: &[&str]| -> Vec<IpAddr> { texts.iter().map(|t| t.parse().expect(t)).collect() };
        assert_eq!(
            policy.check_answer("h", &answer(&["1.1.1.1", "2606:4700::1"])),
            Ok(())
        );
        assert!(
            policy
                .check_answer("h", &answer(&["1.1.1.1", "10.0.0.1"]))
                .is_err()
        );
        assert!(policy.check_answer("h", &[]).is_err());
        let development = AddressPolicy {
            development: true,
            private: Vec::new(),
        };
        assert!(
            development
                .check_answer("localhost", &answer(&["1.1.1.1"]))
                .is_err()
        );
        assert_eq!(
            development.check_answer("localhost", &answer(&["127.0.0.1"])),
            Ok(())
        );
    }
}
