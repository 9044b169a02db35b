//! The executor of a model of boosted trees.

use std::time::{Duration, Instant};

use servable_model::call::Call;
use servable_model::error::{Result, ServingError, expect_memory};
use servable_model::executor::{Executor, RunOptions};
use servable_model::signature::Signature;
use servable_model::tensor::{ALIGNMENT, AlignedBytes, Buffer, DType, Strings, Tensor};

use crate::description::{Description, Labels, Output, Part};
use crate::matrix::{Rows, UnknownCategory, arrange};
use crate::numbers::Cell;

/// The number of results of a block of rows that is predicted at once. Between blocks, the deadline is checked. A block
/// also bounds the results that libraries keep for each thread.
const BLOCK_RESULTS: usize = 16_384;
const BLOCK_ROWS: usize = 1024;

/// What is computed for each row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The predictions.
    Predictions,
    /// The contribution of each feature to each group, and the bias.
    Contributions,
}

/// A loaded model of a library.
pub trait Ensemble: Send + Sync + 'static {
    /// The numbers that it returns.
    type Number: Cell;
    /// See [`Executor::platform`].
    const PLATFORM: &'static str;
    /// See [`Executor::runtime`].
    const RUNTIME: &'static str;
    /// What the library does with a category that it has not seen.
    const UNKNOWN_CATEGORY: UnknownCategory;

    /// Predicts at least one row, on the calling thread. `results` has room for exactly the results of the rows.
    ///
    /// May be called from any number of threads concurrently, if `is_concurrent`.
    ///
    /// # Errors
    ///
    /// The error of the library.
    fn predict(&self, rows: Rows<'_>, kind: Kind, results: &mut [Self::Number]) -> Result<()>;

    /// Whether several threads may predict concurrently.
    fn is_concurrent(&self) -> bool {
        true
    }
}

/// How large batches are divided among threads, and how long runs may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunLimits {
    /// The maximum number of threads of a run; 0 and 1 for the calling thread only.
    pub threads: usize,
    /// The minimum number of rows for each thread.
    pub rows_per_thread: usize,
    /// See [`Executor::longest_run`].
    pub longest_run: Option<Duration>,
}

/// Runs a model.
pub struct TreeExecutor<E> {
    ensemble: E,
    description: Description,
    limits: RunLimits,
}

impl<E: Ensemble> TreeExecutor<E> {
    /// Combines a model with its description.
    ///
    /// # Errors
    ///
    /// `INVALID_ARGUMENT` if the labels do not fit the classes.
    pub fn new(ensemble: E, description: Description, limits: RunLimits) -> Result<Self> {
        match &description.output {
            Output::Binary(labels) => labels.check(2)?,
            Output::Multiclass(labels) => labels.check(description.width)?,
            Output::Class(_) | Output::Values(_) | Output::Multilabel => {}
        }
        Ok(Self { ensemble, description, limits })
    }

    /// The results of all rows.
    fn results(&self, rows: Rows<'_>, kind: Kind, deadline: Option<Instant>) -> Result<Vec<E::Number>> {
        let width = match kind {
            Kind::Predictions => self.description.width,
            Kind::Contributions => self.description.contribution_groups * (rows.columns() + 1),
        };
        let len = rows.len() * width;
        // The results, and their bytes.
        expect_memory(len * size_of::<E::Number>() * 2)?;
        let mut results = vec![E::Number::default(); len];
        let threads = (rows.len() / self.limits.rows_per_thread.max(1)).min(self.limits.threads);
        if threads <= 1 || !self.ensemble.is_concurrent() {
            self.predict_blocks(rows, kind, &mut results, width, deadline)?;
            return Ok(results);
        }
        let share = rows.len().div_ceil(threads);
        std::thread::scope(|scope| {
            let mut parts = results.chunks_mut(share * width).enumerate();
            let first = parts.next();
            let predict = |(index, results): (usize, &mut [E::Number])| {
                let start = index * share;
                let rows = rows.range(start..rows.len().min(start + share));
                self.predict_blocks(rows, kind, results, width, deadline)
            };
            let others: Vec<_> = parts
                .map(|part| {
                    let builder = std::thread::Builder::new().name("servable-rows".to_owned());
                    builder.spawn_scoped(scope, move || predict(part))
                })
                .collect();
            let own = first.map_or(Ok(()), predict);
            let joined = others.into_iter().map(|thread| match thread {
                Ok(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                Err(error) => Err(ServingError::internal(format!("no thread for a part of a batch: {error}"))),
            });
            joined.fold(own, Result::and)
        })?;
        Ok(results)
    }

    fn predict_blocks(
        &self,
        rows: Rows<'_>,
        kind: Kind,
        results: &mut [E::Number],
        width: usize,
        deadline: Option<Instant>,
    ) -> Result<()> {
        let block = (BLOCK_RESULTS / width.max(1)).clamp(1, BLOCK_ROWS);
        for (index, results) in results.chunks_mut(block * width).enumerate() {
            let start = index * block;
            if start > 0 {
                Call::until(deadline).check()?;
            }
            self.ensemble.predict(rows.range(start..rows.len().min(start + block)), kind, results)?;
        }
        Ok(())
    }

    /// A part of what was predicted, as a tensor.
    fn part(&self, part: Part, results: &[E::Number], rows: usize) -> Tensor {
        let width = self.description.width;
        match (&self.description.output, part) {
            (Output::Binary(_), Part::Probabilities) => {
                let pairs: Vec<_> = results.iter().flat_map(|&second| [second.complement(), second]).collect();
                tensor(&pairs, &[rows, 2])
            }
            (Output::Binary(labels), Part::Labels) => {
                labelled(labels, results.iter().map(|second| usize::from(second.to_f64() > 0.5)))
            }
            (Output::Multiclass(labels), Part::Labels) => labelled(labels, results.chunks_exact(width).map(largest)),
            (Output::Class(labels), Part::Labels) => {
                labelled(labels, results.iter().map(|class| class.to_f64() as usize))
            }
            (Output::Multilabel, Part::Labels) => {
                numbers(results.iter().map(|each| i64::from(each.to_f64() > 0.5)), &[rows, width])
            }
            (Output::Values(_), _) if width == 1 => tensor(results, &[rows]),
            (_, Part::Contributions) => self.contributions(results, rows),
            _ => tensor(results, &[rows, width]),
        }
    }

    fn contributions(&self, results: &[E::Number], rows: usize) -> Tensor {
        let columns = self.description.features.len() + 1;
        match self.description.contribution_groups {
            1 => tensor(results, &[rows, columns]),
            groups => tensor(results, &[rows, groups, columns]),
        }
    }
}

impl<E: Ensemble> Executor for TreeExecutor<E> {
    fn run(
        &self,
        signature: &Signature,
        inputs: Vec<Tensor>,
        outputs: &[usize],
        options: &RunOptions,
    ) -> Result<Vec<Tensor>> {
        let features = &self.description.features;
        let arranged = arrange(features, signature, &inputs)?;
        let matrix = arranged.matrix::<E::Number>(features, E::UNKNOWN_CATEGORY)?;
        let rows = matrix.rows();
        let (mut predictions, mut contributions) = (None, None);
        let compute = |kind| self.results(rows, kind, options.deadline);
        let part = |&output: &usize| {
            let spec = &signature.outputs[output];
            let missing = || ServingError::internal(format!("the model has no output {}", spec.alias));
            match Part::of(&spec.tensor_name).ok_or_else(missing)? {
                Part::Contributions => {
                    let results = match &mut contributions {
                        Some(results) => results,
                        none => none.insert(compute(Kind::Contributions)?),
                    };
                    Ok(self.contributions(results, rows.len()))
                }
                part => {
                    let results = match &mut predictions {
                        Some(results) => results,
                        none => none.insert(compute(Kind::Predictions)?),
                    };
                    Ok(self.part(part, results, rows.len()))
                }
            }
        };
        outputs.iter().map(part).collect()
    }

    fn check_inputs(&self, signature: &Signature, inputs: &[Tensor]) -> Result<()> {
        arrange(&self.description.features, signature, inputs).map(drop)
    }

    fn is_repeatable(&self) -> bool {
        true
    }

    fn platform(&self) -> &'static str {
        E::PLATFORM
    }

    fn runtime(&self) -> &'static str {
        E::RUNTIME
    }

    fn longest_run(&self) -> Option<Duration> {
        self.limits.longest_run
    }

    fn own_threads(&self) -> Option<usize> {
        (!self.ensemble.is_concurrent()).then_some(1)
    }
}

/// The position of the first of the largest numbers, as `numpy.argmax` returns it; NaN is the largest.
fn largest<C: Cell>(scores: &[C]) -> usize {
    let mut best = 0;
    for (index, score) in scores.iter().enumerate() {
        let (score, leader) = (score.to_f64(), scores[best].to_f64());
        if !leader.is_nan() && (score > leader || score.is_nan()) {
            best = index;
        }
    }
    best
}

fn tensor<C: Cell>(values: &[C], shape: &[usize]) -> Tensor {
    let mut bytes = AlignedBytes::with_capacity(ALIGNMENT, size_of_val(values));
    C::append(values, &mut bytes);
    Tensor::from_numbers(C::DTYPE, shape.iter().map(|&size| size as i64).collect(), Buffer::Owned(bytes))
}

fn numbers(values: impl ExactSizeIterator<Item = i64>, shape: &[usize]) -> Tensor {
    let mut bytes = AlignedBytes::with_capacity(ALIGNMENT, values.len() * size_of::<i64>());
    values.for_each(|value| bytes.extend_from_slice(&value.to_le_bytes()));
    Tensor::from_numbers(DType::INT64, shape.iter().map(|&size| size as i64).collect(), Buffer::Owned(bytes))
}

/// The labels of classes, of which each row has one.
fn labelled(labels: &Labels, classes: impl ExactSizeIterator<Item = usize>) -> Tensor {
    let rows = classes.len();
    match labels {
        Labels::Positions => numbers(classes.map(|class| class as i64), &[rows]),
        Labels::Numbers(numbers_of) => {
            numbers(classes.map(|class| numbers_of.get(class).copied().unwrap_or(class as i64)), &[rows])
        }
        Labels::Texts(texts) => {
            let strings: Strings = classes.map(|class| texts.get(class).map_or("", String::as_str)).collect();
            Tensor::from_strings(vec![rows as i64], strings)
        }
    }
}

#[cfg(test)]
mod tests {
    use servable_model::error::Code;
    use servable_model::signature::DEFAULT_SIGNATURE;

    use super::*;
    use crate::description::{COLUMNS, signatures};
    use crate::matrix::{Categories, Feature};

    /// Returns the sum of each row, and each value with the sum as its contributions.
    struct Sums;

    impl Ensemble for Sums {
        type Number = f32;
        const PLATFORM: &'static str = "sums";
        const RUNTIME: &'static str = "sums";
        const UNKNOWN_CATEGORY: UnknownCategory = UnknownCategory::Refused;

        fn predict(&self, rows: Rows<'_>, kind: Kind, results: &mut [f32]) -> Result<()> {
            let values: Vec<f32> = rows.bytes().as_chunks().0.iter().map(|&each| f32::from_le_bytes(each)).collect();
            let width = results.len() / rows.len();
            for (row, results) in values.chunks_exact(rows.columns()).zip(results.chunks_exact_mut(width)) {
                let sum = row.iter().sum();
                match kind {
                    Kind::Predictions => results.fill(sum),
                    Kind::Contributions => {
                        results[..row.len()].copy_from_slice(row);
                        results[row.len()] = sum;
                    }
                }
            }
            Ok(())
        }
    }

    fn description(output: Output, width: usize) -> Description {
        let color = Feature { name: "color".into(), categories: Some(Categories::of_strings([&b"blue"[..], b"gold"])) };
        let features = vec![Feature { name: "size".into(), categories: None }, color];
        Description { features, width, output, contribution_groups: 1 }
    }

    fn run(
        output: Output,
        signature: &str,
        inputs: Vec<Tensor>,
        limits: RunLimits,
        options: &RunOptions,
    ) -> Result<Vec<Tensor>> {
        let description = description(output, 1);
        let signature = signatures(&description, DType::FLOAT).remove(signature).unwrap();
        let outputs: Vec<usize> = (0..signature.outputs.len()).collect();
        TreeExecutor::new(Sums, description, limits)?.run(&signature, inputs, &outputs, options)
    }

    const ONE_THREAD: RunLimits = RunLimits { threads: 1, rows_per_thread: 1, longest_run: None };

    fn floats(tensor: &Tensor) -> Vec<f32> {
        let servable_model::tensor::Elements::Numbers(buffer) = tensor.elements() else { panic!("no numbers") };
        buffer.as_ref().as_chunks().0.iter().map(|&each| f32::from_le_bytes(each)).collect()
    }

    fn matrix(rows: usize) -> Tensor {
        let values: Vec<f32> = (0..rows * 2).map(|each| each as f32).collect();
        tensor(&values, &[rows, 2])
    }

    #[test]
    fn threads_and_blocks_do_not_change_results() {
        let rows = 2 * BLOCK_ROWS + 17;
        let wanted: Vec<f32> = (0..rows).map(|row| (4 * row + 1) as f32).collect();
        for (threads, rows_per_thread) in [(1, 1), (3, 1), (3, 1000), (64, 1), (0, 0)] {
            let limits = RunLimits { threads, rows_per_thread, longest_run: None };
            let found = run(Output::Values("y"), DEFAULT_SIGNATURE, vec![matrix(rows)], limits, &RunOptions::default());
            assert_eq!(floats(&found.unwrap()[0]), wanted);
        }
    }

    #[test]
    fn a_run_ends_between_blocks_at_its_deadline() {
        let options = RunOptions { deadline: Some(Instant::now()) };
        let run = |rows| run(Output::Values("y"), DEFAULT_SIGNATURE, vec![matrix(rows)], ONE_THREAD, &options);
        assert_eq!(run(BLOCK_ROWS + 1).unwrap_err().code, Code::DeadlineExceeded);
        // What is one call of the library cannot be interrupted.
        assert!(run(BLOCK_ROWS).is_ok());
    }

    #[test]
    fn columns_are_gathered_by_category() {
        let strings = |strings: &[&str]| {
            Tensor::from_strings(vec![strings.len() as i64], strings.iter().copied().collect::<Strings>())
        };
        // In the order of names, as in the signature.
        let columns = |colors: &[&str]| vec![strings(colors), tensor(&[1.0_f32, 2.0, 3.0], &[3, 1])];
        let run = |colors: &[&str], signature| {
            run(Output::Values("y"), signature, columns(colors), ONE_THREAD, &RunOptions::default())
        };
        let found = run(&["gold", "blue", ""], "columns_contributions").unwrap();
        let found = floats(&found[0]);
        assert_eq!(found[..6], [1.0, 1.0, 2.0, 2.0, 0.0, 2.0]);
        assert_eq!(found[6..7], [3.0]);
        assert!(found[7].is_nan() && found[8].is_nan());
        for (colors, complaint) in [
            (&["gold", "green", ""][..], "input \"color\": the model has no category \"green\""),
            (&["gold", "blue"], "input \"size\" has 3 rows, and input \"color\" 2"),
        ] {
            assert_eq!(run(colors, COLUMNS).unwrap_err().text(), complaint);
        }
    }

    #[test]
    fn a_binary_model_returns_both_probabilities_and_labels() {
        let labels = || Labels::Texts(vec!["no".into(), "yes".into()]);
        let rows = tensor(&[0.25_f32, 0.0, 0.25, 0.5], &[2, 2]);
        let found = run(Output::Binary(labels()), DEFAULT_SIGNATURE, vec![rows], ONE_THREAD, &RunOptions::default());
        let [names, probabilities] = &found.unwrap()[..] else { panic!("two outputs") };
        assert_eq!(floats(probabilities), [0.75, 0.25, 0.25, 0.75]);
        let servable_model::tensor::Elements::Strings(names) = names.elements() else { panic!("no strings") };
        assert_eq!([names.get(0), names.get(1)], [b"no", b"yes".as_slice()]);
        let three = description(Output::Multiclass(labels()), 3);
        let error = TreeExecutor::new(Sums, three, ONE_THREAD).err().unwrap();
        assert_eq!(error.text(), "got 2 class labels, want 3 as the model has");
    }

    #[test]
    fn the_first_of_the_largest_scores_counts() {
        assert_eq!(largest(&[1.0_f32, 3.0, 3.0]), 1);
        assert_eq!(largest(&[1.0, f32::NAN, 3.0]), 1);
        assert_eq!(largest(&[f64::NEG_INFINITY]), 0);
    }
}
