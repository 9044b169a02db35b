//! Tables of all formats, from files to answers.

use std::fs;
use std::path::{Path, PathBuf};

use servable_embeddings::{CheckFinite, Combiner, Loaded, Metric, Options, Preload, Unknown, open};
use servable_model::error::{Code, Result};
use servable_model::executor::{Executor, RunOptions};
use servable_model::tensor::{ALIGNMENT, AlignedBytes, Buffer, DType, Elements, Strings, Tensor};
use tempfile::TempDir;

fn npy(dtype: &str, rows: usize, width: usize, numbers: &[u8]) -> Vec<u8> {
    let header = format!("{{'descr': '{dtype}', 'fortran_order': False, 'shape': ({rows}, {width}), }}\n");
    [b"\x93NUMPY\x01\x00", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), numbers].concat()
}

fn bytes(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

/// Four rows of two numbers.
const ROWS: [f32; 8] = [0.0, 1.0, 2.0, 3.0, -4.0, 5.0, 6.0, 7.0];

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }

    fn floats(&self, options: &Options) -> Loaded {
        open(&self.write("t.npy", &npy("<f4", 4, 2, &bytes(&ROWS))), None, options).unwrap()
    }

    fn words(&self, options: &Options) -> Loaded {
        let path = self.write("t.npy", &npy("<f4", 4, 2, &bytes(&ROWS)));
        open(&path, Some(&self.write("keys.txt", b"a\nb\nc\nd\n")), options).unwrap()
    }
}

fn numbers(dtype: DType, shape: &[i64], bytes: &[u8]) -> Tensor {
    let mut buffer = AlignedBytes::new(ALIGNMENT);
    buffer.extend_from_slice(bytes);
    Tensor::from_numbers(dtype, shape.to_vec(), Buffer::Owned(buffer))
}

fn ids(shape: &[i64], ids: &[i64]) -> Tensor {
    numbers(DType::INT64, shape, &ids.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<_>>())
}

fn floats(shape: &[i64], found: &[f32]) -> Tensor {
    numbers(DType::FLOAT, shape, &bytes(found))
}

fn keys(shape: &[i64], keys: &[&str]) -> Tensor {
    Tensor::from_strings(shape.to_vec(), keys.iter().collect::<Strings>())
}

fn values(tensor: &Tensor) -> Vec<f32> {
    let Elements::Numbers(buffer) = tensor.elements() else { panic!("no numbers") };
    buffer.as_ref().as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
}

/// Runs a signature with inputs in the order of their aliases.
fn run(loaded: &Loaded, signature: &str, inputs: Vec<Tensor>) -> Result<Vec<Tensor>> {
    let signature = &loaded.signatures[signature];
    let all: Vec<usize> = (0..signature.outputs.len()).collect();
    loaded.executor.run(signature, inputs, &all, &RunOptions::default())
}

fn vectors(loaded: &Loaded, signature: &str, inputs: Vec<Tensor>) -> Vec<f32> {
    values(&run(loaded, signature, inputs).unwrap()[0])
}

fn refusal(loaded: &Loaded, signature: &str, inputs: Vec<Tensor>) -> String {
    let error = run(loaded, signature, inputs).unwrap_err();
    assert_eq!(error.code, Code::InvalidArgument);
    error.text().into_owned()
}

fn problem(path: &Path, keys: Option<&Path>, options: &Options) -> String {
    let error = open(path, keys, options).err().expect("the table is damaged");
    error.text().replace(&format!("{}/", path.parent().unwrap().display()), "")
}

#[test]
fn ids_of_any_shape_are_looked_up() {
    let table = Folder::new().floats(&Options::default());
    let found = run(&table, "lookup", vec![ids(&[2, 2], &[3, 0, 0, 1])]).unwrap();
    assert_eq!(found[0].shape(), [2, 2, 2]);
    assert_eq!(values(&found[0]), [6.0, 7.0, 0.0, 1.0, 0.0, 1.0, 2.0, 3.0]);
    let one = run(&table, "serving_default", vec![numbers(DType::INT32, &[], &2_i32.to_le_bytes())]).unwrap();
    assert_eq!((one[0].shape(), values(&one[0])), (&[2][..], vec![-4.0, 5.0]));
    assert_eq!(run(&table, "lookup", vec![ids(&[0], &[])]).unwrap()[0].shape(), [0, 2]);
    for id in [4, -1, i64::MAX, i64::MIN] {
        assert_eq!(refusal(&table, "lookup", vec![ids(&[1], &[id])]), format!("input \"ids\": got {id}, want 0 to 3"));
    }
    let refused = refusal(&table, "lookup", vec![floats(&[1], &[1.0])]);
    assert_eq!(refused, "input \"ids\": got float, want int64 or int32");
}

#[test]
fn all_number_formats_are_read_as_float32() {
    let folder = Folder::new();
    let of = |dtype, content: &[u8]| {
        let loaded = open(&folder.write("n.npy", &npy(dtype, 2, 2, content)), None, &Options::default()).unwrap();
        vectors(&loaded, "lookup", vec![ids(&[2], &[1, 0])])
    };
    let doubles: Vec<u8> = [0.5_f64, 1.0, -2.0, 3.0].iter().flat_map(|number| number.to_le_bytes()).collect();
    assert_eq!(of("<f8", &doubles), [-2.0, 3.0, 0.5, 1.0]);
    let halves: Vec<u8> = [0x3800_u16, 0x3c00, 0xc000, 0x4200].iter().flat_map(|bits| bits.to_le_bytes()).collect();
    assert_eq!(of("<f2", &halves), [-2.0, 3.0, 0.5, 1.0]);
    assert_eq!(of("|i1", &[1, 2, 0x80, 0x7f]), [-128.0, 127.0, 1.0, 2.0]);

    let tensors = |entries: &str, content: &[u8], options: &Options| {
        let file = [&(entries.len() as u64).to_le_bytes()[..], entries.as_bytes(), content].concat();
        let loaded = open(&folder.write("n.safetensors", &file), None, options).unwrap();
        vectors(&loaded, "lookup", vec![ids(&[2], &[1, 0])])
    };
    let brains: Vec<u8> = [0x3f00_u16, 0x3f80, 0xc000, 0x4040].iter().flat_map(|bits| bits.to_le_bytes()).collect();
    let entry = r#"{"w":{"dtype":"BF16","shape":[2,2],"data_offsets":[0,8]}}"#;
    assert_eq!(tensors(entry, &brains, &Options::default()), [-2.0, 3.0, 0.5, 1.0]);
    let entry = r#"{"s":{"dtype":"F32","shape":[2],"data_offsets":[4,12]},"w":{"dtype":"I8","shape":[2,2],"data_offsets":[0,4]}}"#;
    let content = [vec![1, 2, 0xff, 4], bytes(&[0.5, 10.0])].concat();
    let options = Options { scales: "s".to_owned(), tensor: "w".to_owned(), ..Options::default() };
    assert_eq!(tensors(entry, &content, &options), [-10.0, 40.0, 0.5, 1.0]);
}

#[test]
fn keys_are_looked_up_in_texts_and_beside_arrays() {
    let folder = Folder::new();
    let table = folder.words(&Options::default());
    assert_eq!(vectors(&table, "serving_default", vec![keys(&[2], &["c", "a"])]), [-4.0, 5.0, 0.0, 1.0]);
    assert_eq!(vectors(&table, "lookup_ids", vec![ids(&[1], &[3])]), [6.0, 7.0]);
    let refused = refusal(&table, "lookup", vec![keys(&[1], &["plum\n"])]);
    assert_eq!(refused, "input \"keys\": there is no key \"plum\\n\" in the table");
    let of = |name: &str, content: &[u8]| {
        let loaded = open(&folder.write(name, content), None, &Options::default()).unwrap();
        vectors(&loaded, "lookup", vec![keys(&[1], &["b"])])
    };
    assert_eq!(of("t.tsv", b"a\t1\t2\nb\t3\t4\n"), [3.0, 4.0]);
    assert_eq!(of("t.txt", b"a 1 2\nb 3 4\n"), [3.0, 4.0]);
    assert_eq!(of("t.vec", b"2 2\na 1 2 \nb 3 4 \n"), [3.0, 4.0]);
    let binary = [&b"2 2\na "[..], &bytes(&[1.0, 2.0]), b"\nb ", &bytes(&[3.0, 4.0]), b"\n"].concat();
    assert_eq!(of("t.bin", &binary), [3.0, 4.0]);
}

#[test]
fn unknown_keys_and_ids_follow_the_option() {
    let folder = Folder::new();
    let of = |unknown| {
        let table = folder.words(&Options { unknown, ..Options::default() });
        let by_key = vectors(&table, "lookup", vec![keys(&[1], &["plum"])]);
        assert_eq!(vectors(&table, "lookup_ids", vec![ids(&[1], &[-7])]), by_key);
        by_key
    };
    assert_eq!(of(Unknown::Zeros), [0.0, 0.0]);
    assert_eq!(of(Unknown::Row(2)), [-4.0, 5.0]);

    // The hashes are those of tf.strings.to_hash_bucket_fast.
    let path = folder.write("t.npy", &npy("<f4", 4, 2, &bytes(&ROWS)));
    let two = folder.write("two.txt", b"a\nb\n");
    let options = Options { unknown: Unknown::Hash(2), ..Options::default() };
    let table = open(&path, Some(&two), &options).unwrap();
    let found = vectors(&table, "lookup", vec![keys(&[4], &["b", "plum", "pear", "fig"])]);
    assert_eq!(found.chunks(2).map(|row| row[0]).collect::<Vec<_>>(), [2.0, HASHED[0], HASHED[1], HASHED[2]]);
    let found = vectors(&table, "lookup_ids", vec![ids(&[3], &[1, 2, -1])]);
    assert_eq!(found.chunks(2).map(|row| row[0]).collect::<Vec<_>>(), [2.0, HASHED[3], HASHED[4]]);
    let nearest = run(&table, "nearest", vec![floats(&[1, 2], &[1.0, 1.0])]).unwrap();
    assert_eq!(nearest[0].shape(), [1, 2], "buckets are not found");
}

/// The first number of the bucket of "plum", "pear", "fig", "2" and "-1".
const HASHED: [f32; 5] = [-4.0, -4.0, 6.0, 6.0, -4.0];

#[test]
fn bags_are_combined_with_and_without_weights() {
    let folder = Folder::new();
    let of = |combiner, signature: &str| {
        let table = folder.floats(&Options { combiner, ..Options::default() });
        // The last id is not part of the first bag, and no id at all.
        let mut inputs = vec![ids(&[3, 2], &[1, 99, 1, 3, 0, 0]), ids(&[3], &[1, 2, 0])];
        if signature == "weighted_bag" {
            inputs.push(floats(&[3, 2], &[2.0, 5.0, 3.0, 1.0, 1.0, 1.0]));
        }
        vectors(&table, signature, inputs)
    };
    assert_eq!(of(Combiner::Sum, "bag"), [2.0, 3.0, 8.0, 10.0, 0.0, 0.0]);
    assert_eq!(of(Combiner::Mean, "bag"), [2.0, 3.0, 4.0, 5.0, 0.0, 0.0]);
    assert_eq!(of(Combiner::Sum, "weighted_bag"), [4.0, 6.0, 12.0, 16.0, 0.0, 0.0]);
    assert_eq!(of(Combiner::Mean, "weighted_bag"), [2.0, 3.0, 3.0, 4.0, 0.0, 0.0]);
    let roots = of(Combiner::SqrtN, "weighted_bag");
    assert!((roots[2] - 12.0 / 10_f32.sqrt()).abs() < 1e-6, "{roots:?}");

    let table = folder.words(&Options { unknown: Unknown::Zeros, ..Options::default() });
    let bag = vec![keys(&[1, 3], &["b", "plum", "d"]), ids(&[1], &[3])];
    assert_eq!(vectors(&table, "bag", bag), [4.0, 5.0], "unknown keys have no weight");
    let long = vec![keys(&[1, 1], &["b"]), ids(&[1], &[2])];
    assert_eq!(refusal(&table, "bag", long), "input \"lengths\": got 2, want 0 to 1");
    let short = vec![keys(&[1, 1], &["b"]), ids(&[2], &[1, 1])];
    assert_eq!(refusal(&table, "bag", short), "input \"lengths\": got shape [2], want [1], one for each bag");
    let weights = vec![ids(&[1, 1], &[0]), ids(&[1], &[1]), floats(&[1, 2], &[1.0, 1.0])];
    let refused = refusal(&table, "weighted_bag_ids", weights);
    assert_eq!(refused, "input \"weights\": got shape [1,2], want [1,1], one for each member");
}

#[test]
fn the_nearest_rows_are_found_by_each_metric() {
    let folder = Folder::new();
    let of = |metric, query: [f32; 2]| {
        let table = folder.words(&Options { metric, neighbours: 2, ..Options::default() });
        let found = run(&table, "nearest", vec![floats(&[1, 2], &query)]).unwrap();
        let Elements::Strings(keys) = found[1].elements() else { panic!("no keys") };
        let keys: Vec<_> = keys.iter().map(|key| String::from_utf8(key.to_vec()).unwrap()).collect();
        (keys.concat(), values(&found[2]))
    };
    assert_eq!(of(Metric::Dot, [1.0, 0.0]), ("db".to_owned(), vec![6.0, 2.0]));
    assert_eq!(of(Metric::L2, [6.0, 7.0]), ("db".to_owned(), vec![0.0, 32_f32.sqrt()]));
    let (keys, scores) = of(Metric::Cosine, [0.0, 3.0]);
    assert_eq!((keys.as_str(), scores[0]), ("ab", 1.0));
    assert!((scores[1] - 3.0 / 13_f32.sqrt()).abs() < 1e-6);
    assert_eq!(of(Metric::Cosine, [0.0, 0.0]).1, [0.0, 0.0]);

    let table = folder.floats(&Options::default());
    let found = run(&table, "nearest_k", vec![ids(&[], &[1]), floats(&[2, 2], &[0.0, 1.0, 9.0, 8.0])]).unwrap();
    assert_eq!(found[0].shape(), [2, 1]);
    let none = run(&table, "nearest", vec![floats(&[0, 2], &[])]).unwrap();
    assert_eq!(none[0].shape(), [0, 4], "there are four rows, and fewer than ten");
    for k in [0, 5, -1] {
        let inputs = vec![ids(&[], &[k]), floats(&[1, 2], &[0.0, 1.0])];
        assert_eq!(refusal(&table, "nearest_k", inputs), format!("input \"k\": got {k}, want 1 to 4"));
    }
    let wide = vec![floats(&[1, 3], &[0.0; 3])];
    assert_eq!(refusal(&table, "nearest", wide), "input \"vectors\": got shape [1,3], want [?,2]");
}

#[test]
fn large_tables_are_searched_as_by_sorting_all_distances() {
    let (rows, width, folder) = (3000, 24, Folder::new());
    let number = |at: usize| ((at.wrapping_mul(2_654_435_761)) >> 7 & 0xfff) as f32 / 2048.0 - 1.0;
    let table: Vec<f32> = (0..rows * width).map(number).collect();
    let path = folder.write("t.npy", &npy("<f4", rows, width, &bytes(&table)));
    let loaded = open(&path, None, &Options { metric: Metric::L2, ..Options::default() }).unwrap();
    let queries: Vec<f32> = (0..5 * width).map(|at| number(at + 77_777)).collect();
    let found = run(&loaded, "nearest", vec![floats(&[5, width as i64], &queries)]).unwrap();
    for (query, scores) in queries.chunks(width).zip(values(&found[1]).chunks(10)) {
        let distance = |row: &[f32]| row.iter().zip(query).map(|(a, b)| (a - b) * (a - b)).sum::<f32>().sqrt();
        let mut wanted: Vec<f32> = table.chunks(width).map(distance).collect();
        wanted.sort_by(f32::total_cmp);
        assert!(scores.iter().zip(&wanted).all(|(found, wanted)| (found - wanted).abs() < 1e-4), "{scores:?}");
    }
}

#[test]
fn damaged_tables_are_refused_with_their_place() {
    let folder = Folder::new();
    let plain = Options::default();
    let whole = npy("<f4", 4, 2, &bytes(&ROWS));
    let cut = folder.write("t.npy", &whole[..whole.len() - 1]);
    let (found, wanted) = (whole.len() - 1, whole.len());
    let text = format!("t.npy: got {found} bytes, want {wanted} for 4 rows of 2 numbers; the file is cut short");
    assert_eq!(problem(&cut, None, &plain), text);
    let path = folder.write("t.npy", &whole);
    let three = folder.write("keys.txt", b"a\nb\nc\n");
    assert!(problem(&path, Some(&three), &plain).starts_with("keys.txt: got 3 keys, want 4 as the table"));
    let twice = folder.write("keys.txt", b"a\nb\na\nd\n");
    assert_eq!(problem(&path, Some(&twice), &plain), "keys.txt:3: got key \"a\" of line 1 again");
    let row = Options { unknown: Unknown::Row(4), ..Options::default() };
    assert_eq!(problem(&path, None, &row), "t.npy: got the option \"unknown_row\" 4, want 0 to 3");
    let odd = folder.write("t.npy", &npy("<f4", 2, 2, &bytes(&[0.0, 1.0, f32::NAN, 2.0])));
    let checked = Options { check_finite: CheckFinite::Always, ..Options::default() };
    assert_eq!(problem(&odd, None, &checked), "t.npy: row 1: got NaN, want finite numbers");
    assert!(open(&odd, None, &plain).is_ok());
    for shape in ["(0, 4)", "(4, 0)", "(9223372036854775807, 9223372036854775807)"] {
        let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}");
        let file = [b"\x93NUMPY\x01\x00", &(header.len() as u16).to_le_bytes()[..], header.as_bytes()].concat();
        assert!(problem(&folder.write("t.npy", &file), None, &plain).contains("got shape ["), "{shape}");
    }
    assert_eq!(open(&folder.0.path().join("none.npy"), None, &plain).err().unwrap().code, Code::NotFound);
}

#[test]
fn a_table_that_is_cut_short_while_it_is_served_answers_with_an_error() {
    let (rows, folder) = (20_000, Folder::new());
    let path = folder.write("t.npy", &npy("<f4", rows, 2, &bytes(&vec![1.0; rows * 2])));
    let options = Options { preload: Preload::ReadAhead, ..Options::default() };
    let table = open(&path, None, &options).unwrap();
    assert_eq!(vectors(&table, "lookup", vec![ids(&[1], &[19_999])]), [1.0, 1.0]);
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(5000).unwrap();
    for inputs in [("lookup", ids(&[1], &[19_999])), ("nearest", floats(&[1, 2], &[1.0, 1.0]))] {
        let error = run(&table, inputs.0, vec![inputs.1]).unwrap_err();
        assert_eq!(error.code, Code::DataLoss);
        assert!(error.text().contains("the file was cut short while it was served: got 5000 bytes"), "{error}");
    }
}
