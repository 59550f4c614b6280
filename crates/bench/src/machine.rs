//! Where a benchmark ran.

use serde::Serialize;
use std::{env::consts, fmt, thread};

/// What a figure depends on most.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Machine {
    /// Cores this process may use; 0 where the system does not say.
    pub cores: usize,
    /// The processor's name, where the system says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub processor: Option<String>,
    /// Operating system and architecture.
    pub platform: String,
}

impl Machine {
    /// This one.
    #[must_use]
    pub fn this() -> Self {
        Self {
            cores: thread::available_parallelism().map_or(0, Into::into),
            processor: std::fs::read_to_string("/proc/cpuinfo")
                .ok()
                .and_then(|text| processor(&text)),
            platform: format!("{} {}", consts::OS, consts::ARCH),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} cores, {}", self.cores, self.platform)?;
        self.processor
            .iter()
            .try_for_each(|name| write!(f, ", {name}"))
    }
}

/// From Linux's `/proc/cpuinfo`.
fn processor(text: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    let (_, name) = line.split_once(':')?;
    Some(name.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_is_read_where_it_is_named() {
        let text = "processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\n";
        assert_eq!(processor(text).as_deref(), Some("Some CPU @ 2 GHz"));
        assert_eq!(processor("processor: 0\n"), None);
        assert!(Machine::this().to_string().contains("cores"));
    }
}
