use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::*;
use crate::metrics::Api;
use crate::serving::servable::Servable;
use servable_model::executor::Executor;
use servable_model::tensor::{DType, Elements};

/// Echoes each input to the output of its position, and records the rows of every run.
struct Echo(Arc<Mutex<Vec<Vec<String>>>>);

impl Executor for Echo {
    fn run(&self, _: &Signature, inputs: Vec<Tensor>, outputs: &[usize], _: &RunOptions) -> Result<Vec<Tensor>> {
        self.0.lock().expect("no test panics here").push(inputs.iter().map(text).collect());
        Ok(outputs.iter().map(|&output| inputs[output].clone()).collect())
    }
}

fn text(tensor: &Tensor) -> String {
    let Elements::Strings(strings) = tensor.elements() else { panic!("strings were put in") };
    strings.iter().map(|string| String::from_utf8_lossy(string).into_owned()).collect::<Vec<_>>().join(" ")
}

fn row(value: &str) -> Tensor {
    Tensor::from_strings(vec![1], [value].into_iter().collect())
}

/// A signature whose inputs and outputs have these aliases and tensor names.
fn signature(names: &[(&str, &str)]) -> Arc<Signature> {
    let spec = |&(alias, tensor): &(&str, &str)| TensorSpec {
        alias: alias.to_owned(),
        tensor_name: tensor.to_owned(),
        dtype: DType::STRING,
        shape: None,
    };
    let specs: Vec<TensorSpec> = names.iter().map(spec).collect();
    Arc::new(Signature { inputs: specs.clone(), outputs: specs, ..Signature::default() })
}

struct Bench {
    servable: Arc<Servable>,
    runs: Arc<Mutex<Vec<Vec<String>>>>,
}

impl Bench {
    /// Batches start when they have two rows.
    fn new() -> Self {
        let runs = Arc::new(Mutex::default());
        let servable = Servable::new(BTreeMap::new(), Bytes::new(), Box::new(Echo(Arc::clone(&runs))));
        let pool = PoolOptions { num_batch_threads: 1, ..PoolOptions::default() };
        let scheduler = Arc::new(Scheduler::new(&pool).expect("a thread"));
        let options =
            BatchingOptions { max_batch_size: 2, batch_timeout_micros: 100_000, ..BatchingOptions::default() };
        servable.batch(Arc::clone(&scheduler), options.clone()).expect("options that fit");
        servable.batch(scheduler, options).expect_err("once is enough");
        Self { servable, runs }
    }

    async fn ask(&self, signature: &Arc<Signature>, inputs: &[&str], outputs: &[usize]) -> Result<Vec<String>, String> {
        let handle = self.servable.publish(Arc::default());
        let inputs = inputs.iter().map(|value| row(value)).collect();
        let soon = Call::until(Some(Instant::now() + Duration::from_secs(10)));
        crate::serving::run(&handle, Api::Predict, signature, inputs, outputs, soon)
            .await
            .map(|outputs| outputs.iter().map(text).collect())
            .map_err(|error| error.to_string())
    }

    fn runs(&self) -> Vec<Vec<String>> {
        std::mem::take(&mut self.runs.lock().expect("no test panics here"))
    }
}

fn texts(values: &[&str]) -> Vec<String> {
    values.iter().map(|&value| value.to_owned()).collect()
}

#[tokio::test]
async fn requests_for_the_same_tensors_share_a_batch_whatever_their_aliases() {
    let bench = Bench::new();
    let plain = signature(&[("a", "x:0"), ("b", "y:0")]);
    let crossed = signature(&[("a", "y:0"), ("b", "x:0")]);
    let answers = tokio::join!(bench.ask(&plain, &["x1", "y1"], &[0, 1]), bench.ask(&crossed, &["y2", "x2"], &[0, 1]));
    assert_eq!(answers, (Ok(texts(&["x1", "y1"])), Ok(texts(&["y2", "x2"]))));
    assert_eq!(bench.runs(), [["x1 x2", "y1 y2"]]);
}

#[tokio::test]
async fn requests_for_other_outputs_are_in_batches_of_their_own() {
    let bench = Bench::new();
    let plain = signature(&[("a", "x:0"), ("b", "y:0")]);
    let answers = tokio::join!(bench.ask(&plain, &["x1", "y1"], &[1, 0]), bench.ask(&plain, &["x2", "y2"], &[1]));
    assert_eq!(answers, (Ok(texts(&["y1", "x1"])), Ok(texts(&["y2"]))));
    assert_eq!(bench.runs().len(), 2);
    assert!(bench.servable.wait_until_idle(Some(Duration::from_secs(5))), "nothing holds it any more");
}

#[tokio::test]
async fn inputs_that_feed_one_tensor_cannot_be_batched() {
    let twice = signature(&[("a", "x:0"), ("b", "x:0")]);
    let refused = Bench::new().ask(&twice, &["1", "2"], &[0]).await;
    assert!(refused.is_err_and(|text| text.starts_with("FAILED_PRECONDITION: Batched output tensor's 0th")));
}
