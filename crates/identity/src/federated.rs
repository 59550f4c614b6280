//! Who comes from an identity provider.
//!
//! Somebody is the pair of issuer and subject: the same subject of another issuer is somebody else, and
//! an address or a name is nobody. Here they are an agent whose name says nothing about them. Its roles
//! are those that the configuration maps, as of the newest of its tokens.

use crate::{
    Agent, Identity, IdentityError, Invalid, NotFetched, Principal, Provider, ProviderName,
    StorageError, Unauthenticated,
    agent::Federated,
    foreign::{Foreign, Reject, UnverifiedForeign, issuer},
    principal::Credential,
    provider_keys::{Documents, ProviderKeys, Published},
};
use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::SystemTime};
use xylem_audit::{Entry, Kind, Reason, SubjectKind, Verdict};
use xylem_ids::{AgentId, Namespace, Scope, Scopes};
use xylem_recall::Revision;
use xylem_seal::{CryptoError, Mac, random_key};

/// An agent as often as others may change it while it is looked at.
const TRIES: usize = 5;
/// Bytes of chance in an agent's name.
const CHANCE: usize = 10;
/// Why the audit log says that such an agent came, or changed.
const REASON: &str = "identity_provider";

/// The providers whose tokens are accepted in a namespace.
#[derive(Default)]
pub(crate) struct Federation {
    namespace: Option<Namespace>,
    providers: Vec<Arc<ProviderKeys>>,
}

impl Federation {
    /// The one that the control plane serves.
    pub(crate) fn namespace(&self) -> Option<&Namespace> {
        self.namespace.as_ref()
    }

    /// The provider that a token claims to be from, if its tokens are accepted at all.
    pub(crate) fn of(&self, presented: &str) -> Option<(&Namespace, &Arc<ProviderKeys>)> {
        let namespace = self.namespace.as_ref()?;
        let issuer = issuer(presented)?;
        let mut providers = self.providers.iter();
        let found = providers.find(|known| known.provider.issuer == issuer)?;
        Some((namespace, found))
    }
}

impl Identity {
    /// The same, with tokens of these providers accepted for agents of this namespace.
    ///
    /// # Errors
    /// Two providers have the same name or issuer, or one issues under the URL of this control plane.
    pub fn trusting(
        mut self,
        namespace: &Namespace,
        providers: Vec<Provider>,
        documents: &Arc<dyn Documents>,
    ) -> Result<Self, Invalid> {
        if let Some((_, invalid)) = Provider::alike(&providers) {
            return Err(invalid);
        }
        if providers.iter().any(|it| it.issuer == *self.issuer) {
            let rule = "that of an identity provider, not this control plane's own";
            return Err(Invalid::new("issuer", rule));
        }
        let known = |provider| Arc::new(ProviderKeys::new(provider, Arc::clone(documents)));
        self.federation = Arc::new(Federation {
            namespace: Some(namespace.clone()),
            providers: providers.into_iter().map(known).collect(),
        });
        Ok(self)
    }

    /// What is known of the keys of each provider; they are fetched where that is due.
    pub async fn providers(
        &self,
        now: SystemTime,
    ) -> Vec<(ProviderName, Result<Published, NotFetched>)> {
        let mut found = Vec::new();
        for known in &self.federation.providers {
            let published = known.published(now).await;
            found.push((known.provider.name.clone(), published));
        }
        found
    }

    /// Who presents a token of a provider.
    pub(crate) async fn authenticate_foreign(
        &self,
        (namespace, known): (&Namespace, &Arc<ProviderKeys>),
        presented: &str,
        address: Option<IpAddr>,
        now: SystemTime,
    ) -> Result<Principal, Unauthenticated> {
        let provider = &known.provider;
        let refused = |reject: Reject| Unauthenticated::Token(reject.code());
        let token = UnverifiedForeign::parse(presented, provider).map_err(refused)?;
        let keys = known.for_token(&token, now).await.map_err(|failure| {
            let name = provider.name.clone();
            Unauthenticated::NotChecked(IdentityError::Provider { name, failure })
        })?;
        let key = keys.find(&token).ok_or(refused(Reject::UnknownKey))?;
        let foreign = token.verify(key, provider, now).map_err(refused)?;
        let met = Met {
            namespace,
            provider,
            foreign: &foreign,
            address,
            now,
        };
        let agent = self.agent_of(&met).await?;
        // What is remembered of before may not know the agent as it has just become.
        let at = self.revision().await?;
        Ok(self.admitted_foreign(agent, provider, &foreign, at))
    }

    /// The agent of somebody, with the roles of the newest token that was seen of them.
    async fn agent_of(&self, met: &Met<'_>) -> Result<Agent, Unauthenticated> {
        let unmapped = || Unauthenticated::Token("subject_unmapped");
        for _ in 0..TRIES {
            let (issuer, subject) = (&met.provider.issuer, &met.foreign.subject);
            let found = self.storage.federated_agent(met.namespace, issuer, subject);
            let came_to = match found.await.map_err(IdentityError::from)? {
                None if met.foreign.roles.is_empty() => return Err(unmapped()),
                None => self.meet(met).await,
                Some(agent) => self.follow(self.secrets.check_agent(agent)?, met).await,
            };
            match came_to {
                // Another call of the same agent was faster.
                Err(StorageError::Exists | StorageError::Changed) => {}
                Err(error) => return Err(IdentityError::from(error).into()),
                Ok(agent) if agent.retired_at.is_some() => {
                    return Err(Unauthenticated::Retired(agent.id));
                }
                Ok(agent) if agent.roles.is_empty() => return Err(unmapped()),
                Ok(agent) => return Ok(agent),
            }
        }
        Err(IdentityError::Changed.into())
    }

    /// Somebody comes for the first time.
    async fn meet(&self, met: &Met<'_>) -> Result<Agent, StorageError> {
        let agent = self.secrets.seal_agent(Agent {
            namespace: met.namespace.clone(),
            id: pseudonym(&met.provider.name).map_err(failed)?,
            kind: met.provider.kind,
            roles: met.foreign.roles.clone(),
            created_at: met.now,
            created_by: None,
            federated: Some(Federated {
                issuer: met.provider.issuer.clone(),
                subject: met.foreign.subject.clone(),
                issued_at: met.foreign.issued_at,
            }),
            retired_at: None,
            seal: Mac([0; 32]),
        });
        let entry = met.entry(Kind::Registered, &agent);
        self.storage.insert_agent(&agent, &[entry]).await?;
        Ok(agent)
    }

    /// Takes over what a newer token says. An older one changes nothing: what it says of roles may have
    /// been taken back since.
    async fn follow(&self, read: Agent, met: &Met<'_>) -> Result<Agent, StorageError> {
        let mut agent = read.clone();
        let Some(federated) = &mut agent.federated else {
            return Err(StorageError::Unreadable { what: "agent" });
        };
        let older = met.foreign.issued_at < federated.issued_at;
        let same = met.foreign.issued_at == federated.issued_at && met.foreign.roles == read.roles;
        if older || same || read.retired_at.is_some() {
            return Ok(read);
        }
        federated.issued_at = met.foreign.issued_at;
        agent.roles.clone_from(&met.foreign.roles);
        let agent = self.secrets.seal_agent(agent);
        let changed = agent.roles != read.roles;
        let entries = changed.then(|| met.entry(Kind::AgentUpdated, &agent));
        self.storage
            .replace_agent(&read, &agent, false, entries.as_slice())
            .await?;
        Ok(agent)
    }

    fn admitted_foreign(
        &self,
        agent: Agent,
        provider: &Provider,
        foreign: &Foreign,
        at: Revision,
    ) -> Principal {
        let lacks_factor = self.needs_factor(&agent) && !foreign.second_factor;
        let scopes = if lacks_factor {
            Scopes::from_iter([Scope::Account])
        } else {
            Scopes::All
        };
        Principal {
            credential: Credential::Provider(provider.name.clone()),
            namespace: agent.namespace,
            agent: agent.id,
            kind: agent.kind,
            roles: agent.roles,
            scopes,
            queues: BTreeSet::new(),
            networks: Vec::new(),
            until: None,
            token: None,
            token_until: Some(foreign.until),
            signed_in: foreign.signed_in,
            second_factor: foreign.second_factor,
            lacks_factor,
            as_of: at,
        }
    }
}

/// Somebody whose token was found good.
struct Met<'a> {
    namespace: &'a Namespace,
    provider: &'a Provider,
    foreign: &'a Foreign,
    address: Option<IpAddr>,
    now: SystemTime,
}

impl Met<'_> {
    fn entry(&self, kind: Kind, agent: &Agent) -> Entry {
        let mut entry = Entry::new(self.now, kind, Verdict::Succeeded);
        entry.agent = Some(agent.id.clone());
        entry.namespace = Some(self.namespace.clone());
        entry.address = self.address;
        entry.second_factor = self.foreign.second_factor;
        entry.reason = Some(Reason::of(REASON));
        entry.regarding(SubjectKind::Agent, &agent.id)
    }
}

/// A name that says from where somebody is, and not who.
fn pseudonym(provider: &ProviderName) -> Result<AgentId, CryptoError> {
    let chance = random_key()?;
    let chance: String = chance
        .iter()
        .take(CHANCE)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("{provider}-{chance}")
        .parse()
        .map_err(|_| CryptoError)
}

fn failed(error: CryptoError) -> StorageError {
    StorageError::Unavailable(Box::new(error))
}
