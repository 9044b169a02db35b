//! The rows of an open table, and which row an id or key has.

use std::path::PathBuf;

use servable_model::error::{Code, Result, ServingError};

use crate::keys::Keys;
use crate::layout::{Layout, Scales};
use crate::mapping::Mapping;
use crate::options::Unknown;
use crate::place::{Place, shown};

/// Where the bytes of a table are.
pub(crate) enum Store {
    Mapped(Mapping),
    Owned(Vec<u8>),
}

impl Store {
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Mapped(mapping) => mapping.bytes(),
            Self::Owned(bytes) => bytes,
        }
    }
}

/// An open table.
pub(crate) struct Table {
    path: PathBuf,
    store: Store,
    layout: Layout,
    keys: Option<Keys>,
    unknown: Unknown,
    /// The number of rows that ids and keys name. Behind them are the buckets of unknown ones.
    known: usize,
}

impl Table {
    /// Combines the parts of a table. The layout must lie within the bytes.
    ///
    /// # Errors
    ///
    /// `DATA_LOSS` if the number of keys does not fit, `INVALID_ARGUMENT` if the option for unknown keys does not.
    pub(crate) fn new(
        path: PathBuf,
        store: Store,
        layout: Layout,
        keys: Option<(Keys, PathBuf)>,
        unknown: Unknown,
    ) -> Result<Self> {
        let rows = layout.rows;
        let refused = |problem| Err(ServingError::invalid_argument(format!("{}: {problem}", path.display())));
        let buckets = match unknown {
            Unknown::Row(row) if row >= rows => {
                return refused(format!("got the option \"unknown_row\" {row}, want 0 to {}", rows - 1));
            }
            Unknown::Hash(buckets) if buckets >= rows => {
                return refused(format!("got {buckets} as the option \"hash_buckets\", want fewer than {rows} rows"));
            }
            Unknown::Hash(buckets) => buckets,
            _ => 0,
        };
        let known = rows - buckets;
        if let Some((keys, file)) = &keys
            && keys.len() != known
        {
            let of = if buckets > 0 { format!(" ({rows} rows without {buckets} buckets)") } else { String::new() };
            return Err(Place(file).wrong(format!(
                "got {} keys, want {known} as the table {} has{of}",
                keys.len(),
                path.display()
            )));
        }
        Ok(Self { path, store, layout, keys: keys.map(|(keys, _)| keys), unknown, known })
    }

    pub(crate) fn rows(&self) -> usize {
        self.layout.rows
    }

    pub(crate) fn width(&self) -> usize {
        self.layout.width
    }

    /// The number of rows that are not buckets.
    pub(crate) fn known(&self) -> usize {
        self.known
    }

    pub(crate) fn keys(&self) -> Option<&Keys> {
        self.keys.as_ref()
    }

    /// The bytes of a row, if they are float32.
    pub(crate) fn float_bytes(&self, row: usize) -> Option<&[u8]> {
        (self.layout.kind == crate::numbers::Kind::Float32).then(|| self.row(row))
    }

    fn row(&self, row: usize) -> &[u8] {
        let size = self.layout.row_size();
        &self.store.bytes()[self.layout.start + row * size..][..size]
    }

    /// Combines each number of a row with an element of `into`, in order.
    #[inline]
    pub(crate) fn fold_row(&self, row: usize, into: &mut [f32], put: impl Fn(&mut f32, f32)) {
        let scale = match self.layout.scales {
            None => 1.0,
            Some(Scales::One(start)) => self.scale(start),
            Some(Scales::Rows(start)) => self.scale(start + row * size_of::<f32>()),
        };
        self.layout.kind.fold_row(self.row(row), scale, into, put);
    }

    fn scale(&self, start: usize) -> f32 {
        self.store.bytes()[start..].first_chunk().map_or(0.0, |&bytes| f32::from_le_bytes(bytes))
    }

    /// Reads a row.
    pub(crate) fn read_row(&self, row: usize, into: &mut [f32]) {
        self.fold_row(row, into, |into, number| *into = number);
    }

    /// The row of an id; `None` for zeros.
    ///
    /// # Errors
    ///
    /// `INVALID_ARGUMENT` if there is none and unknown ids are errors.
    pub(crate) fn row_of_id(&self, id: i64) -> Result<Option<usize>> {
        match usize::try_from(id) {
            Ok(row) if row < self.known => Ok(Some(row)),
            _ => self.unknown(
                || id.to_string().into_bytes(),
                || format!("input \"ids\": got {id}, want 0 to {}", self.known - 1),
            ),
        }
    }

    /// The row of a key; `None` for zeros.
    ///
    /// # Errors
    ///
    /// `INVALID_ARGUMENT` if there is none and unknown keys are errors.
    pub(crate) fn row_of_key(&self, key: &[u8]) -> Result<Option<usize>> {
        match self.keys.as_ref().and_then(|keys| keys.find(key)) {
            Some(row) => Ok(Some(row)),
            None => {
                self.unknown(|| key.to_vec(), || format!("input \"keys\": there is no key {} in the table", shown(key)))
            }
        }
    }

    /// The row of what is not in the table. Buckets are chosen as in `tf.lookup.StaticVocabularyTable`.
    fn unknown(&self, text: impl Fn() -> Vec<u8>, problem: impl Fn() -> String) -> Result<Option<usize>> {
        match self.unknown {
            Unknown::Error => Err(ServingError::invalid_argument(problem())),
            Unknown::Zeros => Ok(None),
            Unknown::Row(row) => Ok(Some(row)),
            Unknown::Hash(buckets) => {
                Ok(Some(self.known + (farmhash::fingerprint64(&text()) % buckets as u64) as usize))
            }
        }
    }

    /// Checks that what was read came from the file.
    ///
    /// # Errors
    ///
    /// `DATA_LOSS` if the file was cut short after it was opened.
    pub(crate) fn expect_whole(&self) -> Result<()> {
        let Store::Mapped(mapping) = &self.store else { return Ok(()) };
        mapping.is_whole().map_err(|size| {
            let wanted = mapping.bytes().len();
            let problem = format!("the file was cut short while it was served: got {size} bytes, want {wanted}");
            ServingError::new(Code::DataLoss, format!("{}: {problem}", self.path.display()))
        })
    }

    /// Reads all numbers.
    ///
    /// # Errors
    ///
    /// `DATA_LOSS` with the first row that has NaN or an infinite number.
    pub(crate) fn expect_finite(&self) -> Result<()> {
        let mut numbers = vec![0.0; self.width()];
        for row in 0..self.rows() {
            self.read_row(row, &mut numbers);
            if let Some(odd) = numbers.iter().find(|number| !number.is_finite()) {
                self.expect_whole()?;
                return Err(Place(&self.path).wrong(format!("row {row}: got {odd}, want finite numbers")));
            }
        }
        self.expect_whole()
    }
}
