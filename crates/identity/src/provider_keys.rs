//! The keys of a provider, asked for when they are needed and kept for a while.

use crate::{
    Provider,
    foreign::{ForeignKeys, UnverifiedForeign},
};
use async_trait::async_trait;
use serde::Deserialize;
use std::{
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
    time::{Duration, SystemTime},
};
use tokio::sync::Mutex;

/// Keys are asked for again after so long: one that the provider took back counts no longer than that,
const FRESH: Duration = Duration::from_secs(10 * 60);
/// unless it does not answer.
const STALE: Duration = Duration::from_secs(24 * 60 * 60);
/// It is not asked more often than this, whatever tokens name.
const PAUSE: Duration = Duration::from_secs(30);

/// Fetches what providers publish. A document that is not answered with success within seconds, or that
/// is large, is none.
#[async_trait]
pub trait Documents: Send + Sync {
    /// The document at a URL, of which no redirect leads away.
    ///
    /// # Errors
    /// Why there is none.
    async fn fetch(&self, url: &str) -> Result<Vec<u8>, NotFetched>;
}

/// Why the keys of a provider are not there. Says nothing that came from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotFetched(pub &'static str);

/// What is known of a provider's keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// How many there are for the algorithms that were pinned.
    pub keys: usize,
    /// How long ago they were fetched.
    pub age: Duration,
}

/// The keys of one provider.
pub(crate) struct ProviderKeys {
    pub(crate) provider: Provider,
    documents: Arc<dyn Documents>,
    known: RwLock<Known>,
    /// Whoever holds this asks; the others wait for the answer.
    turn: Arc<Mutex<()>>,
}

#[derive(Debug, Default)]
struct Known {
    keys: Option<(SystemTime, Arc<ForeignKeys>)>,
    asked_at: Option<SystemTime>,
    failure: Option<NotFetched>,
}

/// The metadata of OpenID Connect Discovery 1.0 that counts.
#[derive(Deserialize)]
struct Metadata {
    issuer: String,
    jwks_uri: String,
}

impl ProviderKeys {
    pub(crate) fn new(provider: Provider, documents: Arc<dyn Documents>) -> Self {
        Self {
            provider,
            documents,
            known: RwLock::default(),
            turn: Arc::default(),
        }
    }

    /// The keys to look for a token's in.
    ///
    /// # Errors
    /// There are none, or none that it names while the provider does not answer.
    pub(crate) async fn for_token(
        self: &Arc<Self>,
        token: &UnverifiedForeign<'_>,
        now: SystemTime,
    ) -> Result<Arc<ForeignKeys>, NotFetched> {
        self.ask_if(now, |keys| keys.find(token).is_none()).await;
        let keys = self.usable(now)?;
        match self.read().failure {
            Some(failure) if keys.find(token).is_none() => Err(failure),
            _ => Ok(keys),
        }
    }

    /// What is known of the keys; they are asked for where that is due.
    ///
    /// # Errors
    /// The last time they were asked for, that did not succeed.
    pub(crate) async fn published(
        self: &Arc<Self>,
        now: SystemTime,
    ) -> Result<Published, NotFetched> {
        self.ask_if(now, |_| false).await;
        let keys = self.usable(now)?;
        let known = self.read();
        if let Some(failure) = known.failure {
            return Err(failure);
        }
        let fetched = known.keys.as_ref().map(|(at, _)| *at);
        Ok(Published {
            keys: keys.len(),
            age: fetched.map_or(Duration::ZERO, |at| since(at, now).unwrap_or_default()),
        })
    }

    fn usable(&self, now: SystemTime) -> Result<Arc<ForeignKeys>, NotFetched> {
        let known = self.read();
        let kept = known.keys.as_ref();
        let kept = kept.filter(|(at, _)| since(*at, now).is_some_and(|age| age < STALE));
        match (kept, known.failure) {
            (Some((_, keys)), _) => Ok(Arc::clone(keys)),
            (None, Some(failure)) => Err(failure),
            (None, None) => Err(NotFetched("its keys were not fetched yet")),
        }
    }

    /// Asks where the keys are old or lack one, and nobody asked a moment ago. Whoever asked goes on
    /// when the call that began it is given up, so that nobody can make this ask more often.
    async fn ask_if(self: &Arc<Self>, now: SystemTime, lacks: impl Fn(&ForeignKeys) -> bool) {
        if !self.is_due(now, &lacks) {
            return;
        }
        let turn = Arc::clone(&self.turn).lock_owned().await;
        if !self.is_due(now, &lacks) {
            return;
        }
        let this = Arc::clone(self);
        let asking = tokio::spawn(async move {
            let _turn = turn;
            this.ask(now).await;
        });
        // It does not panic, and nobody ends it; then the keys are as they were.
        let _ = asking.await;
    }

    fn is_due(&self, now: SystemTime, lacks: impl Fn(&ForeignKeys) -> bool) -> bool {
        let known = self.read();
        let fresh = known.keys.as_ref().is_some_and(|(at, keys)| {
            since(*at, now).is_some_and(|age| age < FRESH) && !lacks(keys)
        });
        let rested = known.asked_at.is_none_or(|at| {
            // A clock that was put back is no reason to wait.
            since(at, now).is_none_or(|pause| pause >= PAUSE)
        });
        !fresh && rested
    }

    async fn ask(&self, now: SystemTime) {
        let fetched = self.fetch().await;
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.asked_at = Some(now);
        match fetched {
            Ok(keys) => {
                known.keys = Some((now, Arc::new(keys)));
                known.failure = None;
            }
            Err(failure) => known.failure = Some(failure),
        }
    }

    async fn fetch(&self) -> Result<ForeignKeys, NotFetched> {
        let issuer = &self.provider.issuer;
        // OpenID Connect Discovery 1.0, section 4.1.
        let base = issuer.strip_suffix('/').unwrap_or(issuer);
        let url = format!("{base}/.well-known/openid-configuration");
        let metadata = self.documents.fetch(&url).await?;
        let metadata: Metadata = serde_json::from_slice(&metadata)
            .map_err(|_| NotFetched("its discovery document names no issuer and keys"))?;
        if metadata.issuer != *issuer {
            return Err(NotFetched(
                "its discovery document is that of another issuer",
            ));
        }
        let set = self.documents.fetch(&metadata.jwks_uri).await?;
        ForeignKeys::parse(&set, &self.provider.algorithms)
            .ok_or(NotFetched("what it publishes is no key set"))
    }

    fn read(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }
}

fn since(at: SystemTime, now: SystemTime) -> Option<Duration> {
    now.duration_since(at).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ProviderSettings, Unmapped};
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        time::UNIX_EPOCH,
    };
    use tokio::sync::Notify;
    use xylem_ids::AgentKind;

    const ISSUER: &str = "https://login.example/";

    /// Answers when it is let.
    #[derive(Default)]
    struct Slow {
        asked: AtomicUsize,
        answer: Notify,
    }

    #[async_trait]
    impl Documents for Slow {
        async fn fetch(&self, url: &str) -> Result<Vec<u8>, NotFetched> {
            if url == "https://login.example/keys" {
                return Ok(br#"{"keys": []}"#.to_vec());
            }
            assert_eq!(
                url,
                "https://login.example/.well-known/openid-configuration"
            );
            self.asked.fetch_add(1, Ordering::SeqCst);
            self.answer.notified().await;
            let keys = "https://login.example/keys";
            Ok(format!(r#"{{"issuer": "{ISSUER}", "jwks_uri": "{keys}"}}"#).into_bytes())
        }
    }

    fn known(documents: Arc<Slow>) -> Arc<ProviderKeys> {
        let provider = Provider::new(ProviderSettings {
            name: "corp".to_owned(),
            issuer: ISSUER.to_owned(),
            audience: "xylem".to_owned(),
            algorithms: vec!["ES256".to_owned()],
            token_type: "JWT".to_owned(),
            kind: AgentKind::User,
            roles_claim: None,
            roles: Default::default(),
            unmapped: Unmapped::User,
            second_factor: Default::default(),
        });
        Arc::new(ProviderKeys::new(provider.unwrap(), documents))
    }

    #[tokio::test]
    async fn who_gives_up_does_not_make_others_ask_again() {
        let documents = Arc::new(Slow::default());
        let known = known(Arc::clone(&documents));
        let ask = |known: &Arc<ProviderKeys>| {
            let known = Arc::clone(known);
            tokio::spawn(async move { known.published(UNIX_EPOCH).await })
        };
        let first = ask(&known);
        while documents.asked.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());
        let others: Vec<_> = (0..3).map(|_| ask(&known)).collect();
        tokio::task::yield_now().await;
        documents.answer.notify_one();
        for other in others {
            let published = other.await.unwrap().unwrap();
            assert_eq!((published.keys, published.age), (0, Duration::ZERO));
        }
        assert_eq!(documents.asked.load(Ordering::SeqCst), 1);
    }
}
