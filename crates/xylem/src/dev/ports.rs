//! Which ports to use.

use std::net::{Ipv4Addr, TcpListener};

/// What is wished for one port, in the order of preference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wish {
    /// Named by the user; 0 is any.
    pub(super) named: Option<u16>,
    /// That of the last start.
    pub(super) last: Option<u16>,
    /// The usual one.
    pub(super) usual: u16,
}

/// A port, and whether the user insists on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) port: u16,
    pub(super) fixed: bool,
}

impl Wish {
    /// A port that is free now. `any` passes over what is preferred: others have taken it.
    pub(super) fn choose(self, any: bool) -> Option<Choice> {
        match self.named {
            Some(0) => free(0),
            Some(port) => return Some(Choice { port, fixed: true }),
            None if any => free(0),
            None => self
                .last
                .and_then(free)
                .or_else(|| free(self.usual))
                .or_else(|| free(0)),
        }
        .map(|port| Choice { port, fixed: false })
    }
}

/// The port where nobody listens; any for 0.
fn free(port: u16) -> Option<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok()?;
    Some(listener.local_addr().ok()?.port())
}

/// The port at the end of an address or URL.
pub(super) fn of(address: &str) -> Option<u16> {
    address.rsplit(':').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_port_is_taken_again_where_it_is_free() {
        let last = free(0).expect("a port");
        let wish = Wish {
            named: None,
            last: Some(last),
            usual: 1,
        };
        assert_eq!(wish.choose(false).expect("chosen").port, last);

        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, last)).expect("still free");
        let choice = wish.choose(false).expect("chosen");
        assert_ne!(choice.port, last);
        assert!(!choice.fixed);
        drop(taken);
    }

    #[test]
    fn a_named_port_is_insisted_on() {
        let wish = Wish {
            named: Some(4_711),
            last: Some(1),
            usual: 2,
        };
        let insisted = Choice {
            port: 4_711,
            fixed: true,
        };
        assert_eq!(wish.choose(true), Some(insisted));
    }

    #[test]
    fn ports_are_read_from_addresses() {
        assert_eq!(of("127.0.0.1:7233"), Some(7_233));
        assert_eq!(of("http://127.0.0.1:8233"), Some(8_233));
        assert_eq!(of("nothing"), None);
    }
}
