//! Where a page of tools ended, as whoever asked carries it to the next one.

use crate::{Invalid, RegistryError, ToolFilter, ToolSeal, ToolState, Tools};
use xylem_ids::{AgentId, Namespace, ToolName, ToolTag};
use xylem_seal::{CryptoError, Fields};

/// A question whose answer has pages.
///
/// A page can end at a tool that its reader may not know of. So the place is told as opaque text, which
/// is good for this question alone, and the same each time.
#[derive(Debug, Clone, Copy)]
pub struct Listing<'a> {
    /// Where the tools are.
    pub namespace: &'a Namespace,
    /// Who asks; none where that may see all tools, who all get the same pages.
    pub reader: Option<&'a AgentId>,
    /// What for.
    pub filter: &'a ToolFilter,
}

impl Listing<'_> {
    fn fields(&self) -> Fields {
        let filter = self.filter;
        let words = filter.lower_words().iter().map(String::as_str);
        let tags = filter.tags.iter().map(ToolTag::as_str);
        Fields::new("tool page")
            .text(self.namespace.as_str())
            .optional(self.reader.map(AgentId::as_str))
            .list(words)
            .list(tags)
            .optional(filter.state.map(ToolState::code))
            .optional(filter.owner.as_ref().map(AgentId::as_str))
    }
}

impl Tools {
    /// Names the page after the one that ended at this tool.
    ///
    /// # Errors
    /// The cryptographic library failed.
    pub fn page_token(
        &self,
        listing: &Listing<'_>,
        last: &ToolName,
    ) -> Result<String, RegistryError> {
        Ok(self.seal.page_token(listing, last)?)
    }

    /// The tool after which the page begins.
    ///
    /// # Errors
    /// The token is not one that a page of this listing came with.
    pub fn page_start(
        &self,
        listing: &Listing<'_>,
        token: &str,
    ) -> Result<ToolName, RegistryError> {
        Ok(self.seal.page_start(listing, token)?)
    }
}

impl ToolSeal {
    fn page_token(&self, listing: &Listing<'_>, last: &ToolName) -> Result<String, CryptoError> {
        self.pages.seal(&listing.fields(), last.as_str())
    }

    fn page_start(&self, listing: &Listing<'_>, token: &str) -> Result<ToolName, Invalid> {
        let last = self.pages.open(&listing.fields(), token);
        let last = last.and_then(|last| last.parse().ok());
        let rule = "one that a page of the same list came with: begin again without it";
        last.ok_or(Invalid::new("page_token", rule))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use xylem_seal::SubKey;

    fn seal(secret: u8) -> ToolSeal {
        ToolSeal::new(&SubKey::from_secret(&[secret; 32], "registry").unwrap()).unwrap()
    }

    #[test]
    fn a_token_is_good_for_its_own_listing_alone() {
        let (here, there) = ("default".parse().unwrap(), "other".parse().unwrap());
        let one: AgentId = "one".parse().unwrap();
        let two: AgentId = "two".parse().unwrap();
        let none = ToolFilter::default();
        let listing = Listing {
            namespace: &here,
            reader: Some(&one),
            filter: &none,
        };
        let last = "acme.deploy".parse().unwrap();
        let token = seal(1).page_token(&listing, &last).unwrap();
        assert_eq!(token, seal(1).page_token(&listing, &last).unwrap());
        assert_eq!(seal(1).page_start(&listing, &token).unwrap(), last);
        let filter = |change: fn(&mut ToolFilter)| {
            let mut filter = ToolFilter::default();
            change(&mut filter);
            filter
        };
        let filters = [
            ToolFilter::words("build").unwrap(),
            filter(|it| it.tags = ["build".parse().unwrap()].into()),
            filter(|it| it.state = Some(ToolState::Proposed)),
            filter(|it| it.owner = Some("two".parse().unwrap())),
        ];
        let mut others = vec![
            Listing {
                namespace: &there,
                ..listing
            },
            Listing {
                reader: Some(&two),
                ..listing
            },
            Listing {
                reader: None,
                ..listing
            },
        ];
        others.extend(filters.iter().map(|filter| Listing { filter, ..listing }));
        for other in &others {
            let refused = seal(1).page_start(other, &token).unwrap_err();
            assert_eq!(refused.field(), "page_token", "{other:?}");
        }
        assert!(seal(2).page_start(&listing, &token).is_err());
        assert!(seal(1).page_start(&listing, "acme.deploy").is_err());
    }
}
