//! The arguments: `slots("default"), transit("github")`.

use proc_macro2::TokenStream;
use syn::{
    LitStr, Token,
    parse::{Parse, ParseStream, Parser},
    punctuated::Punctuated,
};

/// The slots a workflow type declares.
#[derive(Default)]
pub(crate) struct Declaration {
    pub(crate) slots: Vec<LitStr>,
    pub(crate) transit: Vec<LitStr>,
}

struct List {
    name: syn::Ident,
    values: Punctuated<LitStr, Token![,]>,
}

impl Parse for List {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let name = input.parse()?;
        let content;
        syn::parenthesized!(content in input);
        Ok(Self {
            name,
            values: Punctuated::parse_terminated(&content)?,
        })
    }
}

impl Declaration {
    pub(crate) fn parse(arguments: TokenStream) -> syn::Result<Self> {
        let lists = Punctuated::<List, Token![,]>::parse_terminated.parse2(arguments)?;
        let mut declaration = Self::default();
        for list in lists {
            let target = match list.name.to_string().as_str() {
                "slots" => &mut declaration.slots,
                "transit" => &mut declaration.transit,
                _ => {
                    return Err(syn::Error::new_spanned(
                        list.name,
                        "unknown argument: write #[stateful(slots(\"default\"), transit(\"github\"))]",
                    ));
                }
            };
            target.extend(list.values);
        }
        declaration.check()?;
        Ok(declaration)
    }

    fn check(&self) -> syn::Result<()> {
        let mut seen = Vec::new();
        for slot in self.slots.iter().chain(&self.transit) {
            let value = slot.value();
            if !is_slot(&value) {
                return Err(syn::Error::new_spanned(
                    slot,
                    "a slot is 1 to 40 characters of a-z, 0-9, '-' and '_', beginning with a letter or digit",
                ));
            }
            if seen.contains(&value) {
                return Err(syn::Error::new_spanned(
                    slot,
                    "this slot is named twice: a type either uses a slot (slots) or only passes it on (transit)",
                ));
            }
            seen.push(value);
        }
        Ok(())
    }
}

/// The rule of `xylem_ids::Slot`, which a macro crate cannot depend on without pulling the
/// library into every build of the compiler plug-in.
fn is_slot(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    (1..=40).contains(&text.len()) && !text.starts_with(['-', '_']) && text.chars().all(inner)
}
