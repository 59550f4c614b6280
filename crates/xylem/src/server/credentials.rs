//! The API keys that lie in the data directory.

use super::ServerError;
use crate::data::{self, DataDir, DataError};
use secrecy::{ExposeSecret, SecretString};
use std::{collections::BTreeSet, fmt, fs, io, net::Ipv4Addr, path::Path, time::SystemTime};
use xylem_audit::{Entry, Kind, Verdict};
use xylem_identity::{Identity, IdentityError, NewAgent, NewKey};
use xylem_ids::{AgentId, AgentKind, Namespace, Role, Roles, Scopes, TaskQueue};

/// The first administrator, who may do everything but what workers do.
const ADMINISTRATOR: &str = "admin";
/// The worker beside the control plane.
const WORKER: &str = "worker";

/// Makes agents and keys before anybody could ask for them.
pub(super) struct Credentials {
    data: DataDir,
    namespace: Namespace,
    identity: Identity,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("data", &self.data)
            .finish_non_exhaustive()
    }
}

impl Credentials {
    pub(super) fn new(data: DataDir, namespace: Namespace, identity: Identity) -> Self {
        Self {
            data,
            namespace,
            identity,
        }
    }

    /// The administrator's key; made where the file holds none that works.
    pub(super) async fn administrator(&self) -> Result<SecretString, ServerError> {
        let roles = Roles::from([
            Role::Admin,
            Role::ToolPublisher,
            Role::PolicyAdmin,
            Role::User,
        ]);
        let path = self.data.admin_key();
        self.key(&path, ADMINISTRATOR, roles, BTreeSet::new()).await
    }

    /// The worker's key for these task queues; made where the file holds none that serves them.
    pub(super) async fn worker(&self, queues: &[TaskQueue]) -> Result<SecretString, ServerError> {
        let roles = Roles::from([Role::Worker]);
        let path = self.data.worker_key();
        let queues = queues.iter().cloned().collect();
        self.key(&path, WORKER, roles, queues).await
    }

    async fn key(
        &self,
        path: &Path,
        agent: &str,
        roles: Roles,
        queues: BTreeSet<TaskQueue>,
    ) -> Result<SecretString, ServerError> {
        if path.exists() {
            let kept = data::read_secret(path)?;
            if self.serves(&kept, &queues).await {
                return Ok(kept);
            }
        }
        let agent = agent.parse()?;
        self.agent(&agent, roles).await?;
        let new = NewKey {
            agent,
            name: "made at the start".to_owned(),
            scopes: Scopes::All,
            queues,
            networks: Vec::new(),
            expires_at: None,
        };
        let entry = self.change(Kind::KeyCreated);
        let made = self
            .identity
            .create_key(&self.namespace, new, entry)
            .await?;
        replace(path, &made.secret)?;
        Ok(made.secret)
    }

    /// Whether the key works, here, for all of the queues.
    async fn serves(&self, key: &SecretString, queues: &BTreeSet<TaskQueue>) -> bool {
        let presented = key.expose_secret();
        let here = Some(Ipv4Addr::LOCALHOST.into());
        let now = SystemTime::now();
        let principal = self.identity.authenticate(presented, here, now);
        principal.await.is_ok_and(|principal| {
            principal.namespace() == &self.namespace && principal.queues().is_superset(queues)
        })
    }

    async fn agent(&self, agent: &AgentId, roles: Roles) -> Result<(), ServerError> {
        let new = NewAgent {
            id: agent.clone(),
            kind: AgentKind::Service,
            roles,
        };
        let entry = self.change(Kind::AgentCreated);
        match self
            .identity
            .create_agent(&self.namespace, new, entry)
            .await
        {
            Ok(_) | Err(IdentityError::Exists { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The entry of a change that nobody asked for: the server makes it at its start.
    fn change(&self, kind: Kind) -> Entry {
        let mut entry = Entry::new(SystemTime::now(), kind, Verdict::Succeeded);
        entry.namespace = Some(self.namespace.clone());
        entry
    }
}

/// Puts the key into the file, whole or not at all.
fn replace(path: &Path, key: &SecretString) -> Result<(), DataError> {
    let draft = path.with_extension("new");
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(DataError::io("replace", draft, error));
        }
        _ => {}
    }
    data::write_secret(&draft, key)?;
    fs::rename(&draft, path).map_err(|source| DataError::io("write", path, source))
}
