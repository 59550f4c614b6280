//! How often one caller may ask.
//!
//! Every caller has a lane that takes a request at a steady rate, and a few seconds' worth of them at
//! once (the generic cell rate algorithm). All that is kept of a lane is one moment, and lanes that are
//! at rest are forgotten.
//!
//! Written here because of the bound: `governor` has the same algorithm, but its keyed store neither ends
//! at a size nor says whether it knows a caller, so that a flood of new ones would fill the memory or shut
//! known ones out.

use super::limits::Limits;
use crate::fault::Fault;
use std::{
    collections::HashMap,
    hash::Hash,
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};
use xylem_ids::AgentId;

/// How many seconds' worth of requests a lane takes at once.
const AT_ONCE: Duration = Duration::from_secs(5);
/// The most lanes that are kept. Whoever comes when there is no room shares one with others.
const MOST: usize = 1 << 16;
/// How often there is looked for lanes at rest while there is no room.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The lanes of addresses and of agents.
#[derive(Debug)]
pub(crate) struct Rates {
    addresses: Lanes<IpAddr>,
    agents: Lanes<AgentId>,
}

impl Rates {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            addresses: Lanes::new(limits.requests_per_address, MOST),
            agents: Lanes::new(limits.requests_per_agent, MOST),
        }
    }

    /// Takes a request of an address, or of the network of 64 bits around it with IPv6.
    pub(super) fn address(&self, address: IpAddr) -> Result<(), Fault> {
        let taken = self.addresses.take(network(address), Instant::now());
        taken.map_err(|after| self.addresses.fault("address", after))
    }

    /// Takes a request of an agent, with whatever credential.
    pub(super) fn agent(&self, agent: &AgentId) -> Result<(), Fault> {
        let taken = self.agents.take(agent.clone(), Instant::now());
        taken.map_err(|after| self.agents.fault("agent", after))
    }
}

/// What one customer of a network provider has: an IPv4 address, or an IPv6 network of 64 bits.
pub(super) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let network = u128::from(address) & (u128::MAX << 64);
            Ipv6Addr::from(network).into()
        }
    }
}

/// The lanes of one kind of caller.
#[derive(Debug)]
struct Lanes<K> {
    per_second: u32,
    most: usize,
    open: Mutex<Open<K>>,
}

#[derive(Debug)]
struct Open<K> {
    /// When each lane is at rest, if nothing more comes.
    lanes: HashMap<K, Instant>,
    /// The one of all those for whom there was no room.
    shared: Option<Instant>,
    /// When there was looked for lanes at rest.
    looked: Option<Instant>,
}

impl<K: Eq + Hash> Lanes<K> {
    /// Without a limit where the rate is 0.
    fn new(per_second: u32, most: usize) -> Self {
        let open = Open {
            lanes: HashMap::new(),
            shared: None,
            looked: None,
        };
        Self {
            per_second,
            most,
            open: Mutex::new(open),
        }
    }

    /// Takes one request, or says after which time it would be taken.
    fn take(&self, caller: K, now: Instant) -> Result<(), Duration> {
        let Some(each) = Duration::from_secs(1).checked_div(self.per_second) else {
            return Ok(());
        };
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let at_rest = open.lane(caller, now, self.most);
        let then = (*at_rest).max(now) + each;
        let after = (then - now).saturating_sub(AT_ONCE);
        if !after.is_zero() {
            return Err(after);
        }
        *at_rest = then;
        Ok(())
    }

    fn fault(&self, caller: &str, after: Duration) -> Fault {
        let message = format!(
            "too many requests of this {caller}: {} a second are taken",
            self.per_second
        );
        Fault::limited("too_many_requests", message, after)
    }
}

impl<K: Eq + Hash> Open<K> {
    fn lane(&mut self, caller: K, now: Instant, most: usize) -> &mut Instant {
        let looked = self.looked.is_some_and(|looked| now < looked + LOOK_EVERY);
        if self.lanes.len() >= most && !looked {
            self.looked = Some(now);
            self.lanes.retain(|_, at_rest| *at_rest > now);
        }
        if self.lanes.len() >= most && !self.lanes.contains_key(&caller) {
            return self.shared.get_or_insert(now);
        }
        self.lanes.entry(caller).or_insert(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_lane_takes_some_at_once_and_then_at_its_rate() {
        let lanes = Lanes::new(10, 8);
        let began = Instant::now();
        for _ in 0..50 {
            assert_eq!(lanes.take("a", began), Ok(()));
        }
        assert_eq!(lanes.take("a", began), Err(SECOND / 10));
        assert_eq!(
            lanes.take("b", began),
            Ok(()),
            "another one's lane is its own"
        );
        // Asking in vain costs nothing.
        assert_eq!(lanes.take("a", began + SECOND / 20), Err(SECOND / 20));
        assert_eq!(lanes.take("a", began + SECOND / 10), Ok(()));
        assert!(lanes.take("a", began + SECOND / 10).is_err());
        // At rest it has everything again, and no more.
        let later = began + 100 * SECOND;
        let taken = (0..100).filter(|_| lanes.take("a", later).is_ok()).count();
        assert_eq!(taken, 50);
    }

    #[test]
    fn without_a_rate_there_is_no_limit_and_nothing_is_kept() {
        let lanes = Lanes::new(0, 8);
        let now = Instant::now();
        assert!((0..10_000).all(|_| lanes.take("a", now).is_ok()));
        assert!(lanes.open.lock().unwrap().lanes.is_empty());
    }

    #[test]
    fn a_flood_of_callers_takes_no_more_room_and_keeps_nobody_known_out() {
        let lanes = Lanes::new(1, 100);
        let began = Instant::now();
        assert_eq!(lanes.take(0, began), Ok(()));
        let strangers = (1..10_000)
            .filter(|n| lanes.take(*n, began).is_ok())
            .count();
        assert_eq!(strangers, 99 + 5, "those without room share one lane");
        assert_eq!(lanes.open.lock().unwrap().lanes.len(), 100);
        assert_eq!(lanes.take(0, began), Ok(()));
        // Lanes at rest make room; the one that is not stays.
        assert_eq!(lanes.take(20_000, began + SECOND), Ok(()));
        let open = lanes.open.lock().unwrap();
        assert_eq!(open.lanes.len(), 2, "{:?}", open.lanes.keys());
    }
}
