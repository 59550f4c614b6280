//! One descriptor set, four outputs: messages with tonic services, their JSON form, the REST
//! routes with the OpenAPI document, and what only Xylem needs (see `generate`).

use std::{
    env,
    error::Error,
    fs,
    path::{Path, PathBuf},
};

#[path = "build/generate.rs"]
mod generate;
#[path = "build/openapi.rs"]
mod openapi;

const PACKAGE: &str = "xylem.v1";
const FILES: [&str; 15] = [
    "xylem/v1/access.proto",
    "xylem/v1/accounts.proto",
    "xylem/v1/agents.proto",
    "xylem/v1/alerts.proto",
    "xylem/v1/audit.proto",
    "xylem/v1/common.proto",
    "xylem/v1/credentials.proto",
    "xylem/v1/grants.proto",
    "xylem/v1/policies.proto",
    "xylem/v1/system.proto",
    "xylem/v1/tokens.proto",
    "xylem/v1/tools.proto",
    "xylem/v1/trees.proto",
    "xylem/v1/usage.proto",
    "xylem/v1/workers.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=xylem");
    println!("cargo::rerun-if-changed=google");
    println!("cargo::rerun-if-changed=build");
    println!("cargo::rerun-if-changed=build.rs");
    let out = PathBuf::from(env::var("OUT_DIR")?);

    let mut compiler = protox::Compiler::new(["."])?;
    compiler.include_imports(true).include_source_info(true);
    compiler.open_files(FILES)?;
    let descriptors = compiler.encode_file_descriptor_set();
    let contract = generate::Contract::new(&compiler.descriptor_pool(), PACKAGE)?;

    tonic_prost_build::configure()
        .build_transport(false)
        .compile_well_known_types(true)
        .extern_path(".google.protobuf", "::pbjson_types")
        .skip_debug(contract.secret_messages())
        .compile_fds(compiler.file_descriptor_set())?;
    pbjson_build::Builder::new()
        .register_descriptors(&descriptors)?
        .extern_path(".google.protobuf", "::pbjson_types")
        .build(&[format!(".{PACKAGE}")])?;
    rest(&descriptors, &out)?;
    let document = out.join("xylem.v1.openapi.json");
    let completed = openapi::complete(&contract, &fs::read_to_string(&document)?)?;
    fs::write(document, completed)?;
    fs::write(out.join("xylem.v1.contract.rs"), contract.render())?;
    Ok(())
}

fn rest(descriptors: &[u8], out: &Path) -> Result<(), Box<dyn Error>> {
    use rest_over_grpc::build::{DescriptorOptions, Generator, OpenApiInfo, ServiceDefinition};

    let options = DescriptorOptions::new()
        .package(format!(".{PACKAGE}"))
        .extern_path(".google.protobuf", "::pbjson_types");
    let info = OpenApiInfo::new("Xylem control plane", env::var("CARGO_PKG_VERSION")?);
    Generator::builder()
        .emit_openapi_spec(Some(info))
        .build()
        .add_all(ServiceDefinition::from_fds(descriptors, &options)?)
        .write(out)?;
    Ok(())
}
