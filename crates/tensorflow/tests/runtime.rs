//! Opening the runtime and loading models, with the error of each failure.

mod support;

use std::path::{Path, PathBuf};

use servable_model::error::{Code, ServingError};
use servable_model::tensor::DType;
use servable_tensorflow::{LoadOptions, OpenError, Runtime};
use support::{
    floats, floats_of, half_plus_two_signature, installation, int64s_of, options, run, signature, texts, texts_of,
};

/// A new directory under the system's for temporary files.
fn scratch(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("servable-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).unwrap();
    path
}

fn load_error(path: &Path, options: &LoadOptions) -> Option<ServingError> {
    installation()?.runtime.load_saved_model(path, options).err()
}

#[test]
fn a_missing_library_is_named() {
    let directory = scratch("no-libraries");
    let Err(OpenError::Library { path, reason }) = Runtime::open(&directory) else { panic!("opened nothing") };
    assert!(path.starts_with(&directory) && path.to_string_lossy().contains("libtensorflow_framework"));
    assert!(reason.contains("No such file or directory"), "{reason}");
}

#[test]
fn a_file_that_is_no_library_is_named() {
    let directory = scratch("broken-library");
    for name in ["libtensorflow_framework.so.2", "libtensorflow_framework.2.dylib"] {
        std::fs::write(directory.join(name), "not a library").unwrap();
    }
    let error = Runtime::open(&directory).err().unwrap();
    assert!(error.to_string().starts_with(&format!("cannot load {}", directory.display())), "{error}");
}

#[test]
#[cfg(target_os = "linux")]
fn a_library_that_lacks_a_function_is_named_with_it() {
    // Any library other than TensorFlow will do. This one is mapped already.
    let mapped = std::fs::read_to_string("/proc/self/maps").unwrap();
    let library = mapped.lines().find_map(|line| line.split_once('/').filter(|(_, path)| path.contains("libc.so")));
    let (_, library) = library.expect("the C library is mapped");
    let directory = scratch("other-library");
    for name in ["libtensorflow_framework.so.2", "libtensorflow_cc.so.2"] {
        std::os::unix::fs::symlink(format!("/{library}"), directory.join(name)).unwrap();
    }
    let Err(OpenError::Symbol { library, name }) = Runtime::open(&directory) else { panic!("opened no TensorFlow") };
    assert!(library.starts_with(&directory));
    assert!(name.starts_with("TF_"), "{name}");
}

#[test]
fn the_runtime_says_its_version_and_can_be_opened_again() {
    let Some(installed) = installation() else { return };
    assert!(installed.runtime.version().starts_with("2."));
    let directory = PathBuf::from(std::env::var_os("SERVABLE_TENSORFLOW_DIR").unwrap());
    assert_eq!(Runtime::open(&directory).unwrap().version(), installed.runtime.version());
}

#[test]
fn devices_are_known_after_the_first_session() {
    if installation().is_none() {
        return;
    }
    let directory = PathBuf::from(std::env::var_os("SERVABLE_TENSORFLOW_DIR").unwrap());
    let runtime = Runtime::open(&directory).unwrap();
    assert_eq!(runtime.devices(), []);
    runtime.start_threads(&[], true).unwrap();
    let devices = runtime.devices();
    let processor = devices.iter().find(|device| device.kind == "CPU").expect("a processor");
    assert!(processor.name.ends_with("/device:CPU:0"), "{processor:?}");
    assert!(processor.memory_limit_bytes.is_some_and(|bytes| bytes >= 1 << 20), "{processor:?}");
}

#[test]
fn a_library_of_operations_that_is_missing_is_named() {
    let Some(installed) = installation() else { return };
    let error = installed.runtime.load_library(Path::new("/no/such/operations.so")).unwrap_err();
    assert_eq!(error.code, Code::NotFound);
    assert!(error.text().starts_with("/no/such/operations.so: cannot open"), "{error}");
}

#[test]
fn models_that_others_exported_answer() {
    let Some(installed) = installation() else { return };
    for (path, addend) in [
        ("saved_model_half_plus_two_cpu/00000123", 2.0),
        ("saved_model_half_plus_two_2_versions/00000123", 2.0),
        ("saved_model_half_plus_two_2_versions/00000124", 2.0),
        ("saved_model_half_plus_three/00000123", 3.0),
    ] {
        let Some(directory) = installed.testdata(path) else { return };
        let loaded = installed.runtime.load_saved_model(&directory, &options(true)).unwrap();
        assert!(loaded.meta_graph.windows(15).any(|bytes| bytes == b"serving_default"));
        let answer = run(&loaded.session, &half_plus_two_signature(), vec![floats(&[3], &[1.0, 2.0, -4.0])]).unwrap();
        assert_eq!(floats_of(&answer[0]), [0.5 + addend, 1.0 + addend, -2.0 + addend], "{path}");
        assert_eq!(answer[0].shape(), [3]);
    }
}

#[test]
fn variables_by_reference_are_restored_initialized_and_returned() {
    let Some(installed) = installation() else { return };
    let session = installed.session("reference_variables");
    let outputs = [("reference", "restored:0", DType(101)), ("y", "y:0", DType::FLOAT)];
    let signature = signature(&[("x", "x:0", DType::FLOAT)], &outputs);
    let answer = run(&session, &signature, vec![floats(&[2], &[1.0, 1.0])]).unwrap();
    assert_eq!(floats_of(&answer[0]), [1.0, 2.0]);
    assert_eq!(floats_of(&answer[1]), [41.0, 42.0]);
}

#[test]
fn a_table_is_filled_from_an_asset() {
    let Some(installed) = installation() else { return };
    let session = installed.session("words");
    let signature = signature(
        &[("words", "serving_default_words:0", DType::STRING)],
        &[("ids", "StatefulPartitionedCall:0", DType::INT64)],
    );
    let answer = run(&session, &signature, vec![texts(&[3], &["two", "zero", "no such word"])]).unwrap();
    assert_eq!(int64s_of(&answer[0]), [2, 0, -1]);
}

#[test]
fn state_lives_in_the_session_and_needs_no_input() {
    let Some(installed) = installation() else { return };
    let (first, second) = (installed.session("counter"), installed.session("counter"));
    let raise = signature(&[], &[("count", "raised:0", DType::INT64)]);
    let counts: Vec<i64> = (0..3).map(|_| int64s_of(&run(&first, &raise, vec![]).unwrap()[0])[0]).collect();
    assert_eq!(counts, [1, 2, 3]);
    assert_eq!(int64s_of(&run(&second, &raise, vec![]).unwrap()[0]), [1]);
}

#[test]
fn a_directory_without_a_model_is_not_found() {
    let directory = scratch("empty");
    let Some(error) = load_error(&directory, &options(true)) else { return };
    let text = "Specified file path does not appear to contain a SavedModel bundle (should have a file called \
        `saved_model.pb`)\nSpecified file path: ";
    assert_eq!((error.code, error.text()), (Code::NotFound, format!("{text}{}", directory.display()).into()));
}

#[test]
fn a_session_bundle_is_unimplemented() {
    let directory = scratch("session-bundle");
    std::fs::write(directory.join("export.meta"), "").unwrap();
    let Some(error) = load_error(&directory, &options(true)) else { return };
    assert_eq!(error, ServingError::unimplemented("Session Bundle is deprecated and removed."));
}

#[test]
fn tags_must_be_those_of_a_meta_graph() {
    let Some(installed) = installation() else { return };
    for (tags, listed) in [(vec!["serve", "gpu"], "{ gpu serve }"), (vec!["other"], "{ other }"), (vec![], "{  }")] {
        let tags = tags.into_iter().map(str::to_owned).collect();
        let error = load_error(&installed.model("product"), &LoadOptions { tags, ..LoadOptions::default() }).unwrap();
        let text = format!(
            "Could not find meta graph def matching supplied tags: {listed}. To inspect available tag-sets in the \
             SavedModel, please use the SavedModel CLI: `saved_model_cli`"
        );
        assert_eq!(error, ServingError::not_found(text));
    }
}

#[test]
fn damaged_models_are_errors_and_do_no_harm() {
    let Some(installed) = installation() else { return };
    let whole = std::fs::read(installed.model("product").join("saved_model.pb")).unwrap();
    let directory = scratch("damaged");
    // The codes are the runtime's own: the text with the first two is "Read less bytes than requested".
    let mut damaged = whole.clone();
    damaged.truncate(whole.len() / 2);
    for (content, code) in
        [(damaged, Code::OutOfRange), (b"\xff\xff".to_vec(), Code::OutOfRange), (vec![], Code::NotFound)]
    {
        std::fs::write(directory.join("saved_model.pb"), &content).unwrap();
        assert_eq!(load_error(&directory, &options(true)).unwrap().code, code, "{} bytes", content.len());
    }
    // Variables of the graph that the directory lacks.
    std::fs::copy(installed.model("counter").join("saved_model.pb"), directory.join("saved_model.pb")).unwrap();
    let loaded = installed.runtime.load_saved_model(&directory, &options(true)).unwrap();
    let read = signature(&[], &[("count", "current:0", DType::INT64)]);
    let error = run(&loaded.session, &read, vec![]).unwrap_err();
    assert_eq!(error.code, Code::FailedPrecondition, "{error}");
    assert!(installed.runtime.load_saved_model(&installed.model("product"), &options(true)).is_ok());
}

#[test]
fn an_operation_that_is_not_registered_is_named() {
    let Some(installed) = installation() else { return };
    // The graph of a model that joins strings, with the operation renamed to one of the same length.
    let mut graph = std::fs::read(installed.model("multiple").join("saved_model.pb")).unwrap();
    let mut renamed = 0;
    for start in 0..graph.len() - 10 {
        if &graph[start..start + 10] == b"ReduceJoin" {
            graph[start..start + 10].copy_from_slice(b"ReduceGlue");
            renamed += 1;
        }
    }
    assert!(renamed > 0);
    let directory = scratch("unknown-operation");
    std::fs::write(directory.join("saved_model.pb"), graph).unwrap();
    let error = load_error(&directory, &options(true)).unwrap();
    assert_eq!(error.code, Code::NotFound);
    assert!(error.text().starts_with("Op type not registered 'ReduceGlue' in binary"), "{error}");
}

#[test]
fn session_options_are_checked_and_used() {
    let Some(installed) = installation() else { return };
    let mut options = options(false);
    options.session_config = vec![0xff, 0xff];
    let error = load_error(&installed.model("product"), &options).unwrap();
    assert_eq!(error, ServingError::invalid_argument("Unparseable ConfigProto"));
    // intra_op_parallelism_threads: 1, inter_op_parallelism_threads: 1, use_per_session_threads: true
    options.session_config = vec![0x10, 1, 0x28, 1, 0x48, 1];
    let loaded = installed.runtime.load_saved_model(&installed.model("multiple"), &options).unwrap();
    let signature =
        signature(&[("words", "words:0", DType::STRING)], &[("joined", "ReduceJoin/joined:0", DType::STRING)]);
    let answer = run(&loaded.session, &signature, vec![texts(&[1, 2], &["a", "b"])]).unwrap();
    assert_eq!(texts_of(&answer[0]), [b"ab"]);
}
