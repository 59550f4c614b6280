//! How long a connection may take, with a server that listens and never says anything.

use http::{HeaderMap, Method};
use std::{net::Ipv4Addr, time::Duration};
use tokio::net::TcpListener;
use xylem_outbound::{AddressPolicy, Connecting, Outbound, Request, SendError};

/// Told apart by what is said, not by when: 5 s is what nothing else is said of.
#[tokio::test]
async fn a_connection_takes_as_long_as_it_may_and_no_longer() {
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
    let address = silent.as_ref().expect("a port").local_addr();
    let url = format!("https://{}", address.expect("an address"));
    let development = AddressPolicy {
        development: true,
        private: Vec::new(),
    };
    let outbound = Outbound::new(development).expect("a client");
    let send = async |connecting: u64, whole: u64| {
        let how = Connecting {
            timeout: Duration::from_secs(connecting),
            ..Connecting::default()
        };
        let request = Request {
            method: Method::GET,
            url: url.parse().expect("a URL"),
            headers: HeaderMap::new(),
            body: None,
        };
        let client = outbound.connecting(&how).await.expect("a client");
        let whole = Duration::from_secs(whole);
        client.send(request, whole, 1024).await.expect_err("silent")
    };
    let (short, long) = tokio::join!(send(1, 4), send(30, 6));
    assert!(matches!(short, SendError::NotSent(_)), "{short:?}");
    assert!(matches!(long, SendError::NoAnswer(_)), "{long:?}");
}
