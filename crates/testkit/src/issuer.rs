//! A tree without a control plane: an issuer key in the test's own hands.

use std::time::{Duration, SystemTime};
use temporalio_client::{
    Client, UntypedSignal, UntypedWorkflow, WorkflowQueryOptions, WorkflowSignalOptions,
    WorkflowStartOptions,
};
use temporalio_common::{
    data_converters::RawValue,
    protos::temporal::api::common::v1::{Header, Payload},
};
use xylem_grant::{Claims, IssuerKey, IssuerSet, UnixSeconds, VerifiedGrant};
use xylem_ids::{Epoch, Order, Serial, Slot, TreeId, Version};
use xylem_stateful::{
    Status,
    header::{PROTOCOL, Slots, TREE_HEADER, TreeHeader},
};

/// A value as the SDK's default converter writes it.
#[must_use]
pub fn json_payload(value: &impl serde::Serialize) -> Payload {
    Payload {
        metadata: [("encoding".to_owned(), b"json/plain".to_vec())].into(),
        data: serde_json::to_vec(value).unwrap_or_default(),
        ..Payload::default()
    }
}

/// A root and the key that signs its grants.
pub struct BareTree {
    client: Client,
    issuer: IssuerKey,
    tree: TreeId,
}

impl BareTree {
    /// Starts a root workflow with the header that a control plane would give it.
    ///
    /// # Errors
    /// The server refused the start.
    pub async fn start(
        client: &Client,
        task_queue: &str,
        workflow_type: &str,
        workflow_id: &str,
        input: &impl serde::Serialize,
    ) -> anyhow::Result<Self> {
        let options = WorkflowStartOptions::new(task_queue, workflow_id).build();
        Self::start_with(client, options, workflow_type, input, true).await
    }

    /// The same where the search attribute is not registered.
    ///
    /// # Errors
    /// The server refused the start.
    pub async fn without_search_attribute(
        client: &Client,
        task_queue: &str,
        workflow_type: &str,
        workflow_id: &str,
        input: &impl serde::Serialize,
    ) -> anyhow::Result<Self> {
        let options = WorkflowStartOptions::new(task_queue, workflow_id).build();
        Self::start_with(client, options, workflow_type, input, false).await
    }

    /// The same with start options of the test's own, such as a retry policy.
    ///
    /// # Errors
    /// The server refused the start.
    pub async fn start_with(
        client: &Client,
        mut options: WorkflowStartOptions,
        workflow_type: &str,
        input: &impl serde::Serialize,
        search_attribute: bool,
    ) -> anyhow::Result<Self> {
        let issuer = IssuerKey::generate(1)?;
        let header = TreeHeader {
            protocol: PROTOCOL,
            tree: None,
            issuers: IssuerSet::new([issuer.public().clone()]),
            slots: Slots::Declared,
            grants: Vec::new(),
            search_attribute,
            intake: Some(false),
        };
        let fields = [(TREE_HEADER.to_owned(), json_payload(&header))].into();
        options.header = Some(Header { fields });
        let workflow_id = options.workflow_id.clone();
        let handle = client
            .start_workflow(
                UntypedWorkflow::new(workflow_type),
                RawValue::new(vec![json_payload(input)]),
                options,
            )
            .await?;
        let run_id = handle.run_id().unwrap_or_default();
        Ok(Self {
            client: client.clone(),
            issuer,
            tree: TreeId {
                namespace: "default".parse()?,
                workflow_id: workflow_id.parse()?,
                first_run_id: run_id.parse()?,
            },
        })
    }

    /// What a grant of this tree says by default: valid for an hour.
    ///
    /// # Errors
    /// None in practice: the constants in it are valid.
    pub fn claims(&self, version: u32) -> anyhow::Result<Claims> {
        let now = UnixSeconds::from(SystemTime::now());
        Ok(Claims {
            tree: self.tree.clone(),
            slot: Slot::default_slot(),
            order: Order {
                epoch: Epoch(1),
                version: Version(version),
                serial: Serial(1),
            },
            issued_at: now,
            expires_at: now.plus(Duration::from_secs(3600)),
            audiences: vec!["https://api.acme.example".parse()?],
            fingerprint: "0123456789abcdef".parse()?,
            exposed: false,
            retires: Vec::new(),
        })
    }

    /// Signs a grant of a version.
    ///
    /// # Errors
    /// The signer failed.
    pub fn grant(&self, version: u32) -> anyhow::Result<VerifiedGrant> {
        Ok(self.issuer.issue(self.claims(version)?)?)
    }

    /// The key that signs.
    #[must_use]
    pub fn issuer(&self) -> &IssuerKey {
        &self.issuer
    }

    /// Signals `apiToken` to one node of the tree.
    ///
    /// # Errors
    /// The server refused the signal.
    pub async fn signal(&self, workflow_id: &str, grant: &VerifiedGrant) -> anyhow::Result<()> {
        let payloads = vec![json_payload(&grant.as_str())];
        signal(&self.client, workflow_id, "apiToken", payloads).await
    }

    /// Signals the next version to the root.
    ///
    /// # Errors
    /// The server refused the signal.
    pub async fn rotate(&self, version: u32) -> anyhow::Result<()> {
        let grant = self.grant(version)?;
        self.signal(self.tree.workflow_id.as_str(), &grant).await
    }

    /// The version that a node holds in the slot `default`.
    ///
    /// # Errors
    /// The node did not answer.
    pub async fn version(&self, workflow_id: &str) -> anyhow::Result<Option<u32>> {
        let status = status(&self.client, workflow_id).await?;
        let slot = status.slots.get(&Slot::default_slot());
        let grant = slot.and_then(|slot| slot.grant.as_ref());
        Ok(grant.map(|grant| grant.version.0))
    }
}

/// Sends any signal to a workflow.
///
/// # Errors
/// The server refused the signal.
pub async fn signal(
    client: &Client,
    workflow_id: &str,
    name: &str,
    payloads: Vec<Payload>,
) -> anyhow::Result<()> {
    let handle = client.get_workflow_handle::<UntypedWorkflow>(workflow_id);
    handle
        .signal(
            UntypedSignal::new(name),
            RawValue::new(payloads),
            WorkflowSignalOptions::default(),
        )
        .await?;
    Ok(())
}

/// Asks a workflow a query and reads the answer as JSON.
///
/// # Errors
/// The workflow did not answer, or not with JSON.
pub async fn query(
    client: &Client,
    workflow_id: &str,
    name: &str,
) -> anyhow::Result<serde_json::Value> {
    let handle = client.get_workflow_handle::<UntypedWorkflow>(workflow_id);
    let answer = handle
        .query(
            temporalio_client::UntypedQuery::new(name),
            RawValue::new(Vec::new()),
            WorkflowQueryOptions::default(),
        )
        .await?;
    match answer.payloads.first() {
        // The converter writes `null` as a payload without data.
        None => Ok(serde_json::Value::Null),
        Some(payload) if payload.data.is_empty() => Ok(serde_json::Value::Null),
        Some(payload) => Ok(serde_json::from_slice(&payload.data)?),
    }
}

/// The answer of a node to the query `apiToken`.
///
/// # Errors
/// The workflow did not answer, or not with a status.
pub async fn status(client: &Client, workflow_id: &str) -> anyhow::Result<Status> {
    Ok(serde_json::from_value(
        query(client, workflow_id, "apiToken").await?,
    )?)
}
