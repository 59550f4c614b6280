//! Between the contract's messages and the types of `ids`.

use crate::Error;
use std::time::SystemTime;
use xylem_ids::{Epoch, Order, Serial, TreeId, Version};
use xylem_proto::v1;

/// Reads an identifier that the control plane sent.
pub(crate) fn id<T: TryFrom<String>>(text: String, what: &'static str) -> Result<T, Error> {
    T::try_from(text).map_err(|_| Error::Unintelligible(what))
}

pub(crate) fn ids<T: TryFrom<String>>(
    texts: Vec<String>,
    what: &'static str,
) -> Result<Vec<T>, Error> {
    texts.into_iter().map(|text| id(text, what)).collect()
}

pub(crate) fn texts<T: Into<String>>(ids: Vec<T>) -> Vec<String> {
    ids.into_iter().map(Into::into).collect()
}

pub(crate) fn order(order: v1::Order) -> Order {
    Order {
        epoch: Epoch(order.epoch),
        version: Version(order.version),
        serial: Serial(order.serial),
    }
}

pub(crate) fn tree(tree: Option<v1::TreeId>) -> Result<TreeId, Error> {
    let tree = tree.ok_or(Error::Unintelligible("tree"))?;
    Ok(TreeId {
        namespace: id(tree.namespace, "namespace")?,
        workflow_id: id(tree.workflow_id, "workflow id")?,
        first_run_id: id(tree.first_run_id, "run id")?,
    })
}

pub(crate) fn time(at: Option<xylem_proto::Timestamp>) -> Result<SystemTime, Error> {
    const WHAT: Error = Error::Unintelligible("time");
    let at = at.ok_or(WHAT)?;
    let seconds = u64::try_from(at.seconds).map_err(|_| WHAT)?;
    let nanos = u32::try_from(at.nanos).map_err(|_| WHAT)?;
    SystemTime::UNIX_EPOCH
        .checked_add(std::time::Duration::new(seconds, nanos.min(999_999_999)))
        .ok_or(WHAT)
}

pub(crate) fn duration(duration: std::time::Duration) -> xylem_proto::Duration {
    xylem_proto::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or(0),
    }
}
