//! Copies of a booster as an ensemble of trees.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use servable_model::error::{Result, ServingError};
use servable_model::tensor::{ALIGNMENT, AlignedBytes, DType};
use servable_trees::{Description, Ensemble, Kind, Labels, MAX_FEATURES, Output, Rows, UnknownCategory};

use crate::booster::{FastConfig, RawBooster};
use crate::header::Header;

/// A loaded model.
pub struct Model {
    /// What it takes and returns.
    pub description: Description,
    /// What predicts.
    pub boosters: Boosters,
}

/// Several boosters of one model. A thread uses the same one each time, as far as possible.
pub struct Boosters {
    copies: Vec<Copied>,
}

struct Copied {
    /// For single rows of `float` and of `double`. Declared first, because it is dropped before the booster.
    fast: Mutex<[FastConfig; 2]>,
    booster: RawBooster,
}

impl Model {
    /// Describes loaded boosters, which are copies of each other.
    pub(crate) fn new(boosters: Vec<RawBooster>, header: &Header<'_>, labels: Labels) -> Result<Self> {
        let first = boosters.first().ok_or_else(|| ServingError::internal("no booster was loaded"))?;
        let columns = first.num_feature()?;
        if columns > MAX_FEATURES {
            return Err(ServingError::internal(format!("got {columns} features, want at most {MAX_FEATURES}")));
        }
        let width = first.width(Kind::Predictions)?;
        let contributions = first.width(Kind::Contributions)?;
        let output = match header.objective() {
            "binary" if width == 1 => Output::Binary(labels),
            "multiclass" | "multiclassova" => Output::Multiclass(labels),
            "lambdarank" | "rank_xendcg" => Output::Values("scores"),
            _ => Output::Values("predictions"),
        };
        let features = header.features(columns);
        let contribution_groups = contributions / (columns + 1);
        if width == 0 || contributions != contribution_groups * (columns + 1) {
            let text = format!("got {width} predictions and {contributions} contributions for {columns} features");
            return Err(ServingError::internal(text));
        }
        // A model that cannot predict must fail here, not at the first request. Bytes of ones are NaN.
        let row = AlignedBytes::from_slice(ALIGNMENT, &vec![0xff; columns * size_of::<f64>()]);
        let row = Rows::new(DType::DOUBLE, 1, columns, &row).expect("aligned memory of one row");
        first.predict(row, Kind::Predictions, &mut vec![0.0; width])?;
        // The library has no contributions for linear trees.
        let has_contributions = first.predict(row, Kind::Contributions, &mut vec![0.0; contributions]).is_ok();
        let contribution_groups = if has_contributions { contribution_groups } else { 0 };
        let copies = boosters.into_iter().map(|booster| Copied::new(booster, columns)).collect::<Result<_>>()?;
        let description = Description { features, width, output, contribution_groups };
        Ok(Self { description, boosters: Boosters { copies } })
    }
}

impl Copied {
    fn new(booster: RawBooster, columns: usize) -> Result<Self> {
        // SAFETY: `fast` is the first field, and is dropped before the booster.
        let fast = |dtype| unsafe { FastConfig::new(&booster, dtype, columns) };
        let fast = [fast(DType::FLOAT)?, fast(DType::DOUBLE)?];
        Ok(Self { fast: Mutex::new(fast), booster })
    }

    /// Predicts a row, unless another thread does so with this booster.
    fn predict_row(&self, row: Rows<'_>, results: &mut [f64]) -> Option<Result<()>> {
        let mut fast = self.fast.try_lock().ok()?;
        Some(fast[usize::from(row.dtype() == DType::DOUBLE)].predict(row, results))
    }
}

/// A number for the calling thread.
fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static NUMBER: usize = NEXT.fetch_add(1, Ordering::Relaxed);
    }
    NUMBER.with(|number| *number)
}

impl Ensemble for Boosters {
    type Number = f64;
    const PLATFORM: &'static str = "lightgbm";
    const RUNTIME: &'static str = "lightgbm";
    const UNKNOWN_CATEGORY: UnknownCategory = UnknownCategory::Missing;

    fn predict(&self, rows: Rows<'_>, kind: Kind, results: &mut [f64]) -> Result<()> {
        let count = self.copies.len();
        let own = thread_number() % count;
        if rows.len() == 1 && kind == Kind::Predictions {
            for index in (own..count).chain(0..own) {
                if let Some(done) = self.copies[index].predict_row(rows, results) {
                    return done;
                }
            }
        }
        // Without a free copy, or for several rows, a shared booster does not block.
        self.copies[own].booster.predict(rows, kind, results)
    }
}
