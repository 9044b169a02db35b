//! `GET …/batching`: a report on the batching of a model, with texts and figures.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::choice;
use crate::router::tensorflow_serving::{ModelRoute, Version};
use crate::service::Service;
use crate::serving::map::Handle;
use crate::serving::servable::Servable;
use crate::serving::traffic::Caller;
use crate::serving::{Batching, Route as Queue};
use servable_batch::{BatchingOptions, Explanation, SizeTally, Statistics};
use servable_model::distribution::Distribution;
use servable_model::error::Result;
use servable_model::signature::{Signature, TensorSpec};

/// Reports on the requested version, or on all available ones.
///
/// # Errors
///
/// Those of the status of a model, or of its metadata if a version or a label is named.
pub(super) fn report(service: &Service, route: &ModelRoute<'_>, caller: &dyn Caller) -> Result<Bytes> {
    let map = &service.serving_map;
    let versions: Vec<(i64, Handle)> = match route.version {
        Version::Latest => {
            let all = map.status(&route.model, None)?.into_iter();
            all.filter_map(|version| Some((version.number, version.published?))).collect()
        }
        Version::Number(_) | Version::Label(_) => vec![map.find(&route.model, choice(&route.version), caller)?],
    };
    let versions: Vec<Value> = versions.iter().map(|(number, handle)| of_version(*number, handle)).collect();
    let report = json!({"model_name": String::from_utf8_lossy(&route.model), "versions": versions});
    Ok(format!("{report:#}\n").into())
}

fn of_version(number: i64, servable: &Servable) -> Value {
    let mut version = Map::new();
    version.insert("version".to_owned(), number.to_string().into());
    version.insert("is_batched".to_owned(), servable.batching().is_some().into());
    let origin = servable.batching_origin().map(Value::from);
    if let Some(batching) = servable.batching() {
        let size = batching.options().execution_size();
        let unfit = servable.signatures().map(|(name, signature)| (name.to_owned(), obstacles(signature, size)));
        let unfit: Map<String, Value> =
            unfit.filter(|(_, why)| !why.is_empty()).map(|(n, why)| (n, why.into())).collect();
        version.insert("parameters_from".to_owned(), origin.unwrap_or_else(|| "".into()));
        version.insert("parameters".to_owned(), parameters(batching));
        version.insert("defaults".to_owned(), defaults(batching.options()).into());
        version.insert("signatures_not_batched".to_owned(), unfit.into());
        let queues: Vec<Value> = batching.routes().iter().map(|queue| of_queue(queue)).collect();
        version.insert("queues".to_owned(), queues.into());
    } else if let Some(why) = origin {
        version.insert("explanation".to_owned(), why);
    }
    version.into()
}

/// The reasons why requests of a signature fail in batches of this many rows, or cannot share one. The texts are those
/// of `servable check`.
fn obstacles(signature: &Signature, size: usize) -> Vec<String> {
    if signature.has_components {
        return vec!["it has ragged or sparse values, so that its requests are run one by one".to_owned()];
    }
    let mut obstacles = Vec::new();
    for TensorSpec { alias, shape, .. } in &signature.inputs {
        match shape.as_deref() {
            Some([]) => obstacles.push(format!("input {alias} is a scalar, and its requests will be refused")),
            Some(&[rows, ..]) if (0..size as i64).contains(&rows) => {
                obstacles.push(format!("axis 0 of input {alias} is always {rows}, so that joined requests fail"));
            }
            _ => {}
        }
    }
    let is_free =
        |spec: &TensorSpec| spec.shape.as_ref().is_none_or(|shape| shape.first().is_some_and(|&rows| rows < 0));
    let are_inputs_free = signature.inputs.iter().all(is_free);
    for TensorSpec { alias, shape, .. } in &signature.outputs {
        match shape.as_deref() {
            Some([]) => obstacles.push(format!("output {alias} is a scalar, and cannot be split among requests")),
            Some(&[rows, ..]) if are_inputs_free && rows >= 0 => {
                obstacles.push(format!("axis 0 of output {alias} is always {rows}, whatever the batch is"));
            }
            _ => {}
        }
    }
    obstacles
}

/// The parameters in force, by their names in configuration files.
fn parameters(batching: &Batching) -> Value {
    let (mut parameters, pool) = (of_options(batching.options()), batching.pool());
    parameters.insert("num_batch_threads".to_owned(), pool.num_batch_threads.into());
    parameters.insert("thread_pool_name".to_owned(), pool.thread_pool_name.as_str().into());
    parameters.into()
}

fn of_options(options: &BatchingOptions) -> Map<String, Value> {
    let BatchingOptions {
        max_batch_size,
        batch_timeout_micros,
        max_enqueued_batches,
        allowed_batch_sizes,
        pad_variable_length_inputs,
        enable_large_batch_splitting,
        max_execution_batch_size: _,
        latency_objective,
        rerun_failed_batches,
        mixed_priority_batching_policy,
        low_priority,
    } = options;
    let Value::Object(shown) = json!({
        "max_batch_size": max_batch_size,
        "batch_timeout_micros": batch_timeout_micros,
        "max_enqueued_batches": max_enqueued_batches,
        "allowed_batch_sizes": allowed_batch_sizes,
        "pad_variable_length_inputs": pad_variable_length_inputs,
        "enable_large_batch_splitting": enable_large_batch_splitting,
        "max_execution_batch_size": options.execution_size(),
        "latency_objective_millis": latency_objective.map(millis),
        "rerun_failed_batches": rerun_failed_batches,
        "mixed_priority_batching_policy": mixed_priority_batching_policy.name(),
        "low_priority_max_batch_size": low_priority.max_batch_size,
        "low_priority_batch_timeout_micros": low_priority.batch_timeout_micros,
        "low_priority_max_enqueued_batches": low_priority.max_enqueued_batches,
    }) else {
        unreachable!("an object was made")
    };
    shown
}

/// The parameters that have their default values.
fn defaults(options: &BatchingOptions) -> Vec<String> {
    let defaults = of_options(&BatchingOptions::default());
    of_options(options).into_iter().filter(|(name, value)| defaults[name] == *value).map(|(name, _)| name).collect()
}

fn of_queue(queue: &Queue) -> Value {
    let statistics: &Statistics = queue.queue().statistics();
    let (tally, standing) = (statistics.read(), statistics.standing());
    let mean = |rows: u64| (tally.batches() > 0).then(|| rows as f64 / tally.batches() as f64);
    let closed: Map<String, Value> =
        tally.closed.iter().map(|(closed, &count)| (closed.name().to_owned(), count.into())).collect();
    let dropped: Map<String, Value> =
        tally.dropped().into_iter().map(|(reason, count)| (reason.to_owned(), count.into())).collect();
    json!({
        "inputs": queue.inputs(),
        "outputs": queue.outputs(),
        "waiting_batches": standing.waiting_batches,
        "waiting_rows": standing.waiting_rows,
        "running_batches": standing.running_batches,
        "batches": tally.batches(),
        "rows": tally.rows(),
        "padding_rows": tally.padding(),
        "mean_rows_per_batch": mean(tally.rows()),
        "batches_closed_by": closed,
        "requests_dropped_by": dropped,
        "batches_run_again": tally.reruns,
        "requests_rescued": tally.rescued,
        "wait_micros": spread(&tally.waits),
        "sizes": tally.sizes.iter().map(|(&size, batches)| of_size(size, batches)).collect::<Vec<_>>(),
        "adaptive": queue.queue().explain().map(|explanation| of_objective(&explanation)),
    })
}

/// The state of the adaptive control for a latency objective.
fn of_objective(explanation: &Explanation) -> Value {
    let Explanation { objective, decision, is_attainable, margin, arrival_rate, utilization, run_times } = explanation;
    let run_times = run_times.iter().map(|&(size, mean, most)| {
        json!({"size": size, "mean_micros": micros(mean), "hardly_ever_beyond_micros": micros(most)})
    });
    json!({
        "latency_objective_millis": millis(*objective),
        "is_attainable": is_attainable,
        "target_size": decision.target_size,
        "wait_micros": micros(decision.wait),
        "max_waiting_rows": decision.max_waiting_rows,
        "explanation": {
            "rows_per_second": arrival_rate.round(),
            "utilization": (utilization * 1000.0).round() / 1000.0,
            "margin": (margin * 1000.0).round() / 1000.0,
            "run_times": run_times.collect::<Vec<_>>(),
        },
    })
}

fn of_size(size: usize, batches: &SizeTally) -> Value {
    json!({
        "size": size,
        "batches": batches.batches,
        "failed_batches": batches.failed,
        "rows": batches.rows,
        "padding_rows": batches.padding.sum as u64,
        "run_micros": {
            "mean": batches.mean().map(micros),
            "recent": micros(batches.recent),
            "longest": micros(batches.longest),
        },
    })
}

/// A cumulative histogram: the number of values below each limit.
fn spread(values: &Distribution) -> Value {
    let count = values.count();
    // JSON has no infinity, so that values beyond the last limit are left out.
    let below = |share| values.quantile_below(share).filter(|limit| limit.is_finite()).map(f64::round);
    json!({
        "count": count,
        "mean": (count > 0).then(|| (values.sum / count as f64).round()),
        "p50_below": below(0.5),
        "p90_below": below(0.9),
        "p99_below": below(0.99),
    })
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn micros(time: Duration) -> u64 {
    time.as_micros() as u64
}
