//! How long a connection may take, with a server that listens and never says anything; and which ones are
//! kept.

use http::{HeaderMap, Method};
use std::{
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};
use xylem_outbound::{AddressPolicy, Connecting, Outbound, Request, SendError};

fn outbound() -> Outbound {
    let development = AddressPolicy {
        development: true,
        private: Vec::new(),
    };
    Outbound::new(development).expect("a client")
}

fn within(seconds: u64) -> Connecting {
    Connecting {
        timeout: Duration::from_secs(seconds),
        ..Connecting::default()
    }
}

fn get(url: &str) -> Request {
    Request {
        method: Method::GET,
        url: url.parse().expect("a URL"),
        headers: HeaderMap::new(),
        body: None,
    }
}

/// Told apart by what is said, not by when: 5 s is what nothing else is said of.
#[tokio::test]
async fn a_connection_takes_as_long_as_it_may_and_no_longer() {
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
    let address = silent.as_ref().expect("a port").local_addr();
    let url = format!("https://{}", address.expect("an address"));
    let outbound = outbound();
    let send = async |connecting: u64, whole: u64| {
        let client = outbound.connecting(&within(connecting)).await;
        let (client, whole) = (client.expect("a client"), Duration::from_secs(whole));
        let sent = client.send(get(&url), whole, 1024).await;
        sent.expect_err("silent")
    };
    let (short, long) = tokio::join!(send(1, 4), send(30, 6));
    assert!(matches!(short, SendError::NotSent(_)), "{short:?}");
    assert!(matches!(long, SendError::NoAnswer(_)), "{long:?}");
}

async fn answer(stream: TcpStream) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    while stream.read_line(&mut line).await? > 0 {
        if line == "\r\n" {
            stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                .await?;
        }
        line.clear();
    }
    Ok(())
}

/// The address of a server, and how many connections there were to it.
async fn server() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
    let listener = listener.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(answer(stream));
        }
    });
    (url, connections)
}

/// Beside 256 others a connection is kept for as long as it is used, and one that was not used for longest
/// goes.
#[tokio::test]
async fn the_connections_that_were_used_last_are_kept() {
    let (url, connections) = server().await;
    let outbound = outbound();
    let connected = async |seconds: u64| {
        let client = outbound.connecting(&within(seconds)).await;
        let client = client.expect("a client");
        let sent = client.send(get(&url), Duration::from_secs(30), 1024).await;
        sent.expect("an answer");
        connections.load(Ordering::SeqCst)
    };
    let (used, unused) = (100, 101);
    assert_eq!((connected(used).await, connected(unused).await), (1, 2));
    for other in 1..=255 {
        let client = outbound.connecting(&within(200 + other)).await;
        client.expect("a client");
        assert_eq!(connected(used).await, 2);
    }
    assert_eq!(connected(unused).await, 3);
}
