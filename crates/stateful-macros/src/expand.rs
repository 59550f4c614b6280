//! From an impl block with `#[workflow_methods]` to the same block with a node's handlers.

use crate::declaration::Declaration;
use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use syn::{FnArg, ImplItem, ImplItemFn, ItemImpl, Type, parse_quote};

/// The handlers of every StatefulWorkflow: (method, attribute, Temporal name).
const HANDLERS: [(&str, &str, &str); 5] = [
    ("api_token", "signal", "apiToken"),
    ("api_token_status", "query", "apiToken"),
    ("set_api_url", "signal", "apiUrl"),
    ("api_url", "query", "apiUrl"),
    ("child_list", "query", "children"),
];

pub(crate) fn expand(arguments: TokenStream, item: TokenStream) -> syn::Result<TokenStream> {
    let declaration = Declaration::parse(arguments)?;
    let mut block: ItemImpl = syn::parse2(item).map_err(|error| {
        syn::Error::new(
            error.span(),
            "#[stateful] belongs on the impl block of a workflow, above #[workflow_methods]",
        )
    })?;
    if !block
        .attrs
        .iter()
        .any(|attribute| last_is(attribute, "workflow_methods"))
    {
        return Err(syn::Error::new_spanned(
            &block.self_ty,
            "#[stateful] needs #[workflow_methods] below it on the same impl block",
        ));
    }
    check_names(&block)?;
    wrap_run(&mut block)?;
    add_handlers(&mut block);
    let definition = definition(&block, &declaration)?;
    Ok(quote! { #block #definition })
}

fn last_is(attribute: &syn::Attribute, name: &str) -> bool {
    let last = attribute.path().segments.last();
    last.is_some_and(|segment| segment.ident == name)
}

/// A handler of the author's must not take a name that is part of the contract.
fn check_names(block: &ItemImpl) -> syn::Result<()> {
    for item in &block.items {
        let ImplItem::Fn(method) = item else { continue };
        for (name, kind, temporal_name) in HANDLERS {
            let same_method = method.sig.ident == name;
            let same_handler = method.attrs.iter().any(|attribute| {
                last_is(attribute, kind) && named(attribute).as_deref() == Some(temporal_name)
            });
            if same_method || same_handler {
                return Err(syn::Error::new_spanned(
                    &method.sig.ident,
                    format!(
                        "#[stateful] provides the {kind} `{temporal_name}` as the method `{name}`: choose another name"
                    ),
                ));
            }
        }
    }
    Ok(())
}

/// The value of `name = "..."` in a handler attribute.
fn named(attribute: &syn::Attribute) -> Option<String> {
    let mut name = None;
    attribute.meta.require_list().ok()?;
    let _ = attribute.parse_nested_meta(|meta| {
        let value: syn::LitStr = meta.value()?.parse()?;
        name = Some(value.value());
        Ok(())
    });
    name
}

/// The author's `run` becomes a private function; the workflow's `run` drives it together with
/// the node, and ends when both have nothing left to do.
fn wrap_run(block: &mut ItemImpl) -> syn::Result<()> {
    let runs = block.items.iter_mut().find_map(|item| match item {
        ImplItem::Fn(method) if method.attrs.iter().any(|a| last_is(a, "run")) => Some(method),
        _ => None,
    });
    let Some(author) = runs else {
        return Ok(()); // #[workflow_methods] reports a missing run.
    };
    let Some(FnArg::Typed(context)) = author.sig.inputs.first() else {
        return Err(syn::Error::new_spanned(
            &author.sig,
            "write run as `async fn run(ctx: &mut WorkflowContext<Self>, ...) -> WorkflowResult<...>`",
        ));
    };
    let context_type = context.ty.clone();
    let mut wrapper = author.clone();
    author.attrs.retain(|attribute| !last_is(attribute, "run"));
    author.sig.ident = format_ident!("__stateful_run");
    author.vis = syn::Visibility::Inherited;

    let mut names = Vec::new();
    for (index, argument) in wrapper.sig.inputs.iter_mut().enumerate() {
        if let FnArg::Typed(argument) = argument {
            let name = format_ident!("argument{index}");
            *argument.pat = parse_quote!(#name);
            names.push(name);
        }
    }
    if let Some(FnArg::Typed(argument)) = wrapper.sig.inputs.first_mut() {
        *argument.ty = *context_type;
    }
    let context = &names[0];
    wrapper.block = parse_quote!({
        let __node = ::core::clone::Clone::clone(&*#context);
        ::xylem_stateful::__private::drive(__node, Self::__stateful_run(#(#names),*)).await
    });
    block.items.push(ImplItem::Fn(wrapper));
    Ok(())
}

fn add_handlers(block: &mut ItemImpl) {
    let handlers: [ImplItemFn; 5] = [
        parse_quote! {
            /// The signal `apiToken`: a grant, or a raw token where intake is on.
            #[signal(name = "apiToken")]
            pub fn api_token(
                &mut self,
                ctx: &mut ::xylem_stateful::__private::SyncWorkflowContext<Self>,
                payloads: ::xylem_stateful::__private::RawValue,
            ) {
                ::xylem_stateful::__private::api_token(ctx, payloads);
            }
        },
        parse_quote! {
            /// The query `apiToken`: what this node holds; never a token.
            #[query(name = "apiToken")]
            pub fn api_token_status(
                &self,
                ctx: &::xylem_stateful::__private::WorkflowContextView,
                _payloads: ::xylem_stateful::__private::RawValue,
            ) -> ::xylem_stateful::__private::Value {
                ::xylem_stateful::__private::api_token_status(ctx)
            }
        },
        parse_quote! {
            /// The signal `apiUrl`: this workflow's own API endpoint.
            #[signal(name = "apiUrl")]
            pub fn set_api_url(
                &mut self,
                ctx: &mut ::xylem_stateful::__private::SyncWorkflowContext<Self>,
                payloads: ::xylem_stateful::__private::RawValue,
            ) {
                ::xylem_stateful::__private::set_api_url(ctx, payloads);
            }
        },
        parse_quote! {
            /// The query `apiUrl`.
            #[query(name = "apiUrl")]
            pub fn api_url(
                &self,
                ctx: &::xylem_stateful::__private::WorkflowContextView,
                _payloads: ::xylem_stateful::__private::RawValue,
            ) -> ::xylem_stateful::__private::Value {
                ::xylem_stateful::__private::api_url(ctx)
            }
        },
        parse_quote! {
            /// The query `children`.
            #[query(name = "children")]
            pub fn child_list(
                &self,
                ctx: &::xylem_stateful::__private::WorkflowContextView,
                _payloads: ::xylem_stateful::__private::RawValue,
            ) -> ::xylem_stateful::__private::Value {
                ::xylem_stateful::__private::child_list(ctx)
            }
        },
    ];
    block.items.extend(handlers.into_iter().map(ImplItem::Fn));
}

/// The declaration goes on the workflow's type and on the marker that names its `run` in calls
/// such as `ctx.start_child(Deploy::run, ..)`. The marker is spelled out as the SDK's macro spells
/// it: through `HasWorkflowDefinition` two workflows of two crates would count as overlapping.
fn definition(block: &ItemImpl, declaration: &Declaration) -> syn::Result<TokenStream> {
    let workflow = &block.self_ty;
    let marker = marker(block)?;
    let Declaration { slots, transit } = declaration;
    let body = quote! {
        const SLOTS: &'static [&'static str] = &[#(#slots),*];
        const TRANSIT: &'static [&'static str] = &[#(#transit),*];
    };
    Ok(quote! {
        impl ::xylem_stateful::StatefulWorkflow for #workflow { #body }
        impl ::xylem_stateful::StatefulWorkflow for #marker { #body }
    })
}

/// `deploy_all::Run` for `DeployAll::run`.
fn marker(block: &ItemImpl) -> syn::Result<syn::Path> {
    let Type::Path(workflow) = &*block.self_ty else {
        return Err(syn::Error::new_spanned(
            &block.self_ty,
            "#[stateful] needs an impl block of a plain type",
        ));
    };
    let mut path = workflow.path.clone();
    let Some(last) = path.segments.last_mut() else {
        return Err(syn::Error::new_spanned(
            workflow,
            "#[stateful] needs a named type",
        ));
    };
    let module = snake_case(&last.ident.to_string());
    last.ident = format_ident!("{module}");
    let run = block.items.iter().find_map(|item| match item {
        ImplItem::Fn(method) if method.attrs.iter().any(|a| last_is(a, "run")) => Some(method),
        _ => None,
    });
    let run = run.map_or_else(|| "run".to_owned(), |method| method.sig.ident.to_string());
    let marker = format_ident!("{}", pascal_case(&run));
    path.segments.push(syn::PathSegment::from(marker));
    Ok(path)
}

fn snake_case(name: &str) -> String {
    let mut snake = String::new();
    for (index, letter) in name.chars().enumerate() {
        if letter.is_uppercase() && index > 0 {
            snake.push('_');
        }
        snake.extend(letter.to_lowercase());
    }
    snake
}

fn pascal_case(name: &str) -> String {
    let words = name.split('_').map(|word| {
        let mut letters = word.chars();
        let first = letters.next().into_iter().flat_map(char::to_uppercase);
        first.chain(letters).collect::<String>()
    });
    words.collect()
}
