//! Generates code from `protos/`: the Rust messages of `crates/codec`, and three descriptor sets. The Python package
//! reads configuration files with the first, and its client uses the second. gRPC reflection answers with the third.
//!
//! Run it after a change of a `.proto` file:
//!
//! ```text
//! cargo run --manifest-path protos/generate/Cargo.toml
//! ```
//!
//! With `--check` it writes nothing, and fails if a committed file differs from the generated one.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use prost::Message;
use protox::prost_reflect::prost_types::{DescriptorProto, FileDescriptorSet};

/// The files whose messages Python reads. Their imports are included.
const CONFIGURATION: [&str; 10] = [
    "servable/saved_model.proto",
    "tensorflow/core/protobuf/config.proto",
    "tensorflow_serving/apis/get_model_metadata.proto",
    "tensorflow_serving/config/model_server_config.proto",
    "tensorflow_serving/config/monitoring_config.proto",
    "tensorflow_serving/config/platform_config.proto",
    "tensorflow_serving/config/ssl_config.proto",
    "tensorflow_serving/servables/tensorflow/saved_model_bundle_source_adapter.proto",
    "tensorflow_serving/servables/tensorflow/session_bundle_config.proto",
    "tensorflow_serving/servables/tensorflow/thread_pool_factory_config.proto",
];

/// The files whose messages the Python client sends and receives. Their imports are included.
const CLIENT: [&str; 6] = [
    "tensorflow_serving/apis/get_model_metadata.proto",
    "tensorflow_serving/apis/get_model_status.proto",
    "tensorflow_serving/apis/inference.proto",
    "tensorflow_serving/apis/model_management.proto",
    "tensorflow_serving/apis/predict.proto",
    "tensorflow_serving/apis/regression.proto",
];

/// The files whose services the server offers over gRPC, for reflection. Their imports are included.
const SERVED: [&str; 7] = [
    "grpc/health/v1/health.proto",
    "grpc/reflection/v1/reflection.proto",
    "grpc/reflection/v1alpha/reflection.proto",
    "open_inference/inference.proto",
    "tensorflow_serving/apis/model_service.proto",
    "tensorflow_serving/apis/prediction_service.proto",
    "tensorflow_serving/apis/session_service.proto",
];

/// The files whose messages Rust uses, beside those in [`SERVED`]. A message that none of these files needs, such as
/// the tree below `ConfigProto`, is not generated.
const RUST_ONLY: [&str; 4] = [
    "tensorflow/core/example/example.proto",
    "tensorflow/core/protobuf/meta_graph.proto",
    "tensorflow_serving/apis/get_model_metadata.proto",
    "tensorflow_serving/apis/prediction_log.proto",
];

/// The directory of the Rust messages and the paths of the descriptor sets, below the root of the repository.
const RUST: &str = "crates/codec/src/proto";
const DESCRIPTORS: &str = "python/servable/_server/config/descriptors.bin";
const CLIENT_DESCRIPTORS: &str = "python/servable/client/descriptors.bin";
const SERVED_DESCRIPTORS: &str = "crates/server/src/protocol/tfs_grpc/descriptors.bin";

/// Generated files by path below the root of the repository.
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

/// Generates all files from the definitions below `protos`.
fn generate(protos: &Path) -> Result<Outputs, Box<dyn Error>> {
    let mut outputs = Outputs::new();

    let messages = protox::Compiler::new([protos])?
        .include_imports(true)
        .include_source_info(true) // comments become the documentation of the Rust code
        .open_files(SERVED.iter().chain(&RUST_ONLY))?
        .file_descriptor_set();
    for (name, code) in rust_modules(messages)? {
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

/// The names of the top-level messages and enumerations that no file of [`SERVED`] or [`RUST_ONLY`] needs.
fn unused_types(descriptors: &FileDescriptorSet) -> Vec<String> {
    let mut references = BTreeMap::new();
    let mut pending = Vec::new();
    for file in &descriptors.file {
        let messages = file.message_type.iter().map(|message| (message.name(), references_of(message)));
        let enumerations = file.enum_type.iter().map(|enumeration| (enumeration.name(), Vec::new()));
        for (name, found) in messages.chain(enumerations) {
            let name = format!(".{}.{name}", file.package());
            if SERVED.contains(&file.name()) || RUST_ONLY.contains(&file.name()) {
                pending.push(name.clone());
            }
            references.insert(name, found);
        }
        // The messages of a service may lie in files that it imports.
        for method in file.service.iter().flat_map(|service| &service.method) {
            pending.extend([method.input_type().to_owned(), method.output_type().to_owned()]);
        }
    }
    while let Some(name) = pending.pop() {
        if let Some(found) = references.remove(&name) {
            pending.extend(found);
        } else if let Some((parent, _)) = name.rsplit_once('.') {
            // A nested type is generated with its top-level message.
            pending.push(parent.to_owned());
        }
    }
    // prost-types has the messages of Google's own package.
    references.into_keys().filter(|name| !name.starts_with(".google.protobuf.")).collect()
}

/// The types of the fields of a message and of its nested messages.
fn references_of(message: &DescriptorProto) -> Vec<String> {
    let fields = message.field.iter().filter_map(|field| field.type_name.clone());
    fields.chain(message.nested_type.iter().flat_map(references_of)).collect()
}

/// One Rust file for each package, and a `mod.rs` that nests the packages.
fn rust_modules(descriptors: FileDescriptorSet) -> Result<BTreeMap<String, String>, Box<dyn Error>> {
    let mut config = prost_build::Config::new();
    for name in unused_types(&descriptors) {
        config.extern_path(name, "::unused"); // prost does not generate types that are said to be elsewhere
    }
    let requests = descriptors
        .file
        .into_iter()
        .map(|file| (prost_build::Module::from_protobuf_package_name(file.package()), file))
        .collect();
    let mut modules = config
        .btree_map(["."]) // sorted keys make the encoding of maps deterministic
        .bytes(["."]) // byte fields are slices of the request's buffer
        .generate(requests)?;
    let mut files = BTreeMap::new();
    let mut tree = ModuleTree::default();
    modules.remove(&prost_build::Module::from_protobuf_package_name("google.protobuf")); // they are in prost-types
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
