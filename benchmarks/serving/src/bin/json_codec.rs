//! The throughput of the JSON codec on one core, in decoding and encoding.
//!
//! Decoding is compared with the fastest parsers, on the same bytes and into the same type. Encoding is compared with
//! the faster of their printers. All run in turns. The medians are printed as one JSON object, in megabytes per second.

use std::error::Error;
use std::hint::black_box;

use clap::Parser;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use servable_codec::json::{self, Format};
use servable_model::error::Result;
use servable_model::signature::{Signature, TensorSpec};
use servable_model::tensor::{ALIGNMENT, AlignedBytes, Buffer, DType, Elements, Tensor};

/// Decodes an image of 224 × 224 × 3 floats of six digits, and encodes 1,000 × 1,000 floats, repeatedly.
#[derive(Parser)]
struct Arguments {
    /// The number of measurements of each. Medians are printed.
    #[arg(long, default_value_t = 50)]
    rounds: usize,
}

const IMAGE: [usize; 3] = [224, 224, 3];
const MATRIX: [usize; 2] = [1000, 1000];

/// The type of the request, for typed parsers.
#[derive(Deserialize)]
struct Request {
    instances: Vec<Vec<Vec<[f32; 3]>>>,
}

/// The type of the response, for typed printers.
#[derive(Serialize)]
struct Response {
    predictions: Vec<Vec<f32>>,
}

fn main() -> std::result::Result<(), Box<dyn Error>> {
    let rounds = Arguments::parse().rounds;
    let image: Vec<f32> = floats(IMAGE.iter().product()).iter().map(|value| (value * 1e6).round() / 1e6).collect();
    let matrix = floats(MATRIX.iter().product());
    println!("{{{}, {}}}", decoding(&image, rounds)?, encoding(&matrix, rounds)?);
    Ok(())
}

fn decoding(image: &[f32], rounds: usize) -> std::result::Result<String, Box<dyn Error>> {
    let body = image_request(image);
    let signature = Signature { inputs: vec![spec()], ..Signature::default() };
    let ours = || {
        json::decode_predict(&body, json::DEFAULT_MAX_NESTING, |_| Result::Ok(&signature)).expect("a request").inputs
    };
    let simd_json = |body: &mut Vec<u8>| simd_json::from_slice::<Request>(body).expect("a request").instances;
    let sonic_rs = || sonic_rs::from_slice::<Request>(&body).expect("a request").instances;

    let Elements::Numbers(found) = ours()[0].elements().clone() else { return Err("numbers are not numbers".into()) };
    let of_others = [simd_json(&mut body.clone()), sonic_rs()].map(|image| image.concat().concat().concat());
    if found.as_ref() != bytes_of(image) || of_others.iter().any(|values| values != image) {
        return Err("the image was not read as it was written".into());
    }

    let mut times: [Vec<f64>; 3] = Default::default();
    for _ in 0..rounds {
        times[0].push(seconds(ours));
        // This parser modifies its input. The time of the necessary copy is not counted.
        let mut copy = body.clone();
        times[1].push(seconds(|| simd_json(&mut copy)));
        times[2].push(seconds(sonic_rs));
    }
    let [ours, simd_json, sonic_rs] = times.map(|times| rate(body.len(), times));
    Ok(format!(
        r#""decode_bytes": {}, "decode": {ours:.1}, "decode_simd_json": {simd_json:.1}, "decode_sonic_rs": {sonic_rs:.1}"#,
        body.len()
    ))
}

fn encoding(matrix: &[f32], rounds: usize) -> std::result::Result<String, Box<dyn Error>> {
    let buffer = Buffer::Owned(AlignedBytes::from_slice(ALIGNMENT, &bytes_of(matrix)));
    let tensor = Tensor::from_numbers(DType::FLOAT, MATRIX.map(|size| size as i64).to_vec(), buffer);
    let response = Response { predictions: matrix.chunks(MATRIX[1]).map(<[f32]>::to_vec).collect() };
    let ours = || json::encode_predict(Format::Row, &[("y", &tensor)]).expect("a response");
    let sonic_rs = || sonic_rs::to_vec(&response).expect("a response");

    let (written, by_sonic) = (ours(), sonic_rs());
    let mut times: [Vec<f64>; 2] = Default::default();
    for _ in 0..rounds {
        times[0].push(seconds(ours));
        times[1].push(seconds(sonic_rs));
    }
    let [ours, sonic_rs] = times;
    Ok(format!(
        r#""encode_bytes": {}, "encode": {:.1}, "encode_sonic_rs": {:.1}"#,
        written.len(),
        rate(written.len(), ours),
        rate(by_sonic.len(), sonic_rs)
    ))
}

/// The body of a predict request for one image.
fn image_request(image: &[f32]) -> Vec<u8> {
    let list = |items: Vec<String>| format!("[{}]", items.join(", "));
    let pixels: Vec<String> =
        image.chunks(IMAGE[2]).map(|pixel| list(pixel.iter().map(f32::to_string).collect())).collect();
    let rows = list(pixels.chunks(IMAGE[1]).map(|row| list(row.to_vec())).collect());
    format!("{{\"instances\": [{rows}]}}").into_bytes()
}

fn spec() -> TensorSpec {
    TensorSpec { alias: "x".to_owned(), tensor_name: "x:0".to_owned(), dtype: DType::FLOAT, shape: None }
}

/// Pseudo-random numbers between 0 and 1, the same in every run.
fn floats(count: usize) -> Vec<f32> {
    let mut state = 1_u64;
    let mut next = || {
        // Knuth's linear congruential generator. Its high bits are random enough.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1_u64 << 24) as f32
    };
    (0..count).map(|_| next()).collect()
}

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// The CPU time of this thread for some work, including the drop of its result.
fn seconds<T>(work: impl FnOnce() -> T) -> f64 {
    let now = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
    };
    let start = now();
    drop(black_box(work()));
    now() - start
}

/// Megabytes per second, from the median time.
fn rate(bytes: usize, mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    bytes as f64 / 1e6 / times[times.len() / 2]
}
