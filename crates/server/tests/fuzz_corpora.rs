//! Runs the fuzz targets on their corpora.

#[path = "../../../fuzz/src/lib.rs"]
#[allow(unreachable_pub, reason = "the targets are public to the programs that fuzz them")]
mod targets;

use std::fs;
use std::path::Path;

fn replay(target: &str, run: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let mut replayed = 0;
    for entry in fs::read_dir(&corpus).expect("each target has a corpus") {
        run(&fs::read(entry.expect("a readable folder").path()).expect("a readable file"));
        replayed += 1;
    }
    assert!(replayed > 0, "{} is empty", corpus.display());
}

#[test]
fn json_predict() {
    replay("json_predict", targets::json_predict);
}

#[test]
fn grpc_predict() {
    replay("grpc_predict", targets::grpc_predict);
}

#[test]
fn meta_graph() {
    replay("meta_graph", targets::meta_graph);
}

#[test]
fn rest_path() {
    replay("rest_path", targets::rest_path);
}

#[test]
fn json_examples() {
    replay("json_examples", targets::json_examples);
}

#[test]
fn grpc_examples() {
    replay("grpc_examples", targets::grpc_examples);
}

#[test]
fn example_features() {
    replay("example_features", targets::example_features);
}

#[test]
fn oip_rest() {
    replay("oip_rest", targets::oip_rest);
}

#[test]
fn oip_grpc() {
    replay("oip_grpc", targets::oip_grpc);
}
