//! Waiting for a condition, bounded, and saying what was seen when it does not come.

use anyhow::bail;
use std::{fmt::Debug, time::Duration};
use tokio::time::{Instant, sleep};

/// How long tests wait before they call a condition failed; a slow machine needs most of it.
const PATIENCE: Duration = Duration::from_secs(60);

/// Asks again and again until `is_so` holds of the answer.
///
/// # Errors
/// It did not hold within a minute; the error shows the last answer.
pub async fn eventually<T: Debug, F: Future<Output = anyhow::Result<T>>>(
    what: &str,
    ask: impl FnMut() -> F,
    is_so: impl Fn(&T) -> bool,
) -> anyhow::Result<T> {
    eventually_within(PATIENCE, what, ask, is_so).await
}

/// The same with another bound.
///
/// # Errors
/// It did not hold within the bound; the error shows the last answer.
pub async fn eventually_within<T: Debug, F: Future<Output = anyhow::Result<T>>>(
    patience: Duration,
    what: &str,
    mut ask: impl FnMut() -> F,
    is_so: impl Fn(&T) -> bool,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + patience;
    loop {
        let answer = ask().await;
        match &answer {
            Ok(seen) if is_so(seen) => return answer,
            _ if Instant::now() >= deadline => {
                bail!("{what}: not so after {patience:?}; last seen: {answer:?}")
            }
            _ => sleep(Duration::from_millis(50)).await,
        }
    }
}
