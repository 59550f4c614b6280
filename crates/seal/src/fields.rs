//! What something is bound to.

/// An injective encoding of labelled fields: what a seal or a ciphertext is bound to. Each field is
/// preceded by its length, so that no two lists of fields have the same bytes.
pub struct Fields(Vec<u8>);

impl Fields {
    /// Begins with a label: no two uses share one.
    #[must_use]
    pub fn new(label: &'static str) -> Self {
        Self(Vec::with_capacity(256)).text(label)
    }

    /// What is sealed, or bound to a ciphertext.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Adds bytes.
    #[must_use]
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0
            .extend_from_slice(&(bytes.len() as u64).to_be_bytes());
        self.0.extend_from_slice(bytes);
        self
    }

    /// Adds text.
    #[must_use]
    pub fn text(self, text: &str) -> Self {
        self.bytes(text.as_bytes())
    }

    /// Adds a number.
    #[must_use]
    pub fn number(self, number: impl Into<u64>) -> Self {
        self.bytes(&number.into().to_be_bytes())
    }

    /// Adds text that may be absent; absent and empty differ.
    #[must_use]
    pub fn optional(self, text: Option<&str>) -> Self {
        match text {
            Some(text) => self.number(1_u32).text(text),
            None => self.number(0_u32),
        }
    }

    /// Adds a list of texts, preceded by its length.
    #[must_use]
    pub fn list<'a>(self, items: impl ExactSizeIterator<Item = &'a str>) -> Self {
        let counted = self.number(items.len() as u64);
        items.fold(counted, Self::text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_injective() {
        let bytes = |fields: Fields| fields.0;
        assert_ne!(
            bytes(Fields::new("x").text("ab").text("c")),
            bytes(Fields::new("x").text("a").text("bc"))
        );
        assert_ne!(
            bytes(Fields::new("x").optional(None).text("")),
            bytes(Fields::new("x").optional(Some("")))
        );
        assert_ne!(
            bytes(
                Fields::new("x")
                    .list(["a"].into_iter())
                    .list([].into_iter())
            ),
            bytes(
                Fields::new("x")
                    .list([].into_iter())
                    .list(["a"].into_iter())
            )
        );
    }
}
