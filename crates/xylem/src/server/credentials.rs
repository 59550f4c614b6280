//! The API keys that lie in the data directory.

use super::ServerError;
use crate::data::{self, DataDir, DataError};
use secrecy::{ExposeSecret, SecretString};
use std::{collections::BTreeSet, fmt, fs, io, path::Path, sync::Arc, time::SystemTime};
use xylem_audit::{Entry, Kind, Log, Verdict};
use xylem_ids::{AgentId, Namespace, TaskQueue};
use xylem_registry::{NewKey, Registry, RegistryError, Role, Roles};

/// The first administrator, who also operates trees.
const ADMINISTRATOR: &str = "admin";
/// The worker beside the control plane.
const WORKER: &str = "worker";

/// Makes agents and keys before anybody could ask for them.
pub(super) struct Credentials {
    data: DataDir,
    namespace: Namespace,
    registry: Registry,
    log: Arc<dyn Log>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("data", &self.data)
            .finish_non_exhaustive()
    }
}

impl Credentials {
    pub(super) fn new(
        data: DataDir,
        namespace: Namespace,
        registry: Registry,
        log: Arc<dyn Log>,
    ) -> Self {
        Self {
            data,
            namespace,
            registry,
            log,
        }
    }

    /// The administrator's key; made where the file holds none that works.
    pub(super) async fn administrator(&self) -> Result<SecretString, ServerError> {
        let roles = Roles::from([Role::Admin, Role::Operator]);
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
        self.agent(&agent, roles.clone()).await?;
        let new = NewKey {
            agent,
            roles,
            queues,
            expires_at: None,
        };
        let now = SystemTime::now();
        let made = self.registry.create_key(&self.namespace, new, now).await?;
        self.note(Kind::KeyCreated, now).await?;
        replace(path, &made.secret)?;
        Ok(made.secret)
    }

    /// Whether the key works, here, for all of the queues.
    async fn serves(&self, key: &SecretString, queues: &BTreeSet<TaskQueue>) -> bool {
        let presented = key.expose_secret();
        let principal = self.registry.authenticate(presented, SystemTime::now());
        principal.await.is_ok_and(|principal| {
            principal.namespace() == &self.namespace && principal.queues().is_superset(queues)
        })
    }

    async fn agent(&self, agent: &AgentId, roles: Roles) -> Result<(), ServerError> {
        let now = SystemTime::now();
        let made = self
            .registry
            .create_agent(&self.namespace, agent.clone(), roles, now);
        match made.await {
            Ok(_) => self.note(Kind::AgentCreated, now).await,
            Err(RegistryError::Exists { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn note(&self, kind: Kind, now: SystemTime) -> Result<(), ServerError> {
        let entry = Entry::new(now, kind, Verdict::Succeeded);
        Ok(self.log.append(&[entry]).await?)
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
