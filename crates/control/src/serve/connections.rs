//! Connections: so many, for so long, and let go without cutting off what they wait for.

use super::{
    browser::Encrypted,
    limits::Limits,
    listener::{Listener, ServeError},
    patient::{Patient, Timely},
    proxies::Proxies,
    rates::network,
};
use crate::metrics::{Metrics, add};
use axum::{
    Router,
    body::{Body, Bytes},
    extract::{ConnectInfo, Request},
    response::Response,
};
use http_body::{Frame, SizeHint};
use hyper::{body::Incoming, rt::Read, rt::Write};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use std::{
    collections::HashMap,
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    net::TcpStream,
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

/// The largest head of a request, in bytes. Our own clients send less than a kibibyte.
const MAX_HEAD: u32 = 32 * 1024;
/// The most headers of a request.
const MAX_HEADERS: usize = 64;
/// Calls at the same time on one connection. A worker's tool calls share one.
const MAX_STREAMS: u32 = 256;
/// How often a silent HTTP/2 peer is asked whether it is still there.
const PING_EVERY: Duration = Duration::from_secs(20);
/// How long a connection that was silent for too long has to take its end.
const FAREWELL: Duration = Duration::from_secs(1);
/// How long it is waited when the system has no more connections to give.
const EXHAUSTED: Duration = Duration::from_millis(200);

/// What every connection of a listener has in common.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) router: Router,
    pub(super) limits: Limits,
    pub(super) proxies: Proxies,
    pub(super) metrics: Arc<Metrics>,
    pub(super) stop: CancellationToken,
}

/// Takes connections until it is stopped, then waits for the calls in flight. Dropping it cuts
/// them off.
pub(super) async fn serve(listener: Listener, shared: Shared) -> Result<(), ServeError> {
    let places = Arc::new(Semaphore::new(shared.limits.connections));
    let sources = Arc::new(Sources::default());
    let mut open = JoinSet::new();
    loop {
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.tcp.accept().await)
        };
        let (place, accepted) = tokio::select! {
            () = shared.stop.cancelled() => break,
            next = next => next,
        };
        while open.try_join_next().is_some() {}
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                declined(&error).await;
                continue;
            }
        };
        // The connections of a proxy are those of many: what comes over them is limited instead.
        let most = match shared.proxies.trusts(peer.ip()) {
            true => usize::MAX,
            false => shared.limits.connections_per_address,
        };
        let Some(source) = Sources::take(&sources, peer, most) else {
            add(&shared.metrics.connections_refused, 1);
            continue;
        };
        let tls = listener.tls.as_ref().map(|tls| tls.config());
        let shared = shared.clone();
        open.spawn(async move {
            add(&shared.metrics.connections, 1);
            connection(stream, peer, tls.map(TlsAcceptor::from), &shared).await;
            add(&shared.metrics.connections_ended, 1);
            drop((place, source));
        });
    }
    drop(listener);
    while open.join_next().await.is_some() {}
    Ok(())
}

/// An error of one connection concerns nobody else; one of the system passes.
async fn declined(error: &io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    if matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset
    ) {
        return;
    }
    tracing::error!(
        error = error as &dyn std::error::Error,
        "no connection can be accepted"
    );
    sleep(EXHAUSTED).await;
}

/// How many connections each source has open.
#[derive(Debug, Default)]
struct Sources(Mutex<HashMap<IpAddr, usize>>);

/// One connection of a source, for as long as it is open.
struct Source {
    all: Arc<Sources>,
    address: IpAddr,
}

impl Sources {
    fn take(all: &Arc<Self>, peer: SocketAddr, most: usize) -> Option<Source> {
        let address = network(peer.ip());
        let mut counts = all.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Source {
            all: Arc::clone(all),
            address,
        })
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        let mut counts = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    tls: Option<TlsAcceptor>,
    shared: &Shared,
) {
    // Without it, small answers wait for the acknowledgement of the one before.
    drop(stream.set_nodelay(true));
    let stream = Patient::new(stream, shared.limits.stalled);
    let began = Instant::now();
    let Some(tls) = tls else {
        return http(TokioIo::new(stream), peer, false, began, shared).await;
    };
    match timeout(shared.limits.first_request, tls.accept(stream)).await {
        Ok(Ok(stream)) => http(TokioIo::new(stream), peer, true, began, shared).await,
        _ => add(&shared.metrics.handshakes_failed, 1),
    }
}

async fn http<I>(io: I, peer: SocketAddr, encrypted: bool, began: Instant, shared: &Shared)
where
    I: Read + Write + Unpin + Send + 'static,
{
    let limits = &shared.limits;
    let activity = Activity::new(began);
    let (requests, router, body_time) = (activity.clone(), shared.router.clone(), limits.body);
    let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
        let busy = requests.begin();
        let mut request = request.map(|body| Body::new(Timely::new(Body::new(body), body_time)));
        request.extensions_mut().insert(ConnectInfo(peer));
        if encrypted {
            request.extensions_mut().insert(Encrypted);
        }
        answer(router.clone(), request, busy)
    });
    let builder = builder();
    let mut connection = pin!(builder.serve_connection(io, service));
    let farewell = tokio::select! {
        // Whatever a connection fails with, its peer caused and knows.
        _ = connection.as_mut() => return,
        () = shared.stop.cancelled() => limits.body,
        () = activity.quiet(limits.first_request, limits.idle) => {
            add(&shared.metrics.connections_idle, 1);
            FAREWELL
        }
    };
    connection.as_mut().graceful_shutdown();
    let ended = Instant::now();
    tokio::select! {
        _ = connection => {}
        () = activity.quiet_since(ended, farewell) => {}
    }
}

async fn answer(router: Router, request: Request, busy: Busy) -> Result<Response, Infallible> {
    let response = router.oneshot(request).await?;
    // What is there whole needs no more time than an ending connection has.
    if http_body::Body::size_hint(response.body())
        .exact()
        .is_some()
    {
        return Ok(response);
    }
    Ok(response.map(|body| Body::new(Streaming { body, _busy: busy })))
}

fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        // Silence is measured over all requests of a connection.
        .header_read_timeout(None)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD as usize);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_EVERY)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEAD);
    builder
}

/// Whether a connection has requests, and since when it has been so.
#[derive(Debug, Clone)]
struct Activity(Arc<watch::Sender<Requests>>);

#[derive(Debug, Clone, Copy)]
struct Requests {
    now: usize,
    ever: bool,
    since: Instant,
}

/// One request, until its answer is on its way.
#[derive(Debug)]
struct Busy(Activity);

impl Activity {
    fn new(since: Instant) -> Self {
        let none = Requests {
            now: 0,
            ever: false,
            since,
        };
        Self(Arc::new(watch::Sender::new(none)))
    }

    fn begin(&self) -> Busy {
        self.0.send_modify(|requests| {
            requests.now += 1;
            requests.ever = true;
        });
        Busy(self.clone())
    }

    /// Waits until there has been no request for a time: `first` before there was any, `then`
    /// afterwards.
    async fn quiet(&self, first: Duration, then: Duration) {
        self.until(|requests| requests.since + if requests.ever { then } else { first })
            .await;
    }

    /// The same for the time since a moment.
    async fn quiet_since(&self, moment: Instant, time: Duration) {
        self.until(|requests| requests.since.max(moment) + time)
            .await;
    }

    async fn until(&self, deadline: impl Fn(&Requests) -> Instant) {
        let mut changes = self.0.subscribe();
        loop {
            let requests = *changes.borrow_and_update();
            tokio::select! {
                // The sender lives as long as this.
                _ = changes.changed() => {}
                () = sleep_until(deadline(&requests)), if requests.now == 0 => return,
            }
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.0.send_modify(|requests| {
            requests.now -= 1;
            requests.since = Instant::now();
        });
    }
}

/// An answer that is made while it is sent: its request is not over before it is.
struct Streaming {
    body: Body,
    _busy: Busy,
}

impl http_body::Body for Streaming {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_what_one_customer_has() {
        for (one, other, same) in [
            ("192.0.2.1:1", "192.0.2.1:2", true),
            ("192.0.2.1:1", "192.0.2.2:1", false),
            ("192.0.2.1:1", "[::ffff:192.0.2.1]:1", true),
            ("[2001:db8:1:2:3::1]:1", "[2001:db8:1:2:4::1]:1", true),
            ("[2001:db8:1:2::1]:1", "[2001:db8:1:3::1]:1", false),
        ] {
            let all = Arc::new(Sources::default());
            let take = |peer: &str| Sources::take(&all, peer.parse().unwrap(), 1);
            let first = take(one);
            assert!(first.is_some());
            assert_eq!(take(other).is_none(), same, "{one} {other}");
            drop(first);
            assert!(take(one).is_some(), "a place that was left is free");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_quiet_after_its_last_request() {
        let seconds = Duration::from_secs;
        let began = Instant::now();
        let activity = Activity::new(began);
        activity.quiet(seconds(10), seconds(75)).await;
        assert_eq!(began.elapsed(), seconds(10));
        let (one, two) = (activity.begin(), activity.begin());
        drop(one);
        let quiet = activity.quiet(seconds(10), seconds(75));
        assert!(timeout(seconds(1000), quiet).await.is_err());
        drop(two);
        let ended = Instant::now();
        activity.quiet(seconds(10), seconds(75)).await;
        assert_eq!(ended.elapsed(), seconds(75));
    }
}
