//! Where a request comes from when proxies stand in between.
//!
//! A peer that is no proxy of ours can write what it likes into these headers: they are not looked at.
//! What a trusted proxy says of its own peer is believed, and so on from the right to the left, up to the
//! first hop that is not trusted. Everything left of that was written by somebody unknown.

use axum::http::{HeaderMap, HeaderName, HeaderValue, header::FORWARDED};
use ipnet::IpNet;
use std::net::{IpAddr, Ipv6Addr, SocketAddrV4};

/// The header that nearly all proxies write.
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The proxies that are believed about where a request comes from.
#[derive(Debug, Clone, Default)]
pub struct Proxies {
    /// Where they are; none is believed where this is empty.
    pub trusted: Vec<IpNet>,
    /// Where they write it. The other header is not looked at: a proxy that writes one lets whatever a
    /// client put into the other pass.
    pub header: ProxyHeader,
}

/// The header in which proxies say where a request comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ProxyHeader {
    /// `X-Forwarded-For`, which nearly all proxies write.
    #[default]
    XForwardedFor,
    /// `Forwarded` (RFC 7239).
    Forwarded,
}

impl ProxyHeader {
    pub(super) fn name(self) -> HeaderName {
        match self {
            Self::XForwardedFor => X_FORWARDED_FOR,
            Self::Forwarded => FORWARDED,
        }
    }
}

/// A trusted proxy said something that is no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unreadable;

impl Proxies {
    /// Whether what comes from there is believed.
    pub(super) fn trusts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.trusted.iter().any(|proxy| proxy.contains(&address))
    }

    /// Who made a request: the right-most hop that is no trusted proxy, or the left-most one where all are.
    pub(super) fn client(&self, peer: IpAddr, headers: &HeaderMap) -> Result<IpAddr, Unreadable> {
        let mut client = peer.to_canonical();
        if !self.trusts(client) {
            return Ok(client);
        }
        let mut lines: Vec<_> = headers.get_all(self.header.name()).into_iter().collect();
        while let Some(line) = lines.pop() {
            for hop in self.hops(line)?.into_iter().rev() {
                client = hop.and_then(address).ok_or(Unreadable)?.to_canonical();
                if !self.trusts(client) {
                    return Ok(client);
                }
            }
        }
        Ok(client)
    }

    /// The hops of one line, from the left; one that is not named is none.
    fn hops<'a>(&self, line: &'a HeaderValue) -> Result<Vec<Option<&'a str>>, Unreadable> {
        let line = line.to_str().map_err(|_| Unreadable)?;
        let elements = unquoted(line, ',').into_iter().map(str::trim);
        let elements = elements.filter(|element| !element.is_empty());
        Ok(match self.header {
            ProxyHeader::XForwardedFor => elements.map(Some).collect(),
            ProxyHeader::Forwarded => elements.map(named).collect(),
        })
    }
}

/// The parts of a text between separators that are not in quotes.
fn unquoted(text: &str, separator: char) -> Vec<&str> {
    let mut quoted = false;
    text.split(|c| {
        quoted ^= c == '"';
        c == separator && !quoted
    })
    .collect()
}

/// The value of `for` in one element of `Forwarded`.
fn named(element: &str) -> Option<&str> {
    unquoted(element, ';').into_iter().find_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        let value = value.trim();
        let inner = value.strip_prefix('"').and_then(|v| v.strip_suffix('"'));
        name.trim()
            .eq_ignore_ascii_case("for")
            .then_some(inner.unwrap_or(value))
    })
}

/// An address, with or without a port; one of IPv6 may stand in brackets.
fn address(hop: &str) -> Option<IpAddr> {
    if let Some(rest) = hop.strip_prefix('[') {
        let (address, port) = rest.split_once(']')?;
        let port = port
            .strip_prefix(':')
            .map_or(port, |port| match port.parse::<u16>() {
                Ok(_) => "",
                Err(_) => port,
            });
        return port
            .is_empty()
            .then(|| address.parse::<Ipv6Addr>().ok())?
            .map(IpAddr::V6);
    }
    let with_port = || hop.parse::<SocketAddrV4>().ok().map(|at| (*at.ip()).into());
    hop.parse().ok().or_else(with_port)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: &str = "10.0.0.1";

    fn client(header: ProxyHeader, peer: &str, lines: &[&str]) -> Result<String, Unreadable> {
        let trusted = ["10.0.0.0/8", "fd00::/8"];
        let proxies = Proxies {
            trusted: trusted.iter().map(|net| net.parse().unwrap()).collect(),
            header,
        };
        let mut headers = HeaderMap::new();
        for line in lines {
            // Whatever header is configured, the other one is full of lies.
            for (name, other) in [
                (X_FORWARDED_FOR, ProxyHeader::Forwarded),
                (FORWARDED, ProxyHeader::XForwardedFor),
            ] {
                let value = if header == other {
                    "for=198.51.100.99"
                } else {
                    line
                };
                headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
            }
        }
        let client = proxies.client(peer.parse().unwrap(), &headers);
        client.map(|address| address.to_string())
    }

    #[test]
    fn the_right_most_hop_that_is_not_trusted_made_the_request() {
        for (peer, lines, expected) in [
            // Whoever is no proxy is the client, whatever it says.
            ("192.0.2.1", &["203.0.113.7"][..], "192.0.2.1"),
            ("::ffff:192.0.2.1", &["203.0.113.7"], "192.0.2.1"),
            (PEER, &["203.0.113.7"], "203.0.113.7"),
            ("::ffff:10.0.0.1", &["203.0.113.7"], "203.0.113.7"),
            (PEER, &["203.0.113.7:4711"], "203.0.113.7"),
            (PEER, &["2001:db8::7"], "2001:db8::7"),
            (PEER, &["[2001:db8::7]:4711"], "2001:db8::7"),
            (PEER, &["::ffff:203.0.113.7"], "203.0.113.7"),
            // What stands left of it was written by the client.
            (PEER, &["10.0.0.9, 203.0.113.7"], "203.0.113.7"),
            (PEER, &["lies, 203.0.113.7"], "203.0.113.7"),
            (PEER, &["10.0.0.9", "203.0.113.7"], "203.0.113.7"),
            (
                PEER,
                &["198.51.100.1, 203.0.113.7, 10.2.0.1,fd00::1"],
                "203.0.113.7",
            ),
            (PEER, &["203.0.113.7, ", "", "10.2.0.1"], "203.0.113.7"),
            // Nobody from outside, or nobody but the proxy.
            (PEER, &["10.3.0.1, 10.2.0.1"], "10.3.0.1"),
            (PEER, &[], PEER),
        ] {
            let seen = client(ProxyHeader::XForwardedFor, peer, lines);
            assert_eq!(seen.as_deref(), Ok(expected), "{peer} {lines:?}");
        }
    }

    #[test]
    fn forwarded_is_read_as_its_standard_has_it() {
        for (lines, expected) in [
            (&["for=203.0.113.7"][..], "203.0.113.7"),
            (
                &["For=\"203.0.113.7:4711\";proto=https;by=10.0.0.1"],
                "203.0.113.7",
            ),
            (&["proto=https; for=\"[2001:db8::7]:4711\""], "2001:db8::7"),
            (
                &["for=lies;by=\"a,b;for=c\", for=203.0.113.7, for=10.2.0.1"],
                "203.0.113.7",
            ),
            (&["for=10.0.0.9", "for=203.0.113.7"], "203.0.113.7"),
        ] {
            let seen = client(ProxyHeader::Forwarded, PEER, lines);
            assert_eq!(seen.as_deref(), Ok(expected), "{lines:?}");
        }
    }

    #[test]
    fn what_a_proxy_says_and_is_no_address_is_refused() {
        for (header, line) in [
            (ProxyHeader::XForwardedFor, "unknown"),
            (ProxyHeader::XForwardedFor, "203.0.113.7, unix:"),
            (ProxyHeader::XForwardedFor, "203.0.113.7, _hidden, 10.2.0.1"),
            (ProxyHeader::XForwardedFor, "[2001:db8::7]:x"),
            (ProxyHeader::XForwardedFor, "[203.0.113.7]"),
            (ProxyHeader::XForwardedFor, "203.0.113.7:99999"),
            (ProxyHeader::XForwardedFor, "203.0.113.7 10.0.0.1"),
            (ProxyHeader::XForwardedFor, "b\u{fc}ro"),
            (ProxyHeader::Forwarded, "for=unknown"),
            (ProxyHeader::Forwarded, "by=10.0.0.1"),
            (ProxyHeader::Forwarded, "for=\"203.0.113.7"),
        ] {
            assert_eq!(client(header, PEER, &[line]), Err(Unreadable), "{line}");
        }
    }
}
