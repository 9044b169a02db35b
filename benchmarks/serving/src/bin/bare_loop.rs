//! The second floor: `half_plus_two` run in a loop in the calling thread, without a server.

use std::error::Error;
use std::path::PathBuf;

use clap::Parser;
use servable_benchmarks::{cpu_time, load_model};
use servable_model::executor::{Executor, RunOptions};
use servable_model::signature::Signature;
use servable_model::tensor::{ALIGNMENT, AlignedBytes, Buffer, DType, Elements, Tensor};
use servable_tensorflow::Session;

/// Runs `half_plus_two` on three floats, and prints the CPU microseconds that one run costs.
#[derive(Parser)]
struct Arguments {
    /// The directory of the installed `tensorflow` package.
    #[arg(long)]
    tensorflow: PathBuf,
    /// A version directory of `half_plus_two`.
    #[arg(long)]
    model: PathBuf,
    /// The number of measured runs.
    #[arg(long, default_value_t = 100_000)]
    runs: u32,
}

/// The number of warm-up runs: the first compiles the executor, the others fill caches.
const WARM_UP_RUNS: u32 = 2000;

const INPUT: [f32; 3] = [1.0, 2.0, 5.0];
const OUTPUT: [f32; 3] = [2.5, 3.0, 4.5];

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let (session, signature) = load_model(&arguments.tensorflow, &arguments.model, 0)?;
    run(&session, &signature, WARM_UP_RUNS)?;
    let before = cpu_time();
    run(&session, &signature, arguments.runs)?;
    let spent = cpu_time().saturating_sub(before);
    println!("{:.3}", spent.as_secs_f64() * 1e6 / f64::from(arguments.runs));
    Ok(())
}

fn run(session: &Session, signature: &Signature, runs: u32) -> Result<(), Box<dyn Error>> {
    let (input, output) = (bytes_of(INPUT), bytes_of(OUTPUT));
    for _ in 0..runs {
        let buffer = Buffer::Owned(AlignedBytes::from_slice(ALIGNMENT, &input));
        let tensor = Tensor::from_numbers(DType::FLOAT, vec![3], buffer);
        let outputs = session.run(signature, vec![tensor], &[0], &RunOptions::default())?;
        match outputs[0].elements() {
            Elements::Numbers(buffer) if buffer.as_ref() == output => {}
            _ => return Err("the model is not half_plus_two".into()),
        }
    }
    Ok(())
}

fn bytes_of(values: [f32; 3]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}
