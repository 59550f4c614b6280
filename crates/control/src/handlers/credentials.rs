//! Stored credentials.

use super::{
    Handlers, answer, next, request,
    tokens::{Evidence, FIRST_REST, pause},
    trees::audiences,
};
use crate::{
    caller::{Reach, caller, check_reach, reach},
    convert,
    fault::Fault,
    renewal::{Renewed, told},
};
use secrecy::{ExposeSecret, SecretString};
use std::time::{Duration, SystemTime};
use tokio::time::Instant;
use tonic::{Request, Response, Status};
use v1::credentials_server::Credentials;
use xylem_audit::Note;
use xylem_grant::UnixSeconds;
use xylem_ids::{AgentId, CredentialName, Origin, Slot, TreeId, Version, WorkflowType};
use xylem_proto::v1;
use xylem_vault::{
    Asker, Audiences, CopyStatus, CredentialStatus, CredentialVersion, NewCredential, NewSource,
    OAuth, OAuthClient, OAuthGrant, Provided, Removal, RequestId, Revocation, Rotated, Rotation,
    Supply, VaultError, VersionRevocation, VersionState,
};

/// No rule rotates more often,
const OFTENEST: Duration = Duration::from_secs(60);
/// nor less often.
const RAREST: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
/// A value that ends is said to be expiring in the last part of its life,
const LAST_PART: u64 = 6;
/// but no earlier than this.
const SOON: u64 = 7 * 24 * 60 * 60;
/// So many trees are named in a refusal.
const NAMED: usize = 5;

#[tonic::async_trait]
impl Credentials for Handlers {
    async fn create_credential(
        &self,
        request: Request<v1::CreateCredentialRequest>,
    ) -> Result<Response<v1::Credential>, Status> {
        let (handlers, given) = (self.clone(), request.into_inner());
        // A provider that is asked may have taken a refresh token for it.
        let created = self.to_the_end(async move { handlers.create(given).await });
        answer(created.await)
    }

    async fn get_credential(
        &self,
        request: Request<v1::GetCredentialRequest>,
    ) -> Result<Response<v1::Credential>, Status> {
        let shown = async {
            let name = convert::id(request.into_inner().name, "name")?;
            self.shown(&name).await
        };
        answer(shown.await)
    }

    async fn list_credentials(
        &self,
        request: Request<v1::ListCredentialsRequest>,
    ) -> Result<Response<v1::ListCredentialsResponse>, Status> {
        answer(self.list_stored(request.into_inner()).await)
    }

    async fn rotate_credential(
        &self,
        request: Request<v1::RotateCredentialRequest>,
    ) -> Result<Response<v1::Credential>, Status> {
        let (handlers, given) = (self.clone(), request.into_inner());
        let rotated = self.to_the_end(async move { handlers.rotate_stored(given).await });
        answer(rotated.await)
    }

    async fn renew_credential(
        &self,
        request: Request<v1::RenewCredentialRequest>,
    ) -> Result<Response<v1::Credential>, Status> {
        answer(self.renew(request.into_inner()).await)
    }

    async fn revoke_credential(
        &self,
        request: Request<v1::RevokeCredentialRequest>,
    ) -> Result<Response<v1::RevokeCredentialResponse>, Status> {
        answer(self.revoke_stored(request.into_inner()).await)
    }

    async fn remove_credential(
        &self,
        request: Request<v1::RemoveCredentialRequest>,
    ) -> Result<Response<v1::RemoveCredentialResponse>, Status> {
        answer(self.remove(request.into_inner()).await)
    }

    async fn bind_credential(
        &self,
        request: Request<v1::BindCredentialRequest>,
    ) -> Result<Response<v1::Credential>, Status> {
        answer(self.bind(request.into_inner()).await)
    }

    async fn unbind_credential(
        &self,
        request: Request<v1::BindCredentialRequest>,
    ) -> Result<Response<v1::Credential>, Status> {
        answer(self.unbind(request.into_inner()).await)
    }
}

impl Handlers {
    async fn create(&self, given: v1::CreateCredentialRequest) -> Result<v1::Credential, Fault> {
        let principal = caller()?;
        let secret = SecretString::from(given.secret);
        let refresh_token = secret_or_none(given.refresh_token);
        let request = request(&principal, &given.request_id, "")?;
        let name = convert::id(given.name, "name")?;
        let what = place(&name);
        let owner = convert::optional(given.owner, "owner")?;
        let audiences = audiences(given.audiences, "audiences")?;
        let rotate_every = convert::duration(given.rotate_every, "rotate_every", OFTENEST, RAREST)?;
        let mut value = Value {
            secret,
            expires_at: end(given.expires_at)?,
            source: None,
        };
        let source = match (given.oauth, given.provider) {
            (None, None) => None,
            (Some(oauth), None) => Some(client(oauth, value.secret.clone(), refresh_token)?),
            (None, Some(provider)) => Some(provided(provider, &value)?),
            (Some(_), Some(_)) => {
                return Err(Fault::invalid(
                    "provider",
                    "provider must not be given with oauth",
                ));
            }
        };
        let kept = source.is_some();
        if let Some(source) = source {
            probed_at(&source, &audiences)?;
            let before = self.created_before(&name, &source, &audiences, &request);
            if before.await.map_err(|fault| fault.about(&what))? {
                return self.shown(&name).await;
            }
            let first = self.first(source).await;
            value = first.map_err(|fault| fault.about(&what))?;
        }
        let new = NewCredential {
            namespace: self.settings.namespace.clone(),
            name,
            owner: owner.unwrap_or_else(|| principal.agent().clone()),
            audiences,
            rotate_every,
            value: value.secret,
            expires_at: value.expires_at,
            source: value.source,
            accept_short: given.allow_short,
            by: principal.agent().clone(),
            request,
        };
        let made = self.vault.create_credential(new).await;
        let made = made.map_err(|error| Fault::from(error).about(&what))?;
        if kept {
            self.keeper_runs(&made.version.name).await;
        }
        self.shown(&made.version.name).await
    }

    /// Whether the same request has made the credential before. It is looked at before a provider is asked, and
    /// again when it is stored: a refresh token that was used for nothing is lost, and one that is used twice is
    /// taken for stolen.
    async fn created_before(
        &self,
        name: &CredentialName,
        source: &NewSource,
        audiences: &Audiences,
        request: &RequestId,
    ) -> Result<bool, Fault> {
        let status = match self.vault.credential(&self.settings.namespace, name).await {
            Err(VaultError::NotFound { .. }) => return Ok(false),
            status => status?,
        };
        if !status.made_by(request) {
            return Err(VaultError::CredentialExists.into());
        }
        let supply = status.source.map(|known| known.supply);
        let same = status.credential.audiences == audiences.as_slice();
        match same && supply == Some(source.supply()) {
            true => Ok(true),
            false => Err(VaultError::RequestReused.into()),
        }
    }

    /// What the provider gives for what its next values are obtained with: nothing is stored that
    /// does not work.
    async fn first(&self, mut source: NewSource) -> Result<Value, Fault> {
        source.check()?;
        let obtained = self.obtained(&mut source).await;
        let obtained = obtained.map_err(|failed| told(failed, &source))?;
        Ok(Value {
            secret: obtained.token,
            expires_at: obtained.expires_at,
            source: Some(source),
        })
    }

    async fn rotate_stored(
        &self,
        given: v1::RotateCredentialRequest,
    ) -> Result<v1::Credential, Fault> {
        let principal = caller()?;
        let secret = SecretString::from(given.secret);
        let refresh_token = secret_or_none(given.refresh_token);
        let request = request(&principal, &given.request_id, "")?;
        let if_version = given.if_version.map(Version);
        let name: CredentialName = convert::id(given.name, "name")?;
        let what = place(&name);
        let mut value = Value {
            secret,
            expires_at: end(given.expires_at)?,
            source: None,
        };
        let status = self.status_of(&name).await?;
        if let Some(known) = &status.source {
            let next = match &known.supply {
                Supply::OAuth(oauth) => NewSource::OAuth(OAuthClient {
                    oauth: oauth.clone(),
                    client_secret: value.secret,
                    refresh_token,
                }),
                Supply::Provider(_) => return Err(provider_gives("secret").about(&what)),
            };
            // Before the provider is asked, and again when it is stored.
            if status.made_by(&request) {
                return self.shown(&name).await;
            }
            let active = status.active().map(|active| active.version);
            if if_version.is_some() && if_version != active {
                let other = VaultError::OtherVersion(active.unwrap_or(Version(0)));
                return Err(Fault::from(other).about(&what));
            }
            let first = self.first(next).await;
            value = first.map_err(|fault| fault.about(&what))?;
        }
        let rotation = Rotation {
            namespace: self.settings.namespace.clone(),
            name,
            value: value.secret,
            expires_at: value.expires_at,
            source: value.source,
            accept_short: given.allow_short,
            if_version,
            by: principal.agent().clone(),
            request,
        };
        let rotated = self.vault.rotate_credential(rotation).await;
        let Rotated { version, .. } = rotated.map_err(|error| Fault::from(error).about(&what))?;
        self.spread_soon(&version.name, version.version).await;
        self.shown(&version.name).await
    }

    async fn renew(&self, given: v1::RenewCredentialRequest) -> Result<v1::Credential, Fault> {
        let principal = caller()?;
        let name: CredentialName = convert::id(given.name, "name")?;
        let status = self.status_of(&name).await?;
        let seen = status.active().map(|active| active.version);
        let renewed = self.renew_now(&name, seen, Asker::Somebody, principal.agent());
        let refused = match renewed.await? {
            Renewed::Well => return self.shown(&name).await,
            Renewed::Busy => Fault::renewing(),
            Renewed::NotObtained(fault) => fault,
        };
        Err(refused.about(&place(&name)))
    }

    async fn bind(&self, given: v1::BindCredentialRequest) -> Result<v1::Credential, Fault> {
        let (by, name, kind, slot) = binding(given)?;
        let namespace = &self.settings.namespace;
        self.vault
            .bind_credential(namespace, &name, &kind, &slot, &by)
            .await
            .map_err(|error| Fault::from(error).about(&place(&name)))?;
        self.shown(&name).await
    }

    async fn unbind(&self, given: v1::BindCredentialRequest) -> Result<v1::Credential, Fault> {
        let (by, name, kind, slot) = binding(given)?;
        let namespace = &self.settings.namespace;
        self.vault
            .unbind_credential(namespace, &name, &kind, &slot, &by)
            .await
            .map_err(|error| Fault::from(error).about(&place(&name)))?;
        self.shown(&name).await
    }

    async fn remove(
        &self,
        given: v1::RemoveCredentialRequest,
    ) -> Result<v1::RemoveCredentialResponse, Fault> {
        let principal = caller()?;
        let removal = Removal {
            namespace: self.settings.namespace.clone(),
            name: convert::id(given.name, "name")?,
            by: principal.agent().clone(),
            note: convert::note(&given.reason, "reason")?,
        };
        let what = place(&removal.name);
        let removed = self.vault.remove_credential(removal).await;
        removed.map_err(|error| Fault::from(error).about(&what))?;
        Ok(v1::RemoveCredentialResponse {})
    }

    async fn list_stored(
        &self,
        given: v1::ListCredentialsRequest,
    ) -> Result<v1::ListCredentialsResponse, Fault> {
        let size = convert::page_size(given.page_size)?;
        let after: Option<CredentialName> = convert::optional(given.page_token, "page_token")?;
        let namespace = &self.settings.namespace;
        let principal = caller()?;
        // Asked of the database and not left out here: the token of a page is a name.
        let owner = (reach()? == Reach::Own).then(|| principal.agent());
        let page = self
            .vault
            .credentials(namespace, owner, after.as_ref(), size);
        let page = page.await?;
        let now = self.now();
        Ok(v1::ListCredentialsResponse {
            next_page_token: next(&page, size, |status| status.credential.name.to_string()),
            credentials: page.into_iter().map(|status| wire(status, now)).collect(),
        })
    }

    async fn status_of(&self, name: &CredentialName) -> Result<CredentialStatus, Fault> {
        let namespace = &self.settings.namespace;
        let status = self.vault.credential(namespace, name).await;
        let status = status.map_err(|error| Fault::from(error).about(&place(name)))?;
        let reached = check_reach(&status.credential.owner, "credential");
        reached.map_err(|hidden| hidden.about(&place(name)))?;
        Ok(status)
    }

    async fn shown(&self, name: &CredentialName) -> Result<v1::Credential, Fault> {
        Ok(wire(self.status_of(name).await?, self.now()))
    }
}

/// What a revocation is in the way of.
struct InTheWay {
    workflow: String,
    reason: &'static str,
}

/// A revocation over trees.
struct Everywhere {
    name: CredentialName,
    version: Version,
    force: bool,
    deadline: Instant,
    by: AgentId,
    note: Option<Note>,
}

impl Handlers {
    /// First every tree is looked at, so that one that is behind refuses before anything is gone; then
    /// each is revoked behind its own gate; last the version itself, which the vault holds back as
    /// long as any tree has it. Repeating it goes on with what is left.
    async fn revoke_stored(
        &self,
        given: v1::RevokeCredentialRequest,
    ) -> Result<v1::RevokeCredentialResponse, Fault> {
        let principal = caller()?;
        let longest = Duration::from_secs(5 * 60);
        let wait = convert::duration(given.wait, "wait", Duration::ZERO, longest)?;
        let everywhere = Everywhere {
            name: convert::id(given.name, "name")?,
            version: Version(given.version),
            force: given.force,
            deadline: Instant::now() + wait.unwrap_or(Duration::from_secs(30)),
            by: principal.agent().clone(),
            note: convert::note(&given.reason, "reason")?,
        };
        let what = format!("{}@{}", place(&everywhere.name), everywhere.version);
        let name = everywhere.name.clone();
        self.status_of(&name).await?;
        let revoked = self.revoke_everywhere(everywhere).await;
        let (trees, breaks) = revoked.map_err(|fault| fault.about(&what))?;
        Ok(v1::RevokeCredentialResponse {
            credential: Some(self.shown(&name).await?),
            trees,
            breaks,
        })
    }

    /// Revokes the versions that no tree needs any more, where that is to be done by itself. Answers
    /// whether some are left. What a backup knows of trees may not be so any more: nothing is revoked by itself
    /// before a restore is confirmed.
    pub(crate) async fn retire_old(&self, name: &CredentialName) -> Result<bool, Fault> {
        let namespace = &self.settings.namespace;
        let status = self.vault.credential(namespace, name).await?;
        if !status
            .source
            .is_some_and(|source| source.supply.revokes_old())
        {
            return Ok(false);
        }
        let mut old = status.versions;
        old.retain(|version| version.state == VersionState::Superseded);
        if !old.is_empty() && self.vault.is_held().await? {
            return Err(VaultError::Held.into());
        }
        let mut left = false;
        for version in old {
            let revoked = self.revoke_everywhere(Everywhere {
                name: name.clone(),
                version: version.version,
                force: false,
                deadline: Instant::now(),
                by: self.system.clone(),
                note: None,
            });
            if let Err(fault) = revoked.await {
                tracing::debug!(
                    credential.name = %name,
                    reason = fault.reason(),
                    "an old version is needed still"
                );
                left = true;
            }
        }
        Ok(left)
    }

    /// Answers in how many trees, and what it broke.
    async fn revoke_everywhere(&self, it: Everywhere) -> Result<(u32, Vec<String>), Fault> {
        self.revocable_stored(&it).await?;
        self.wait_for_trees(&it).await?;
        let mut breaks = Vec::new();
        let mut trees: u32 = 0;
        for copy in self.copies_of(&it).await? {
            let Some(tree) = copy.tree else { continue };
            let revocation = Revocation {
                tree,
                slot: copy.slot,
                version: copy.version,
                force: false,
                by: it.by.clone(),
                note: it.note.clone(),
            };
            let what = revocation.tree.workflow_id.to_string();
            let revoked = self.revoke_by(revocation, it.force, it.deadline).await;
            let revoked = revoked.map_err(|fault| fault.about(&format!("tree {what}")))?;
            let broken = revoked.breaks.iter();
            breaks.extend(broken.map(|broken| format!("tree {what}: {broken}")));
            trees = trees.saturating_add(1);
        }
        let revocation = VersionRevocation {
            namespace: self.settings.namespace.clone(),
            name: it.name,
            version: it.version,
            force: it.force,
            by: it.by,
            note: it.note,
        };
        let mut rest = FIRST_REST;
        loop {
            match self
                .vault
                .revoke_credential_version(revocation.clone())
                .await
            {
                // A tool that sends the credential itself is being called.
                Err(VaultError::OpenLeases { .. }) if Instant::now() + rest <= it.deadline => {
                    rest = pause(rest).await;
                }
                revoked => {
                    revoked?;
                    break;
                }
            }
        }
        Ok((trees, breaks))
    }

    /// Refuses at once what no waiting changes.
    async fn revocable_stored(&self, it: &Everywhere) -> Result<(), Fault> {
        let namespace = &self.settings.namespace;
        let status = self.vault.credential(namespace, &it.name).await?;
        let mut versions = status.versions.iter();
        let found = versions.find(|version| version.version == it.version);
        let found = found.ok_or_else(|| Fault::not_found("version of this credential"))?;
        if found.state == VersionState::Active && !it.force {
            return Err(VaultError::StillActive(it.version).into());
        }
        Ok(())
    }

    /// Waits until no tree needs the version, or refuses; force stops waiting at the deadline.
    async fn wait_for_trees(&self, it: &Everywhere) -> Result<(), Fault> {
        let mut rest = FIRST_REST;
        loop {
            self.spread(&it.name).await?;
            let mut in_the_way = Vec::new();
            for copy in self.copies_of(it).await? {
                if let Some(found) = self.in_the_way(&copy).await? {
                    in_the_way.push(found);
                }
            }
            let Some(first) = in_the_way.first() else {
                return Ok(());
            };
            if Instant::now() + rest <= it.deadline {
                rest = pause(rest).await;
            } else if it.force {
                return Ok(());
            } else {
                return Err(Fault::refused(first.reason, refusal(&in_the_way)));
            }
        }
    }

    async fn copies_of(&self, it: &Everywhere) -> Result<Vec<CopyStatus>, Fault> {
        let namespace = &self.settings.namespace;
        let mut copies = self.vault.credential(namespace, &it.name).await?.copies;
        copies.retain(|copy| copy.mark == it.version);
        Ok(copies)
    }

    async fn in_the_way(&self, copy: &CopyStatus) -> Result<Option<InTheWay>, Fault> {
        let found = |workflow: &str, reason| {
            Ok(Some(InTheWay {
                workflow: workflow.to_owned(),
                reason,
            }))
        };
        let Some(tree) = &copy.tree else {
            return found("a tree that is just being started", "tree_starting");
        };
        let workflow = tree.workflow_id.as_str();
        if copy.is_active() {
            return found(workflow, "trees_behind");
        }
        let (walk, _) = self.sweep_tree(tree).await?;
        if let Some(reason) = Evidence::of(&walk, &copy.slot).blocked() {
            return found(workflow, reason);
        }
        match self.has_open_leases(tree, copy).await? {
            true => found(workflow, "leases_open"),
            false => Ok(None),
        }
    }

    async fn has_open_leases(&self, tree: &TreeId, copy: &CopyStatus) -> Result<bool, Fault> {
        let versions = self.vault.status(tree).await?;
        let mut of_copy = versions.iter().filter(|version| {
            version.info.slot == copy.slot && version.info.version == copy.version
        });
        Ok(of_copy.any(|version| version.open_leases > 0))
    }
}

fn refusal(in_the_way: &[InTheWay]) -> String {
    let named: Vec<_> = in_the_way
        .iter()
        .take(NAMED)
        .map(|found| format!("{} ({})", found.workflow, found.reason))
        .collect();
    let more = in_the_way.len() - named.len();
    let more = match more {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!(
        "{} trees still need it: {}{more}; wait for them, stop them, or force it",
        in_the_way.len(),
        named.join(", ")
    )
}

fn binding(
    given: v1::BindCredentialRequest,
) -> Result<(AgentId, CredentialName, WorkflowType, Slot), Fault> {
    Ok((
        caller()?.agent().clone(),
        convert::id(given.name, "name")?,
        convert::id(given.workflow_type, "workflow_type")?,
        convert::slot(given.slot, "slot")?,
    ))
}

/// A value to store, and what the next ones are obtained with.
struct Value {
    secret: SecretString,
    expires_at: Option<UnixSeconds>,
    source: Option<NewSource>,
}

fn secret_or_none(text: String) -> Option<SecretString> {
    (!text.is_empty()).then(|| SecretString::from(text))
}

/// A credential that a file or a command gives has no secret that anybody brings.
fn provider_gives(field: &str) -> Fault {
    let rule =
        "must not be given where a provider gives it: `xylem credential renew` asks the provider";
    Fault::invalid(field, format!("{field} {rule}"))
}

fn provided(given: v1::CredentialProvider, value: &Value) -> Result<NewSource, Fault> {
    if !value.secret.expose_secret().is_empty() {
        return Err(provider_gives("secret"));
    }
    if value.expires_at.is_some() {
        return Err(provider_gives("expires_at"));
    }
    Ok(NewSource::Provider(Provided {
        name: given.name,
        probe_url: Some(given.probe_url).filter(|url| !url.is_empty()),
        revoke_old: given.revoke_old,
    }))
}

fn client(
    given: v1::OAuth,
    client_secret: SecretString,
    refresh_token: Option<SecretString>,
) -> Result<NewSource, Fault> {
    let lifetime = convert::duration(
        given.assume_lifetime,
        "oauth.assume_lifetime",
        OFTENEST,
        RAREST,
    )?;
    let grant = match refresh_token {
        Some(_) => OAuthGrant::RefreshToken,
        None => OAuthGrant::ClientCredentials,
    };
    Ok(NewSource::OAuth(OAuthClient {
        oauth: OAuth {
            token_url: given.token_url,
            grant,
            client_id: given.client_id,
            secret_in_form: given.secret_in_form,
            scopes: given.scopes,
            resource: Some(given.resource).filter(|resource| !resource.is_empty()),
            assume_lifetime: lifetime.map(|lifetime| lifetime.as_secs()),
            probe_url: Some(given.probe_url).filter(|url| !url.is_empty()),
            revoke_old: given.revoke_old,
        },
        client_secret,
        refresh_token,
    }))
}

/// A token is probed where it may be sent, and nowhere else.
fn probed_at(source: &NewSource, audiences: &Audiences) -> Result<(), Fault> {
    let Some(url) = source.probe_url() else {
        return Ok(());
    };
    let field = match source {
        NewSource::OAuth(_) => "oauth.probe_url",
        NewSource::Provider(_) => "provider.probe_url",
    };
    let origin = url::Url::parse(url).map(|url| url.origin().ascii_serialization());
    let origin: Option<Origin> = origin.ok().and_then(|origin| origin.parse().ok());
    let mut named = audiences.as_slice().iter();
    match origin.is_some_and(|origin| named.any(|audience| *audience.origin() == origin)) {
        true => Ok(()),
        false => {
            let rule = format!("{field} must be at one of the audiences");
            Err(Fault::invalid(field, rule))
        }
    }
}

fn oauth(given: OAuth) -> v1::OAuth {
    v1::OAuth {
        token_url: given.token_url,
        client_id: given.client_id,
        scopes: given.scopes,
        resource: given.resource.unwrap_or_default(),
        secret_in_form: given.secret_in_form,
        assume_lifetime: given.assume_lifetime.map(Duration::from_secs).map(seconds),
        with_refresh_token: given.grant == OAuthGrant::RefreshToken,
        probe_url: given.probe_url.unwrap_or_default(),
        revoke_old: given.revoke_old,
    }
}

fn provider(given: Provided) -> v1::CredentialProvider {
    v1::CredentialProvider {
        name: given.name,
        probe_url: given.probe_url.unwrap_or_default(),
        revoke_old: given.revoke_old,
    }
}

/// What an error is about.
fn place(name: &CredentialName) -> String {
    format!("credential {name}")
}

fn end(given: Option<xylem_proto::Timestamp>) -> Result<Option<UnixSeconds>, Fault> {
    Ok(convert::instant(given, "expires_at")?.map(UnixSeconds::from))
}

fn wire(status: CredentialStatus, now: SystemTime) -> v1::Credential {
    let now = UnixSeconds::from(now);
    let state = state(&status, now);
    let rotate_due = status.rotate_due().map(convert::seconds);
    let ends = status.active().and_then(|active| active.expires_at);
    let broken = status
        .source
        .as_ref()
        .and_then(|source| source.broken.as_ref());
    let broken_because = broken.map(ToString::to_string);
    let fruitless = status
        .source
        .as_ref()
        .and_then(|source| source.fruitless.clone());
    let not_obtained = fruitless.and_then(|last| last.reason);
    let renew_at = status.renewal_due(now).map(convert::seconds);
    let trees = status.copies.iter().filter(|copy| copy.is_active()).count();
    let behind = status.behind().count();
    let holding = |version| {
        let copies = status.copies.iter();
        copies.filter(|copy| copy.mark == version).count()
    };
    let versions = status.versions.iter().rev();
    let versions = versions.map(|info| version(info, holding(info.version), now));
    let count = |number| u32::try_from(number).unwrap_or(u32::MAX);
    let (oauth, provider) = match status.source.map(|source| source.supply) {
        Some(Supply::OAuth(given)) => (Some(oauth(given)), None),
        Some(Supply::Provider(given)) => (None, Some(provider(given))),
        None => (None, None),
    };
    v1::Credential {
        versions: versions.collect(),
        name: status.credential.name.into(),
        owner: status.credential.owner.into(),
        audiences: convert::audiences(&status.credential.audiences),
        state: state.into(),
        bindings: status.bindings.into_iter().map(bound).collect(),
        created_at: Some(convert::seconds(status.credential.created_at)),
        rotate_every: status.credential.rotate_every.map(seconds),
        rotate_due,
        expires_at: ends.map(convert::seconds),
        trees: count(trees),
        trees_behind: count(behind),
        broken_because: broken_because.unwrap_or_default(),
        oauth,
        provider,
        renew_at,
        not_obtained_because: not_obtained.map_or_else(String::new, |why| why.to_string()),
    }
}

pub(crate) fn state(status: &CredentialStatus, now: UnixSeconds) -> v1::CredentialState {
    if status
        .source
        .as_ref()
        .is_some_and(|source| source.broken.is_some())
    {
        return v1::CredentialState::Broken;
    }
    let Some(active) = status.active() else {
        return v1::CredentialState::Revoked;
    };
    if let Some(UnixSeconds(ends)) = active.expires_at {
        let left = ends.saturating_sub(now.0);
        let life = ends.saturating_sub(active.state_since.0);
        if left == 0 {
            return v1::CredentialState::Expired;
        }
        if left <= (life / LAST_PART).min(SOON) {
            return v1::CredentialState::Expiring;
        }
    }
    if status.rotate_due().is_some_and(|due| due <= now) {
        return v1::CredentialState::Overdue;
    }
    v1::CredentialState::Ok
}

fn version(info: &CredentialVersion, trees: usize, now: UnixSeconds) -> v1::CredentialVersion {
    let expired = info.expires_at.is_some_and(|at| at <= now);
    let state = match info.state {
        VersionState::Active if expired => v1::VersionState::Expired,
        VersionState::Active => v1::VersionState::Active,
        VersionState::Superseded => v1::VersionState::Superseded,
        VersionState::Revoked => v1::VersionState::Revoked,
    };
    let since = |state| (info.state == state).then(|| convert::seconds(info.state_since));
    v1::CredentialVersion {
        version: info.version.0,
        state: state.into(),
        fingerprint: info.fingerprint.to_string(),
        deposited_at: Some(convert::seconds(info.deposited_at)),
        deposited_by: info.depositor.to_string(),
        expires_at: info.expires_at.map(convert::seconds),
        superseded_at: since(VersionState::Superseded),
        revoked_at: since(VersionState::Revoked),
        trees: u32::try_from(trees).unwrap_or(u32::MAX),
    }
}

fn bound(binding: xylem_vault::Binding) -> v1::CredentialBinding {
    v1::CredentialBinding {
        workflow_type: binding.workflow_type.into(),
        slot: binding.slot.into(),
        created_by: binding.created_by.into(),
        created_at: Some(convert::seconds(binding.created_at)),
    }
}

fn seconds(duration: Duration) -> xylem_proto::Duration {
    xylem_proto::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: 0,
    }
}
