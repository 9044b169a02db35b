//! Writes what is generated from `protos/`: the Rust messages of `crates/server`, and the descriptors that the Python
//! package reads configuration files with, that its client speaks with, and that gRPC's reflection answers with.
//!
//! Run it after a change of a `.proto` file:
//!
//! ```text
//! cargo run --manifest-path protos/generate/Cargo.toml
//! ```
//!
//! With `--check` nothing is written; it fails when a committed file is not what would be written now.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use prost::Message;
use protox::prost_reflect::prost_types::FileDescriptorSet;

/// The files whose messages Python reads; with everything they import.
const CONFIGURATION: [&str; 9] = [
    "servable/saved_model.proto",
    "tensorflow/core/protobuf/config.proto",
    "tensorflow_serving/config/model_server_config.proto",
    "tensorflow_serving/config/monitoring_config.proto",
    "tensorflow_serving/config/platform_config.proto",
    "tensorflow_serving/config/ssl_config.proto",
    "tensorflow_serving/servables/tensorflow/saved_model_bundle_source_adapter.proto",
    "tensorflow_serving/servables/tensorflow/session_bundle_config.proto",
    "tensorflow_serving/servables/tensorflow/thread_pool_factory_config.proto",
];

/// The files whose messages the Python client sends and receives; with everything they import.
const CLIENT: [&str; 6] = [
    "tensorflow_serving/apis/get_model_metadata.proto",
    "tensorflow_serving/apis/get_model_status.proto",
    "tensorflow_serving/apis/inference.proto",
    "tensorflow_serving/apis/model_management.proto",
    "tensorflow_serving/apis/predict.proto",
    "tensorflow_serving/apis/regression.proto",
];

/// The files whose services are answered over gRPC, for reflection; with everything they import.
const SERVED: [&str; 7] = [
    "grpc/health/v1/health.proto",
    "grpc/reflection/v1/reflection.proto",
    "grpc/reflection/v1alpha/reflection.proto",
    "open_inference/inference.proto",
    "tensorflow_serving/apis/model_service.proto",
    "tensorflow_serving/apis/prediction_service.proto",
    "tensorflow_serving/apis/session_service.proto",
];

/// Where the Rust messages go, and where the descriptors go, below the root of the repository.
const RUST: &str = "crates/codec/src/proto";
const DESCRIPTORS: &str = "python/servable/_server/config/descriptors.bin";
const CLIENT_DESCRIPTORS: &str = "python/servable/client/descriptors.bin";
const SERVED_DESCRIPTORS: &str = "crates/server/src/protocol/tfs_grpc/descriptors.bin";

/// Generated files by their path below the root of the repository.
type Outputs = BTreeMap<PathBuf, Vec<u8>>;

fn main() -> ExitCode {
    let check = std::env::args().any(|argument| argument == "--check");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    match generate(&root.join("protos"))
        .and_then(|outputs| if check { compare(&root, &outputs) } else { write(&root, &outputs) })
    {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Generates everything from the definitions below `protos`.
fn generate(protos: &Path) -> Result<Outputs, Box<dyn Error>> {
    let mut outputs = Outputs::new();

    let everything = protox::Compiler::new([protos])?
        .include_imports(true)
        .include_source_info(true) // comments become the documentation of the Rust code
        .open_files(definitions(protos)?)?
        .file_descriptor_set();
    for (name, code) in rust_modules(everything)? {
        outputs.insert(Path::new(RUST).join(name), code.into_bytes());
    }

    let sets =
        [(DESCRIPTORS, &CONFIGURATION[..]), (CLIENT_DESCRIPTORS, &CLIENT[..]), (SERVED_DESCRIPTORS, &SERVED[..])];
    for (path, files) in sets {
        let descriptors = without_source_info(protox::compile(files, [protos])?);
        outputs.insert(path.into(), descriptors.encode_to_vec());
    }
    Ok(outputs)
}

/// The `.proto` files below a directory, sorted, so that the order of a directory listing decides nothing.
fn definitions(directory: &Path) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(definitions(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// One Rust file a package, and the `mod.rs` that nests them as packages nest.
fn rust_modules(descriptors: FileDescriptorSet) -> Result<BTreeMap<String, String>, Box<dyn Error>> {
    let requests = descriptors
        .file
        .into_iter()
        .map(|file| (prost_build::Module::from_protobuf_package_name(file.package()), file))
        .collect();
    let mut modules = prost_build::Config::new()
        .btree_map(["."]) // maps in the order of their keys, so that what is encoded is always the same
        .bytes(["."]) // parts of a request stay in the request's memory
        .generate(requests)?;
    let mut files = BTreeMap::new();
    let mut tree = ModuleTree::default();
    modules.remove(&prost_build::Module::from_protobuf_package_name("google.protobuf")); // prost has these itself
    for (module, code) in modules {
        let name = format!("{}.rs", module.parts().collect::<Vec<_>>().join("."));
        tree.insert(module.parts(), &name);
        files.insert(name, code);
    }
    files.insert("mod.rs".into(), tree.render());
    Ok(files)
}

/// Packages by name, as nested modules.
#[derive(Default)]
struct ModuleTree {
    file: Option<String>,
    children: BTreeMap<String, ModuleTree>,
}

impl ModuleTree {
    fn insert<'a>(&mut self, path: impl Iterator<Item = &'a str>, file: &str) {
        let mut node = self;
        for part in path {
            node = node.children.entry(part.to_owned()).or_default();
        }
        node.file = Some(file.to_owned());
    }

    fn render(&self) -> String {
        let mut lines = vec![
            "//! Protobuf messages, generated from `protos/` by `protos/generate`. Edit them there.".to_owned(),
            "//!".to_owned(),
            "//! On the request path, messages with tensors are decoded and encoded without these types, by".to_owned(),
            "//! [`codec::tensor_proto`](crate::tensor_proto).".to_owned(),
            "#![allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, reason = \"generated code\")]"
                .to_owned(),
            String::new(),
        ];
        self.render_children(&mut lines, 0);
        lines.join("\n") + "\n"
    }

    fn render_children(&self, lines: &mut Vec<String>, depth: usize) {
        for (name, child) in &self.children {
            let indent = "    ".repeat(depth);
            lines.push(format!("{indent}pub mod {name} {{"));
            if let Some(file) = &child.file {
                lines.push(format!("{indent}    include!(\"{file}\");"));
            }
            child.render_children(lines, depth + 1);
            lines.push(format!("{indent}}}"));
        }
    }
}

/// The same descriptors without comments and positions.
fn without_source_info(mut descriptors: FileDescriptorSet) -> FileDescriptorSet {
    for file in &mut descriptors.file {
        file.source_code_info = None;
    }
    descriptors
}

fn write(root: &Path, outputs: &Outputs) -> Result<(), Box<dyn Error>> {
    for stale in stale(root, outputs)? {
        fs::remove_file(root.join(stale))?;
    }
    for (path, content) in outputs {
        let path = root.join(path);
        fs::create_dir_all(path.parent().expect("a file lies in a directory"))?;
        fs::write(path, content)?;
    }
    Ok(())
}

fn compare(root: &Path, outputs: &Outputs) -> Result<(), Box<dyn Error>> {
    let mut differing = stale(root, outputs)?;
    for (path, content) in outputs {
        if fs::read(root.join(path)).ok().as_ref() != Some(content) {
            differing.push(path.clone());
        }
    }
    if differing.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = differing.iter().map(|path| format!("  {}", path.display())).collect();
    Err(format!("not what protos/ says now; run `make protos`:\n{}", names.join("\n")).into())
}

/// Files in the directory of the Rust messages that are no longer generated.
fn stale(root: &Path, outputs: &Outputs) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let mut found = Vec::new();
    if let Ok(entries) = fs::read_dir(root.join(RUST)) {
        for entry in entries {
            let path = Path::new(RUST).join(entry?.file_name());
            if !outputs.contains_key(&path) {
                found.push(path);
            }
        }
    }
    Ok(found)
}
