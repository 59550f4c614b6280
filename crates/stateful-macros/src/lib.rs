//! The `#[stateful]` attribute. Documented where it is re-exported: `xylem_stateful::stateful`.

mod declaration;
mod expand;

use proc_macro::TokenStream;

/// See `xylem_stateful::stateful`.
#[proc_macro_attribute]
pub fn stateful(arguments: TokenStream, item: TokenStream) -> TokenStream {
    expand::expand(arguments.into(), item.into())
        .unwrap_or_else(syn::Error::into_compile_error)
        .into()
}
