//! What one caller may take up.

use std::time::Duration;

/// How much of the server one caller can take up, before and after it has said who it is. The sizes
/// of what is read are not among it: they follow from what the contract can say.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at the same time. Further ones wait until one of these ends.
    pub connections: usize,
    /// How many of them may come from one address; from one /64 network with IPv6. Trusted proxies have
    /// as many as there are.
    pub connections_per_address: usize,
    /// Requests a second that are taken from one address, or one /64 network with IPv6, and five seconds'
    /// worth of them at once; 0 is no limit.
    pub requests_per_address: u32,
    /// The same for one agent, over all its credentials.
    pub requests_per_agent: u32,
    /// How long a connection may take until its first request is there, the TLS handshake included.
    pub first_request: Duration,
    /// How long a connection may be open without a request. Streams count as requests.
    pub idle: Duration,
    /// How long the body of a request may take, and an ending connection.
    pub body: Duration,
    /// How long a peer may take nothing of what is sent to it.
    pub stalled: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            connections_per_address: 1024,
            requests_per_address: 2000,
            requests_per_agent: 1000,
            first_request: Duration::from_secs(10),
            idle: Duration::from_secs(75),
            body: Duration::from_secs(30),
            stalled: Duration::from_secs(30),
        }
    }
}
