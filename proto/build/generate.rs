//! What only Xylem needs from its contract: `Debug` that leaves secrets out, the list of all rpcs,
//! and a gate in front of every one of them.

use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, MessageDescriptor, MethodDescriptor,
    ServiceDescriptor, Value,
};
use std::fmt::Write as _;

/// The messages and services of one package.
pub(crate) struct Contract {
    messages: Vec<MessageDescriptor>,
    services: Vec<ServiceDescriptor>,
    pool: DescriptorPool,
}

impl Contract {
    pub(crate) fn new(pool: &DescriptorPool, package: &str) -> Result<Self, String> {
        let of_package = |name: &str| name == package;
        let messages: Vec<_> = pool
            .all_messages()
            .filter(|message| of_package(message.package_name()) && !message.is_map_entry())
            .collect();
        let services: Vec<_> = pool
            .services()
            .filter(|service| of_package(service.package_name()))
            .collect();
        if messages.is_empty() || services.is_empty() {
            return Err(format!("package {package} has no messages or no services"));
        }
        Ok(Self {
            messages,
            services,
            pool: pool.clone(),
        })
    }

    /// Messages with a field marked `debug_redact`, in the form prost-build takes paths in.
    pub(crate) fn secret_messages(&self) -> Vec<String> {
        self.secretive()
            .map(|message| format!(".{}", message.full_name()))
            .collect()
    }

    fn secretive(&self) -> impl Iterator<Item = &MessageDescriptor> {
        self.messages
            .iter()
            .filter(|message| message.fields().any(|field| is_secret(&field)))
    }

    pub(crate) fn render(&self) -> String {
        let mut code = self.secret_fields();
        for message in self.secretive() {
            code += &debug_impl(message);
        }
        code += &self.rpc_enum();
        for service in &self.services {
            code += &gated(service);
        }
        code
    }

    pub(crate) fn messages(&self) -> &[MessageDescriptor] {
        &self.messages
    }

    pub(crate) fn methods(&self) -> impl Iterator<Item = MethodDescriptor> + '_ {
        self.services.iter().flat_map(ServiceDescriptor::methods)
    }

    fn secret_fields(&self) -> String {
        let mut fields = String::new();
        for message in self.secretive() {
            for field in message.fields().filter(is_secret) {
                let _ = writeln!(fields, "    ({:?}, {:?}),", message.name(), field.name());
            }
        }
        format!(
            "/// Message and field of everything marked `debug_redact`.\n\
             pub const SECRET_FIELDS: &[(&str, &str)] = &[\n{fields}];\n"
        )
    }

    fn rpc_enum(&self) -> String {
        let mut variants = String::new();
        let mut names = String::new();
        let mut paths = String::new();
        let mut https = String::new();
        let mut all = String::new();
        for method in self.methods() {
            let rpc = method.name();
            let service = method.parent_service().full_name();
            let Binding { verb, path } = &self.http(&method)[0];
            let _ = writeln!(variants, "    /// `{service}/{rpc}`.\n    {rpc},");
            let _ = writeln!(names, "            Self::{rpc} => {rpc:?},");
            let _ = writeln!(paths, "            Self::{rpc} => \"/{service}/{rpc}\",");
            let _ = writeln!(https, "            Self::{rpc} => ({verb:?}, {path:?}),");
            let _ = write!(all, "Self::{rpc}, ");
        }
        format!(
            "/// Every call of the control plane.\n\
             #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]\n\
             pub enum Rpc {{\n{variants}}}\n\
             impl Rpc {{\n\
             /// All of them.\n    pub const ALL: &'static [Self] = &[{all}];\n\
             /// The name within its service.\n    #[must_use]\n    pub const fn name(self) -> &'static str {{\n        match self {{\n{names}        }}\n    }}\n\
             /// The path of a gRPC call.\n    #[must_use]\n    pub const fn grpc_path(self) -> &'static str {{\n        match self {{\n{paths}        }}\n    }}\n\
             /// Method and path template of the REST call.\n    #[must_use]\n    pub const fn http(self) -> (&'static str, &'static str) {{\n        match self {{\n{https}        }}\n    }}\n\
             }}\n"
        )
    }

    /// The `google.api.http` annotation: the binding itself, then additional ones.
    pub(crate) fn http(&self, method: &MethodDescriptor) -> Vec<Binding> {
        let annotation = self
            .pool
            .get_extension_by_name("google.api.http")
            .expect("google/api/annotations.proto is imported");
        let options = method.options();
        let rule = options.get_extension(&annotation);
        let rule = rule.as_message().expect("google.api.http is a message");
        let additional = rule.get_field_by_name("additional_bindings");
        let additional = additional.as_deref().and_then(Value::as_list);
        let additional = additional
            .into_iter()
            .flatten()
            .filter_map(Value::as_message);
        let bindings: Vec<_> = [rule]
            .into_iter()
            .chain(additional)
            .filter_map(binding)
            .collect();
        assert!(
            !bindings.is_empty(),
            "{} has no google.api.http annotation",
            method.full_name()
        );
        bindings
    }
}

/// One REST form of an rpc.
pub(crate) struct Binding {
    pub(crate) verb: String,
    pub(crate) path: String,
}

fn binding(rule: &DynamicMessage) -> Option<Binding> {
    ["get", "put", "post", "delete", "patch"]
        .into_iter()
        .filter(|verb| rule.has_field_by_name(verb))
        .find_map(|verb| {
            Some(Binding {
                verb: verb.to_uppercase(),
                path: text(rule, verb)?,
            })
        })
}

fn text(message: &DynamicMessage, field: &str) -> Option<String> {
    let value = message.get_field_by_name(field)?;
    value.as_str().map(str::to_owned)
}

pub(crate) fn is_secret(field: &FieldDescriptor) -> bool {
    let options = field.options();
    options.get_field_by_name("debug_redact").as_deref() == Some(&Value::Bool(true))
}

fn debug_impl(message: &MessageDescriptor) -> String {
    let name = message.name();
    let mut fields = String::new();
    for field in message.fields() {
        let field_name = field.name();
        let value = if is_secret(&field) {
            "&::core::format_args!(\"[secret]\")".to_owned()
        } else {
            format!("&self.{field_name}")
        };
        let _ = writeln!(fields, "            .field({field_name:?}, {value})");
    }
    format!(
        "impl ::core::fmt::Debug for {name} {{\n\
         fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {{\n\
         f.debug_struct({name:?})\n{fields}            .finish()\n    }}\n}}\n"
    )
}

/// An implementation of the service that asks the gate before each call.
fn gated(service: &ServiceDescriptor) -> String {
    let name = service.name();
    let module = format!("{}_server", snake(name));
    let mut methods = String::new();
    for method in service.methods() {
        let rpc = method.name();
        let function = snake(rpc);
        let input = method.input().name().to_owned();
        let output = if method.is_server_streaming() {
            let stream = format!("{rpc}Stream");
            let _ = writeln!(methods, "    type {stream} = S::{stream};");
            format!("Self::{stream}")
        } else {
            method.output().name().to_owned()
        };
        let _ = writeln!(
            methods,
            "    async fn {function}(&self, request: ::tonic::Request<{input}>) -> ::core::result::Result<::tonic::Response<{output}>, ::tonic::Status> {{\n        \
             self.gate.pass(Rpc::{rpc}, self.service.{function}(request)).await\n    }}"
        );
    }
    format!(
        "#[::tonic::async_trait]\n\
         impl<S: {module}::{name}, G: crate::Gate> {module}::{name} for crate::Gated<S, G> {{\n{methods}}}\n"
    )
}

fn snake(camel: &str) -> String {
    let mut snake = String::new();
    for (at, letter) in camel.char_indices() {
        if letter.is_uppercase() && at > 0 {
            snake.push('_');
        }
        snake.extend(letter.to_lowercase());
    }
    snake
}
